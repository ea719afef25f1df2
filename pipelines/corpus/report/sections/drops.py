"""Why documents were dropped, and by how much those that stayed were changed."""

from dataclasses import dataclass

from pipelines.corpus.ledger import STAGES, Ledger, Stage
from pipelines.corpus.report import bysource
from pipelines.corpus.report.numbers import percentage


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Documents of a source that one stage dropped for one reason."""

    stage: str
    source: str
    reason: str
    documents: int
    bytes: int
    share: float
    """Of the documents that entered the stage, in per cent."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Bytes that one stage added to (positive) or removed from documents that stay."""

    stage: str
    source: str
    reason: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Drops:
    """What was dropped and changed."""

    reasons: list[Reason]
    """Over all sources."""
    by_source: list[Reason]
    changes: list[Change]
    unjudged: dict[str, int]
    """Documents that rules would have dropped but cannot judge, by rule."""


def section(ledger: Ledger, unjudged: dict[str, dict[str, int]]) -> Drops:
    """What was dropped and changed, in the order of the stages; `unjudged` are by source and rule."""
    totals: dict[str, int] = {}
    for rules in unjudged.values():
        for rule, documents in rules.items():
            totals[rule] = totals.get(rule, 0) + documents
    rows = bysource.rows(bysource.by_size(ledger))
    counts = {label: bysource.summed(ledger, members) for label, members in rows.items()}
    return Drops(
        reasons=reasons({bysource.ALL: bysource.summed(ledger, ledger.sources)}),
        by_source=reasons(counts),
        changes=changes(counts),
        unjudged=dict(sorted(totals.items())),
    )


def reasons(counts: dict[str, bysource.Stages]) -> list[Reason]:
    """The reasons of each stage and source, most frequent first."""
    found = []
    for stage in STAGES:
        for source, stages in counts.items():
            entered = stages.get(stage, Stage())
            for reason, lost in sorted(entered.dropped.items(), key=lambda item: -item[1]["documents"]):
                found.append(
                    Reason(
                        stage=bysource.STAGE_TITLES[stage],
                        source=source,
                        reason=reason,
                        documents=lost["documents"],
                        bytes=lost["bytes"],
                        share=percentage(lost["documents"], entered.documents_in),
                    )
                )
    return found


def changes(counts: dict[str, bysource.Stages]) -> list[Change]:
    """The changes of each stage and source."""
    return [
        Change(stage=bysource.STAGE_TITLES[stage], source=source, reason=reason, bytes=size)
        for stage in STAGES
        for source, stages in counts.items()
        for reason, size in sorted(stages.get(stage, Stage()).bytes_delta.items())
    ]
