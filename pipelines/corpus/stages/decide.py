"""From measured columns to the documents that stay: the quality decision of a part.

Reads attributes only, never text, so that a changed threshold costs seconds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import files
from dedup import hashing
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.reading.settings import Kind, SourceConfig
from pipelines.corpus.settings import ScoreConfig
from pipelines.corpus.stages.identical import ordinals_of
from pipelines.corpus.stages.score import decide_score
from pipelines.corpus.text import quality
from pipelines.corpus.text.settings import LanguageConfig, QualityConfig


@dataclass(frozen=True)
class Decide:
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
    scores: str | None
    """Table of the part's scores, row-aligned with the attributes; None if there are none."""
    entries: str
    dropped: str
    counts: str


def decide_part(task: Decide) -> dict[str, Any]:
    """Write the entries (documents that stay) and the dropped documents of one part.

    Returns {"part", "ledger"}; the counts file is written last and makes the task a no-op.
    """
    if files.exists(task.counts):
        counts: dict[str, Any] = files.read_json(task.counts)
        return counts
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
    for name in sorted(pc.unique(names).to_pylist()):
        mask = pc.equal(names, name).to_numpy(zero_copy_only=False)
        kind = task.source.kind_of(name)
        policy = task.source.model_copy(update={"kind": kind})
        mine = table.filter(pa.array(mask))
        why, measured = quality.decide(mine, policy, task.quality)
        reasons, values = why, measured.to_numpy(zero_copy_only=False)
        for first, score in (
            decide_score(mine, kind, task.score),
            decide_language(mine, kind, task.language),
        ):
            reasons, values = (
                pc.coalesce(first, reasons),
                np.where(pc.is_valid(first).to_numpy(zero_copy_only=False), score, values),
            )
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
    files.write_parquet(task.entries, entries)
    files.write_parquet(task.dropped, dropped)
    ledger = Ledger()
    for row in table.group_by("source").aggregate([("bytes", "sum"), ("bytes", "count")]).to_pylist():
        stage = ledger.stage(row["source"], "quality")
        stage.documents_in += row["bytes_count"]
        stage.bytes_in += row["bytes_sum"]
        stage.documents_out += row["bytes_count"]
        stage.bytes_out += row["bytes_sum"]
    count_dropped(ledger, "quality", dropped)
    counts = {"part": task.part, "ledger": ledger.to_json(), "languages": count_languages(table)}
    files.write_json(task.counts, counts)
    return counts


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
