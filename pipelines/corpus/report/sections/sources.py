"""What the version holds of each source, and what the mixture takes of it."""

from dataclasses import dataclass

from markupsafe import Markup

from base.manifest import SourceTotals
from pipelines.corpus.report import pictures
from pipelines.corpus.report.bysource import PICTURED, rows
from pipelines.corpus.report.numbers import percentage


@dataclass(frozen=True, kw_only=True)
class Row:
    """One source, or several, in the whole version."""

    source: str
    documents: int
    heldout: int
    """Documents held out."""
    text_bytes: int
    tokens: int
    bytes_per_token: float | None
    share: float
    """Of the tokens, in per cent."""
    weight: float
    """Of the mixture, in per cent."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The sources of the whole version."""

    weighted: bool
    """Whether the mixture has weights."""
    picture: Markup | None
    rows: list[Row]


def section(sources: dict[str, SourceTotals]) -> Sources:
    """Documents, tokens and share of the mixture of each source over the whole version."""
    order = sorted(sources, key=lambda name: (-sources[name].tokens, name))
    totals = {label: summed([sources[name] for name in names]) for label, names in rows(order).items()}
    weighted = any(total.weight for total in totals.values())
    weights = {label: (total.weight or 0.0) if weighted else total.tokens for label, total in totals.items()}
    tokens, whole = sum(total.tokens for total in totals.values()), sum(weights.values())
    shown = [
        Row(
            source=label,
            documents=total.documents,
            heldout=total.heldout_documents,
            text_bytes=total.text_bytes,
            tokens=total.tokens,
            bytes_per_token=total.text_bytes / total.tokens if total.tokens else None,
            share=percentage(total.tokens, tokens),
            weight=percentage(weights[label], whole),
        )
        for label, total in totals.items()
    ]
    return Sources(weighted=weighted, picture=_picture(shown) if shown and weighted else None, rows=shown)


def summed(sources: list[SourceTotals]) -> SourceTotals:
    """The sums of some sources."""
    return SourceTotals(
        weight=sum(source.weight or 0.0 for source in sources),
        documents=sum(source.documents for source in sources),
        tokens=sum(source.tokens for source in sources),
        text_bytes=sum(source.text_bytes for source in sources),
        heldout_documents=sum(source.heldout_documents for source in sources),
    )


def _picture(shown: list[Row]) -> Markup:
    """The shares of the largest sources."""
    shown = shown[:PICTURED]
    return pictures.shares(
        [row.source for row in shown], [row.share for row in shown], [row.weight for row in shown]
    )
