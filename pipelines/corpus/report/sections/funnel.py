"""What is left of every source after each stage."""

from dataclasses import dataclass

from markupsafe import Markup

from base.contents import ShardEntry
from base.manifest import Manifest
from pipelines.corpus.ledger import STAGES, Ledger, Stage
from pipelines.corpus.report import bysource, pictures
from pipelines.corpus.report.numbers import percentage, short_bytes, short_count
from pipelines.corpus.report.svg import SERIES


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is left after one stage, and its shares of the input in per cent."""

    documents: int
    bytes: int
    documents_share: float
    bytes_share: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One source, or several, from the input to the tokens."""

    source: str
    documents: int
    bytes: int
    cells: list[Left]
    """One a stage."""
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """What is left after each stage."""

    new: bool
    """Whether the input is only what is new in the version."""
    merged: str | None
    """The version of another corpus whose shards are the input."""
    picture: Markup
    stages: list[str]
    rows: list[Row]
    """All sources first."""


def section(manifest: Manifest, shards: list[ShardEntry], ledger: Ledger) -> Funnel:
    """The funnel of the input that a version added."""
    names = bysource.by_size(ledger)
    total = bysource.summed(ledger, names)
    stages = [name for name in STAGES if name in total]
    tokens = new_tokens(manifest.version, shards)
    rows = [_row(bysource.ALL, total, stages, sum(tokens.values()))]
    for label, members in bysource.rows(names).items():
        size = sum(tokens.get(name, 0) for name in members)
        rows.append(_row(label, bysource.summed(ledger, members), stages, size))
    return Funnel(
        new=manifest.parent is not None,
        merged=manifest.merged.version if manifest.merged else None,
        picture=_picture(ledger, names, stages),
        stages=[bysource.STAGE_TITLES[name] for name in stages],
        rows=rows,
    )


def new_tokens(version: str, shards: list[ShardEntry]) -> dict[str, int]:
    """Tokens of every source in the shards that a version added."""
    tokens: dict[str, int] = {}
    for shard in shards:
        if shard.version == version:
            tokens[shard.source] = tokens.get(shard.source, 0) + shard.tokens
    return tokens


def _row(label: str, counts: bysource.Stages, stages: list[str], tokens: int) -> Row:
    read = counts.get("read", Stage())
    return Row(
        source=label,
        documents=read.documents_in,
        bytes=read.bytes_in,
        cells=[
            Left(
                documents=after.documents_out,
                bytes=after.bytes_out,
                documents_share=percentage(after.documents_out, read.documents_in),
                bytes_share=percentage(after.bytes_out, read.bytes_in),
            )
            for after in (counts.get(stage, Stage()) for stage in stages)
        ],
        tokens=tokens,
    )


def _picture(ledger: Ledger, names: list[str], stages: list[str]) -> Markup:
    """Bars of the largest sources, as many as there are colours, and of the others together."""
    documents: dict[str, list[float]] = {}
    size: dict[str, list[float]] = {}
    for number, source in enumerate(names):
        counts = [ledger.sources[source].get(stage, Stage()) for stage in stages]
        label = source if number < len(SERIES) else "others"
        for bars, first, after in (
            (documents, counts[0].documents_in, [stage.documents_out for stage in counts]),
            (size, counts[0].bytes_in, [stage.bytes_out for stage in counts]),
        ):
            below = bars.get(label, [0] * (len(counts) + 1))
            bars[label] = [old + new for old, new in zip(below, [first, *after], strict=True)]
    steps = ["input", *(bysource.STAGE_TITLES[stage] for stage in stages)]
    return pictures.funnel(steps, {"documents": (documents, short_count), "bytes": (size, short_bytes)})
