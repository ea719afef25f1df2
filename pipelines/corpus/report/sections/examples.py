"""Examples of what was dropped: a few documents or records of each source and reason."""

from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from pipelines.corpus.ledger import STAGES, Ledger
from pipelines.corpus.report import parquet
from pipelines.corpus.report.bysource import STAGE_TITLES
from pipelines.corpus.report.excerpts import EXCERPT_CHARACTERS, Documents, Excerpt, Place, hexadecimal
from pipelines.corpus.stages.edit import EDIT_STAGES

EXAMPLES = 3
"""Examples of a source and reason."""
MAX_GROUPS = 150
"""Pairs of source and reason that examples are shown of."""
TABLE_STAGES = {
    "rejects": ("read", "normalise"),
    "quality": ("quality",),
    "duplicates": ("exact", "fuzzy"),
    "edits": EDIT_STAGES,
}
"""The stages that put rows into a table of dropped documents or rejects."""
_REJECT_COLUMNS = ["source", "file", "record", "reason", "detail", "sample"]
_DROPPED_COLUMNS = [
    *("part", "row", "source", "stage", "reason"),
    *("value", "kept_id", "kept_version", "similarity"),
]
_STAGE_OF_REASON = {
    "empty_text": "normalise",
    "exact_duplicate": "exact",
    "near_duplicate": "fuzzy",
}

Row = dict[str, Any]
"""A row of a table of dropped documents or rejects."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A dropped document or record: where it is, why it was dropped, and the beginning of its text."""

    place: str
    detail: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """The examples of one source and reason."""

    stage: str
    source: str
    reason: str
    examples: list[Example]


class Key(NamedTuple):
    """What the examples of a group share."""

    stage: str
    source: str
    reason: str


def section(
    ledger: Ledger, rejects: list[str], dropped: dict[str, list[str]], documents: Documents
) -> list[Group]:
    """Examples of the rejects, and of the documents in each table of dropped ones."""
    found = first_rows(ledger, "rejects", rejects, _REJECT_COLUMNS)
    for table, urls in dropped.items():
        found |= first_rows(ledger, table, urls, _DROPPED_COLUMNS)
    chosen = some_of_each(found)
    places = [_place(row) for rows in chosen.values() for row in rows if "part" in row]
    excerpts = documents.excerpts(places)
    return [
        Group(
            stage=STAGE_TITLES[key.stage],
            source=key.source,
            reason=key.reason,
            examples=[
                _of_dropped(row, documents, excerpts.get(_place(row))) if "part" in row else _of_reject(row)
                for row in rows
            ],
        )
        for key, rows in chosen.items()
    ]


def first_rows(ledger: Ledger, table: str, urls: list[str], columns: list[str]) -> dict[Key, list[Row]]:
    """The first EXAMPLES rows of each source and reason; reads until it has all that the ledger counts."""
    missing = {
        Key(stage, source, reason): min(EXAMPLES, lost["documents"])
        for stage in TABLE_STAGES[table]
        for source, stages in ledger.sources.items()
        if stage in stages
        for reason, lost in stages[stage].dropped.items()
        if lost["documents"]
    }
    found: dict[Key, list[Row]] = {}
    for rows in chain.from_iterable(parquet.row_groups(url, columns) for url in urls):
        for (source, reason), group in parquet.by_reason(rows):
            for row in group.slice(0, EXAMPLES).to_pylist():
                key = Key(_stage_of(table, row), source, reason)
                mine = found.setdefault(key, [])
                if len(mine) < EXAMPLES:
                    mine.append(row)
                    if len(mine) == missing.get(key):
                        del missing[key]
        if not missing:
            break
    return found


def some_of_each(found: dict[Key, list[Row]]) -> dict[Key, list[Row]]:
    """MAX_GROUPS of the groups, of every reason some before one has more of them, in the order shown."""
    groups: dict[str, int] = {}
    ranks = {}
    for key in found:
        ranks[key] = groups[key.reason] = groups.get(key.reason, -1) + 1
    chosen = sorted(found, key=lambda key: ranks[key])[:MAX_GROUPS]
    order = {stage: number for number, stage in enumerate(STAGES)}
    return {key: found[key] for key in sorted(chosen, key=lambda key: (order[key.stage], key[2], key[1]))}


def _stage_of(table: str, row: Row) -> str:
    """The stage that dropped a row of a table."""
    stage: str = row.get("stage") or _STAGE_OF_REASON.get(row["reason"], TABLE_STAGES[table][0])
    return stage


def _place(row: Row) -> Place:
    return row["part"], row["row"]


def _of_reject(row: Row) -> Example:
    return Example(
        place=f"{row['file']}, record {row['record']}",
        detail=row["detail"],
        text=(row["sample"] or "")[:EXCERPT_CHARACTERS],
    )


def _of_dropped(row: Row, documents: Documents, excerpt: Excerpt | None) -> Example:
    number = f"record {excerpt.record}" if excerpt else f"document {row['row']}"
    return Example(
        place=f"{documents.origin(row['part'])}, {number}",
        detail=_evidence(row),
        text=excerpt.text if excerpt else "",
    )


def _evidence(row: Row) -> str:
    """What made a stage drop a document."""
    facts = []
    if row.get("value") is not None:
        what = "n-grams of a benchmark" if row["reason"] == "contaminated" else "measured"
        facts.append(f"{what} {row['value']:.4g}")
    if row.get("similarity") is not None and row["reason"] != "exact_duplicate":
        facts.append(f"similarity {row['similarity']:.3f}")
    if row.get("kept_id") is not None:
        version = f" of {row['kept_version']}" if row.get("kept_version") else ""
        facts.append(f"kept {hexadecimal(row['kept_id'])}{version}")
    return ", ".join(facts)
