"""Whether a stage dropped more of a source than its configuration allows: checks of the stages' results."""

import pyarrow as pa
import pyarrow.compute as pc

from base import files
from base.errors import UserError
from pipelines.corpus.ledger import STAGES, Ledger, Stage
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.stages.measure import Measured

EXAMPLES = 3
"""Dropped documents that a message names."""


class SourceLossError(UserError):
    """One stage dropped more of a source than its configuration allows."""


def check_reading(measured: Measured, sources: dict[str, SourceConfig]) -> None:
    """Raise SourceLossError if more records of a source were rejected than it may lose.

    A rejected record does not tell its name, so that the share is of all records of the source's files.
    """
    for name, counts in sorted(measured.read.items()):
        if _loses_too_much(counts, sources[name].max_loss):
            examples = _rejected(measured, name, empty=False)
            raise _loss(name, "read", counts, sources[name].max_loss, examples)


def check_cleaning(measured: Measured, sources: dict[str, SourceConfig]) -> None:
    """Raise SourceLossError if cleaning left no text of more documents of a source than it may lose."""
    for name, counts in sorted(measured.ledger.sources.items()):
        allowed, cleaned = _allowed(name, sources), counts.get("normalise")
        if cleaned and _loses_too_much(cleaned, allowed):
            raise _loss(name, "normalise", cleaned, allowed, _rejected(measured, name, empty=True))


def check(
    ledger: Ledger,
    stages: tuple[str, ...],
    dropped: list[str],
    *,
    measured: Measured,
    sources: dict[str, SourceConfig],
) -> None:
    """Raise SourceLossError if one of the stages of a ledger dropped more of a source than it may lose.

    dropped: tables of the documents that these stages dropped (columns source, part, row, reason).
    """
    for name, counts in sorted(ledger.sources.items()):
        allowed = _allowed(name, sources)
        for stage in stages:
            if stage in counts and _loses_too_much(counts[stage], allowed):
                raise _loss(name, stage, counts[stage], allowed, _dropped(measured, dropped, name))


def check_documents(ledger: Ledger, measured: Measured) -> None:
    """Raise UserError if no document is left for a corpus.

    ledger: of all stages.
    """
    if any(stages["tokenize"].documents_out for stages in ledger.sources.values() if "tokenize" in stages):
        return
    lost: dict[str, int] = {}
    for stages in ledger.sources.values():
        for stage, counts in stages.items():
            lost[stage] = lost.get(stage, 0) + counts.documents_dropped
    records = sum(counts.documents_in for counts in measured.read.values())
    stages_lost = ", ".join(f"{stage} {lost[stage]}" for stage in STAGES if lost.get(stage))
    raise UserError(
        f"no document is left for a corpus: the files hold {records} records"
        + (f", and these were dropped: {stages_lost}" if stages_lost else "")
    )


def _allowed(name: str, sources: dict[str, SourceConfig]) -> float:
    """The share that a source may lose; of a name in records, the least of the sources that may have it."""
    if name in sources:
        return sources[name].max_loss
    return min(source.max_loss for source in sources.values() if source.name_field)


def _loses_too_much(counts: Stage, allowed: float) -> bool:
    return counts.documents_dropped / max(counts.documents_in, 1) > allowed


def _loss(name: str, stage: str, counts: Stage, allowed: float, examples: list[str]) -> SourceLossError:
    lost = counts.documents_dropped / max(counts.documents_in, 1)
    reasons = ", ".join(f"{reason} {entry['documents']}" for reason, entry in sorted(counts.dropped.items()))
    return SourceLossError(
        f"source {name} loses {lost:.0%} of its {counts.documents_in} documents in "
        f"stage {stage} ({reasons}), more than max_loss {allowed:.0%}"
        + ("; examples: " + "; ".join(examples) if examples else "")
    )


def _dropped(measured: Measured, urls: list[str], source: str) -> list[str]:
    """Where some of the dropped documents of a source came from, with the reason."""
    by_part = {item.part: item.file for item in measured.inputs}
    examples: list[str] = []
    for url in urls:
        table = files.read_parquet(url, ["source", "part", "row", "reason"])
        table = table.filter(pc.equal(table["source"].cast(pa.string()), source))
        examples += [
            f"document {row['row']} of {by_part[row['part']]} ({row['reason']})"
            for row in table.slice(0, EXAMPLES).to_pylist()
        ]
        if len(examples) >= EXAMPLES:
            break
    return examples[:EXAMPLES]


def _rejected(measured: Measured, source: str, *, empty: bool) -> list[str]:
    """Some of the records that never became documents, with the reason; none where none are kept.

    empty: those of which cleaning left no text, else those that could not be read.
    """
    examples: list[str] = []
    sources_of = measured.sources_of
    for item, url in zip(measured.inputs, measured.rejects, strict=True):
        if source not in sources_of[item.part]:
            continue
        table = files.read_parquet(url, ["source", "file", "record", "reason"])
        is_empty = pc.equal(table["reason"], "empty_text")
        chosen = is_empty if empty else pc.invert(is_empty)
        table = table.filter(pc.and_(chosen, pc.equal(table["source"], source)))
        examples += [
            f"record {row['record']} of {row['file']} ({row['reason']})"
            for row in table.slice(0, EXAMPLES - len(examples)).to_pylist()
        ]
        if len(examples) == EXAMPLES:
            break
    return examples
