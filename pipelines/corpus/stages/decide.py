"""From measured columns to the documents that stay: the quality decision of a part.

Reads attributes only, never text, so that a changed threshold costs seconds.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import files
from base.manifest import LedgerCounts
from base.records import Mark, made
from dedup import hashing
from dedup.catalog import Entries
from pipelines.corpus.ledger import Ledger, add_counts
from pipelines.corpus.reading.settings import Kind, SourceConfig
from pipelines.corpus.settings import ScoreConfig
from pipelines.corpus.stages.identical import Numbered, ordinals_of
from pipelines.corpus.stages.measure import Measured
from pipelines.corpus.stages.score import Scored, decide_score
from pipelines.corpus.stages.stage import Stage
from pipelines.corpus.text import plugins, quality
from pipelines.corpus.text.settings import LanguageConfig, QualityConfig
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress

STAGE = "quality"
"""The stage of the ledger."""


class DecisionCounts(Mark):
    """What the decision about a part counted; written last."""

    part: str
    ledger: LedgerCounts
    """Of the stage quality (`Ledger.to_json`)."""
    languages: dict[str, dict[str, int]]
    """Documents by source and language, before any is dropped."""
    unjudged: dict[str, dict[str, int]]
    """Documents by source and rule that break a rule which cannot judge their script."""


@dataclass(frozen=True, kw_only=True)
class DecidePart:
    """What the decision about one part needs."""

    part: str
    attributes: str
    number: int
    """Number of the part in the order of identical documents."""
    ordinals: str
    """Where its ordinals are (identical.py)."""
    source: SourceConfig
    quality: QualityConfig
    language: LanguageConfig
    score: ScoreConfig
    filters: list[str]
    scores: str | None
    """Table of the part's scores, row-aligned with the attributes; None if there are none."""
    entries: str
    dropped: str
    counts: str

    def output(self, kind: str) -> str:
        """Where the entries or the dropped documents go."""
        return self.entries if kind == "entries" else self.dropped


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The documents that are clean enough, by part in the order of the inputs."""

    key: str
    entries: list[Entries]
    """Tables of the documents that stay, as dedup/ takes them."""
    dropped: list[str]
    """Tables of the others, with the reason."""
    ledger: Ledger
    """Of the stage quality."""
    languages: dict[str, dict[str, int]]
    """Documents by source and language, before any is dropped."""
    unjudged: dict[str, dict[str, int]]
    """Documents by source and rule that break a rule which cannot judge their script."""


@dataclass(frozen=True, kw_only=True)
class Decide(Stage):
    """Apply the thresholds of quality, language and scores to the measured columns."""

    name: ClassVar[str] = "decide"
    version: ClassVar[int] = 2
    measured: Measured
    numbered: Numbered
    scored: Scored
    sources: dict[str, SourceConfig]
    quality: QualityConfig
    language: LanguageConfig
    score: ScoreConfig
    filters: list[str]
    """Import paths of filters of somebody else, whose columns are measured."""

    def run(self, executor: Executor, progress: Progress) -> Decided:
        """Decide about the parts that are not decided."""
        layout, attributes = self.measured.layout, self.measured.attributes
        tasks = [
            DecidePart(
                part=item.part,
                attributes=attributes[number],
                number=number,
                ordinals=self.numbered.ordinals[number],
                source=self.sources[item.source],
                quality=self.quality,
                language=self.language,
                score=self.score,
                filters=self.filters,
                scores=self.scored.tables.get(item.part),
                entries=layout.work(self.name, self.key, f"{item.part}.entries.parquet"),
                dropped=layout.work(self.name, self.key, f"{item.part}.dropped.parquet"),
                counts=layout.work(self.name, self.key, f"{item.part}.json"),
            )
            for number, item in enumerate(self.measured.inputs)
        ]
        ledger, languages, unjudged = Ledger(), dict[str, dict[str, int]](), dict[str, dict[str, int]]()
        count = Counter(progress, self.name, 0, len(tasks))
        entries = []
        values = executor.run_tasks(decide_part, tasks, count)
        for task, value in zip(tasks, values, strict=True):
            counts = DecisionCounts.from_json(value, "the counts of a decision")
            part = Ledger.from_json(counts.ledger)
            kept = sum(stages[STAGE].documents_out for stages in part.sources.values())
            entries.append(Entries(task.entries, task.part, kept))
            ledger.add(part)
            add_counts(languages, counts.languages)
            add_counts(unjudged, counts.unjudged)
        return Decided(
            key=self.key,
            entries=entries,
            dropped=[task.dropped for task in tasks],
            ledger=ledger,
            languages=languages,
            unjudged=unjudged,
        )


def decide_part(task: DecidePart) -> dict[str, Any]:
    """Write the entries (documents that stay) and the dropped documents of one part.

    Returns the DecisionCounts as JSON; their file is written last and makes the task a no-op.
    """
    finished = DecisionCounts.finished(task.counts, task.output)
    if finished is not None:
        return finished.to_json()
    table = files.read_parquet(task.attributes)
    if task.scores is not None:
        scores = files.read_parquet(task.scores)
        for name in scores.column_names:
            table = table.append_column(name, scores[name])
    ordinals = ordinals_of(task.ordinals, task.number, table.num_rows)
    identifiers = hashing.add_ordinals(table["document_id"], ordinals)
    names = table["source"].cast(pa.string())
    reason = np.full(table.num_rows, None, object)
    value = np.full(table.num_rows, np.nan)
    unjudged = {}
    for name in sorted(pc.unique(names).to_pylist()):
        mask = pc.equal(names, name).to_numpy(zero_copy_only=False)
        mine = table.filter(pa.array(mask))
        policy = task.source.model_copy(update={"kind": task.source.kind_of(name)})
        reasons, values = _decide(mine, policy, task)
        unjudged[name] = quality.count_unjudged(mine, policy, task.quality)
        reason[mask] = reasons.to_numpy(zero_copy_only=False)
        value[mask] = values
    reasons = pa.array(reason, pa.string())
    keep = pc.is_null(reasons)
    base = {
        "document_id": identifiers,
        "source": names.combine_chunks().dictionary_encode(),
        "part": pa.repeat(task.part, table.num_rows).dictionary_encode(),
        "row": pa.array(np.arange(table.num_rows, dtype=np.uint32)),
    }
    entries = pa.table(
        {
            **base,
            "text_hash": table["text_hash"],
            "rank": pa.repeat(pa.scalar(task.source.priority, pa.int32()), table.num_rows),
            "quality": pa.array(np.zeros(table.num_rows, np.float32)),
            "length": table["bytes"],
            "bands": table["bands"],
            "shingles": table["shingles"],
        }
    ).filter(keep)
    dropped = pa.table(
        {
            **base,
            "record": table["record"],
            "bytes": table["bytes"],
            "reason": reasons,
            "value": pa.array(value),
        }
    ).filter(pc.invert(keep))
    with files.together():
        files.write_parquet(task.entries, entries)
        files.write_parquet(task.dropped, dropped)
    ledger = Ledger()
    for row in table.group_by("source").aggregate([("bytes", "sum"), ("bytes", "count")]).to_pylist():
        stage = ledger.stage(row["source"], STAGE)
        stage.documents_in += row["bytes_count"]
        stage.bytes_in += row["bytes_sum"]
        stage.documents_out += row["bytes_count"]
        stage.bytes_out += row["bytes_sum"]
    count_dropped(ledger, STAGE, dropped)
    counts = DecisionCounts(
        part=task.part,
        ledger=ledger.to_json(),
        languages=count_languages(table),
        unjudged={name: rules for name, rules in unjudged.items() if rules},
        made=made(task.output, ("entries", "dropped")),
    )
    counts.write(task.counts)
    return counts.to_json()


def _decide(
    attributes: pa.Table, policy: SourceConfig, task: DecidePart
) -> tuple[pa.StringArray, np.ndarray]:
    """Which documents are dropped by the policy of their source: (reason or null, what was measured).

    Where several say so, the language comes first, then a score, a quality rule, a filter of somebody else.
    """
    reasons, measured = quality.decide(attributes, policy, task.quality)
    own, own_values = plugins.decide(attributes, task.filters)
    values = np.where(pc.is_valid(reasons).to_numpy(zero_copy_only=False), measured, own_values)
    reasons = pc.coalesce(reasons, own)
    for first, score in (
        decide_score(attributes, policy.kind, task.score),
        decide_language(attributes, policy.kind, task.language),
    ):
        values = np.where(pc.is_valid(first).to_numpy(zero_copy_only=False), score, values)
        reasons = pc.coalesce(first, reasons)
    return reasons, values


def decide_language(
    attributes: pa.Table, kind: Kind, config: LanguageConfig
) -> tuple[pa.StringArray, np.ndarray]:
    """Which documents are dropped for their language: (reason or null, probability of the language)."""
    if kind not in config.keep:
        return pa.nulls(attributes.num_rows, pa.string()), np.zeros(attributes.num_rows)
    score = attributes["language_score"].to_numpy().astype(np.float64)
    wanted = pc.is_in(attributes["language"].cast(pa.string()), pa.array(config.keep[kind], pa.string()))
    sure = pa.array(score >= np.float32(config.min_score))
    doubtful = pc.if_else(sure, pa.scalar(None, pa.string()), "language.min_score")
    reason = pc.if_else(wanted.combine_chunks(), doubtful, "language.keep")
    return reason, score


def count_languages(attributes: pa.Table) -> dict[str, dict[str, int]]:
    """Documents by source and language, before any of them is dropped."""
    counts: dict[str, dict[str, int]] = {}
    if "language" in attributes.column_names:
        table = attributes.select(["source", "language"])
        table = table.cast(pa.schema([("source", pa.string()), ("language", pa.string())]))
        groups = table.group_by(["source", "language"]).aggregate([([], "count_all")])
        for row in groups.sort_by([("source", "ascending"), ("language", "ascending")]).to_pylist():
            counts.setdefault(row["source"], {})[row["language"]] = row["count_all"]
    return counts


def count_dropped(ledger: Ledger, stage: str, dropped: pa.Table) -> None:
    """Move dropped documents of a stage from its out counts to its drop counts."""
    totals = dropped.group_by(["source", "reason"]).aggregate([("bytes", "sum"), ("bytes", "count")])
    for row in sorted(totals.to_pylist(), key=lambda row: (row["source"], row["reason"])):
        counts = ledger.stage(row["source"], stage)
        counts.drop(row["reason"], row["bytes_count"], row["bytes_sum"])
        counts.documents_out -= row["bytes_count"]
        counts.bytes_out -= row["bytes_sum"]
