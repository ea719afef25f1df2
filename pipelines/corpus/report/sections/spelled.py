"""Special tokens that texts of the version spell."""

from dataclasses import dataclass

from pipelines.corpus.report.bysource import largest


@dataclass(frozen=True, kw_only=True)
class Spelled:
    """How often texts spell special tokens, and what became of that."""

    became: str
    """What `tokenize.special_tokens` makes of them: text or tokens."""
    tokens: list[str]
    """Special tokens that texts spell."""
    rows: dict[str, list[int]]
    """How often, by source and token."""


def section(counts: dict[str, dict[str, int]], became: str) -> Spelled | None:
    """What texts spell; `counts` are by source and token."""
    tokens = sorted({token for found in counts.values() for token in found})
    rows = {source: [found.get(token, 0) for token in tokens] for source, found in largest(counts).items()}
    return Spelled(became=became, tokens=tokens, rows=rows) if rows else None
