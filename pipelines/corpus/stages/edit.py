"""What happens to the texts that stay: repeated spans and lines go, benchmark items and personal data too.

The cleaned copy on storage stays as it is. Whoever needs the final text (the tokenizer, the check of shards)
applies these edits while reading, so that a changed setting here never reads a source again.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup import lines, spans
from dedup.config import LinesConfig
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.text import decontaminate as contamination
from pipelines.corpus.text import plugins
from pipelines.corpus.text import redact as redaction
from pipelines.corpus.text.settings import DecontaminateConfig, RedactConfig

DROPS = pa.schema(
    [
        ("row", pa.uint32()),
        ("bytes", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("value", pa.float64()),
    ]
)
"""Documents that an edit dropped: bytes before it, and how many n-grams of a benchmark were found."""
CHANGES = pa.schema(
    [
        ("row", pa.uint32()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("pieces", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
"""Documents that an edit changed: pieces replaced (redact; else 1) and bytes added."""
EDIT_STAGES = ("spans", "lines", "decontaminate", "plugins", "redact")
"""The stages of the ledger that happen here, in order."""
SpanTable = tuple[str, int] | None
"""(table of repeated spans, number of the part in it), as `repeated.find_repeated_spans` gives it."""


@dataclass(frozen=True, kw_only=True)
class Edits:
    """Which edits are made, by what their outputs depend on."""

    remove_spans: bool
    lines: LinesConfig
    line_keys: tuple[str, ...]
    """Tables of the keys of boilerplate lines."""
    decontaminate: DecontaminateConfig
    benchmarks: str | None
    """URL of the hashed benchmarks; None: nothing is looked for."""
    redact: RedactConfig
    own: tuple[str, ...] = ()
    """Import paths of edits of somebody else."""

    @property
    def stages(self) -> list[str]:
        """The stages of the ledger that take part, in order."""
        redacts = any(getattr(self.redact, kind) is not None for kind in redaction.KINDS)
        chosen = {
            "spans": self.remove_spans,
            "lines": bool(self.line_keys),
            "decontaminate": self.benchmarks is not None,
            "plugins": bool(self.own),
            "redact": redacts,
        }
        return [stage for stage, takes_part in chosen.items() if takes_part]


@dataclass
class Edited:
    """Edited documents: `texts` of all, of which `alive` stay; rows in the tables are those of `texts`."""

    texts: pa.LargeStringArray
    alive: np.ndarray
    dropped: list[pa.Table] = field(default_factory=lambda: [DROPS.empty_table()])
    """Tables of DROPS: which documents went, and why."""
    changes: list[pa.Table] = field(default_factory=lambda: [CHANGES.empty_table()])
    """Tables of CHANGES, of documents that stayed in that stage."""
    hits: pa.Table = field(default_factory=contamination.HITS.empty_table)
    """Benchmark passages that were found (decontaminate.HITS)."""


def edit(
    texts: pa.LargeStringArray,
    sources: pa.Array,
    found: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    edits: Edits,
) -> Edited:
    """Apply the edits to texts, whose source names are given.

    found: (rows, starts, ends) of the repeated spans, rows within `texts`. A document whose text is empty
    after an edit is dropped by it.
    """
    result = Edited(texts, np.ones(len(texts), np.bool_))
    for stage in edits.stages:
        if stage == "spans":
            assert found is not None
            after, removed = spans.remove_spans(result.texts, *found)
            _note(result, stage, after, {"repeated_span": (removed > 0, -removed)})
        elif stage == "lines":
            keys = _line_keys(edits.line_keys)
            after, removed = lines.remove_lines(result.texts, lines.salts(sources), keys, edits.lines)
            _note(result, stage, after, {"repeated_line": (removed > 0, -removed)})
        elif stage == "decontaminate":
            _decontaminate(result, edits)
        elif stage == "plugins":
            for path in edits.own:
                after = plugins.edit(result.texts, path)
                changed = pc.not_equal(after, result.texts).to_numpy(zero_copy_only=False)
                delta = _sizes(after) - _sizes(result.texts)
                _note(result, stage, after, {plugins.find(path).name: (changed, delta)})
        else:
            after, columns = redaction.redact(result.texts, edits.redact)
            changes = {kind: (columns[f"n_{kind}"], columns[f"delta_{kind}"]) for kind in redaction.KINDS}
            _note(result, stage, after, changes)
    return result


def _note(
    result: Edited,
    stage: str,
    after: pa.LargeStringArray,
    changes: dict[str, tuple[np.ndarray, np.ndarray]],
    values: np.ndarray | None = None,
) -> None:
    """Put down what an edit did.

    changes: by reason, pieces replaced and bytes added for every document. values: the n-grams found of
    documents to drop, NaN for others.
    """
    before, left = _sizes(result.texts), _sizes(after)
    contaminated = np.zeros(len(left), np.bool_) if values is None else ~np.isnan(values)
    for reason, mask in (("contaminated", contaminated), ("no_text_left", ~contaminated & (left == 0))):
        rows = np.flatnonzero(mask & result.alive)
        if len(rows):
            columns = {
                "row": rows.astype(np.uint32),
                "bytes": before[rows],
                "stage": pa.repeat(stage, len(rows)),
                "reason": pa.repeat(reason, len(rows)),
                "value": pa.array(np.full(len(rows), np.nan) if values is None else values[rows]),
            }
            result.dropped.append(pa.table(columns, schema=DROPS))
    result.alive = result.alive & ~contaminated & (left > 0)
    for reason, (count, delta) in changes.items():
        rows = np.flatnonzero(result.alive & (count > 0))
        if len(rows):
            columns = {
                "row": rows.astype(np.uint32),
                "stage": pa.repeat(stage, len(rows)),
                "reason": pa.repeat(reason, len(rows)),
                "pieces": count[rows].astype(np.int64),
                "bytes": delta[rows],
            }
            result.changes.append(pa.table(columns, schema=CHANGES))
    result.texts = after


def _sizes(texts: pa.LargeStringArray) -> np.ndarray:
    sizes: np.ndarray = pc.binary_length(texts).to_numpy(zero_copy_only=False)
    return sizes.astype(np.int64)


def _decontaminate(result: Edited, edits: Edits) -> None:
    assert edits.benchmarks is not None
    benchmarks = _benchmarks(edits.benchmarks)
    after, gone, hits = contamination.decontaminate(result.texts, benchmarks, edits.decontaminate)
    removed = hits.filter(hits["removed"])
    most = np.zeros(len(gone), np.int64)
    np.maximum.at(most, removed["row"].to_numpy(), removed["ngrams"].to_numpy())
    result.hits = hits.filter(pa.array(result.alive[hits["row"].to_numpy()]))
    cut = _sizes(after) - _sizes(result.texts)
    _note(result, "decontaminate", after, {"benchmark_span": (cut < 0, cut)}, np.where(gone, most, np.nan))


def account(entries: pa.Table, dropped: pa.Table, changes: pa.Table, edits: Edits) -> Ledger:
    """The ledger of the edits of some documents.

    entries: row (ascending), source, length (bytes before the edits). dropped and changes: tables of DROPS
    and CHANGES with the same numbers of rows.
    """
    ledger = Ledger()
    rows, sizes = entries["row"].to_numpy(), entries["length"].to_numpy().copy()
    names = entries["source"].cast(pa.string()).combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy(zero_copy_only=False)
    alive = np.ones(len(rows), np.bool_)

    def sums(at: np.ndarray, values: np.ndarray) -> Iterator[tuple[str, int, int]]:
        """(source, number, sum of values) of documents at positions in the entries."""
        for code, name in enumerate(names.dictionary.to_pylist()):
            mine = codes[at] == code
            if mine.any():
                yield name, int(mine.sum()), int(values[mine].sum())

    for stage in edits.stages:
        everyone = np.flatnonzero(alive)
        for name, documents, size in sums(everyone, sizes[everyone]):
            counts = ledger.stage(name, stage)
            counts.documents_in, counts.bytes_in = documents, size
        gone = dropped.filter(pc.equal(dropped["stage"], stage))
        for reason in pc.unique(gone["reason"]).to_pylist():
            mine = gone.filter(pc.equal(gone["reason"], reason))
            at = np.searchsorted(rows, mine["row"].to_numpy())
            alive[at] = False
            for name, documents, size in sums(at, mine["bytes"].to_numpy()):
                ledger.stage(name, stage).drop(reason, documents, size)
        changed = changes.filter(pc.equal(changes["stage"], stage))
        for reason in pc.unique(changed["reason"]).to_pylist():
            mine = changed.filter(pc.equal(changed["reason"], reason))
            at = np.searchsorted(rows, mine["row"].to_numpy())
            sizes[at] += mine["bytes"].to_numpy()
            for name, _, size in sums(at, mine["bytes"].to_numpy()):
                ledger.stage(name, stage).change(reason, size)
        everyone = np.flatnonzero(alive)
        for name, documents, size in sums(everyone, sizes[everyone]):
            counts = ledger.stage(name, stage)
            counts.documents_out, counts.bytes_out = documents, size
    return ledger


def pieces(entries: pa.Table, changes: pa.Table, stage: str) -> dict[str, dict[str, int]]:
    """Pieces that a stage has in its changes, by source and reason."""
    changed = changes.filter(pc.equal(changes["stage"], stage))
    at = np.searchsorted(entries["row"].to_numpy(), changed["row"].to_numpy())
    sources = entries["source"].cast(pa.string()).take(pa.array(at))
    table = changed.select(["reason", "pieces"]).append_column("source", sources)
    found: dict[str, dict[str, int]] = {}
    totals = table.group_by(["source", "reason"]).aggregate([("pieces", "sum")])
    for line in totals.sort_by([("source", "ascending"), ("reason", "ascending")]).to_pylist():
        found.setdefault(line["source"], {})[line["reason"]] = line["pieces_sum"]
    return found


def spans_of(table: SpanTable, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Repeated spans of the given rows (sorted) of a part: (positions in `rows`, starts, ends)."""
    if table is None:
        return None
    found, starts, ends = spans.of_part(*table)
    there = np.isin(found, rows)
    return np.searchsorted(rows, found[there]), starts[there], ends[there]


@functools.lru_cache(2)
def _line_keys(urls: tuple[str, ...]) -> np.ndarray:
    return lines.read_keys(list(urls))


@functools.lru_cache(2)
def _benchmarks(url: str) -> contamination.Benchmarks:
    return contamination.read_benchmarks(url)
