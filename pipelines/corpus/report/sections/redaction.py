"""Personal data and secrets that were replaced."""

from dataclasses import dataclass

from pipelines.corpus.report.bysource import largest
from pipelines.corpus.text import redact


@dataclass(frozen=True, kw_only=True)
class Redaction:
    """Spans replaced in the documents that stay."""

    kinds: list[str]
    """Kinds of personal data that were found."""
    rows: dict[str, list[int]]
    """Spans of each kind, by source."""


def section(counts: dict[str, dict[str, int]]) -> Redaction | None:
    """Replaced spans; `counts` are by source and kind of personal data."""
    kinds = [kind for kind in redact.KINDS if any(kind in spans for spans in counts.values())]
    rows = {source: [spans.get(kind, 0) for kind in kinds] for source, spans in largest(counts).items()}
    return Redaction(kinds=kinds, rows=rows) if rows else None
