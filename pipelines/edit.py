"""What happens to the texts that stay: repeated spans and lines go, benchmark items and personal data too.

The cleaned copy on storage stays as it is. Whoever needs the final text (the tokenizer, the check of shards)
applies these edits while reading, so that a changed setting here never reads a source again.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup import lines, spans
from dedup.config import LinesConfig
from pipelines import decontaminate as contamination
from pipelines import redact as redaction
from pipelines.config import DecontaminateConfig, RedactConfig
from pipelines.ledger import Ledger

EDIT_VERSION = 1
"""Raised when the code changes what edited texts look like."""
DROPPED = pa.schema(
    [
        ("document_id", pa.binary(16)),
        ("source", pa.string()),
        ("part", pa.string()),
        ("row", pa.uint32()),
        ("record", pa.int64()),
        ("bytes", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("value", pa.float64()),
    ]
)
"""Documents that an edit dropped; value is the number of n-grams found of a benchmark's passage."""
EDIT_STAGES = ("spans", "lines", "decontaminate", "redact")
"""The stages of the ledger that happen here, in order."""
SpanTable = tuple[str, int] | None
"""(table of repeated spans, number of the part in it), as `deduplicate.find_repeated_spans` gives it."""


@dataclass(frozen=True)
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

    @property
    def stages(self) -> list[str]:
        """The stages of the ledger that take part, in order."""
        redacts = any(getattr(self.redact, kind) is not None for kind in redaction.KINDS)
        chosen = {
            "spans": self.remove_spans,
            "lines": bool(self.line_keys),
            "decontaminate": self.benchmarks is not None,
            "redact": redacts,
        }
        return [stage for stage, takes_part in chosen.items() if takes_part]


@dataclass
class Edited:
    """Edited documents: `texts` of all, of which `alive` stay; of the others, why and where they went."""

    texts: pa.LargeStringArray
    alive: np.ndarray
    dropped: list[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    """(stage, reason, rows, bytes, values) of the documents that went."""
    hits: pa.Table = field(default_factory=contamination.HITS.empty_table)
    """Benchmark passages that were found (decontaminate.HITS)."""
    redacted: dict[str, dict[str, int]] = field(default_factory=dict)
    """Replacements by source and kind."""


def edit(
    texts: pa.LargeStringArray,
    sources: pa.Array,
    found: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    edits: Edits,
    ledger: Ledger,
) -> Edited:
    """Apply the edits to texts, whose source names are given, and count them in the ledger.

    found: (rows, starts, ends) of the repeated spans, rows within `texts`. A document whose text is empty
    after an edit is dropped by it. Dropped documents count with their bytes before that edit.
    """
    names = sources.dictionary_encode()
    account = _Account(Edited(texts, np.ones(len(texts), np.bool_)), names, ledger)
    for stage in edits.stages:
        if stage == "spans":
            assert found is not None
            after, removed = spans.remove_spans(account.edited.texts, *found)
            account.stage(stage, after, {"repeated_span": -removed})
        elif stage == "lines":
            keys = _line_keys(edits.line_keys)
            salts = lines.salts(sources)
            after, removed = lines.remove_lines(account.edited.texts, salts, keys, edits.lines)
            account.stage(stage, after, {"repeated_line": -removed})
        elif stage == "decontaminate":
            _decontaminate(account, edits)
        else:
            after, columns = redaction.redact(account.edited.texts, edits.redact)
            account.stage(stage, after, {kind: columns[f"delta_{kind}"] for kind in redaction.KINDS})
            account.redacted(columns)
    return account.edited


def spans_of(table: SpanTable, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Repeated spans of the given rows (sorted) of a part: (positions in `rows`, starts, ends)."""
    if table is None:
        return None
    found, starts, ends = spans.of_part(*table)
    low, high = np.searchsorted(found, [rows[0], rows[-1] + 1]) if len(rows) else (0, 0)
    found, starts, ends = found[low:high], starts[low:high], ends[low:high]
    there = np.isin(found, rows)
    return np.searchsorted(rows, found[there]), starts[there], ends[there]


class _Account:
    """Documents on their way through the edits, and what the ledger learns of it."""

    def __init__(self, edited: Edited, names: pa.DictionaryArray, ledger: Ledger) -> None:
        self.edited = edited
        self.names = names.dictionary.to_pylist()
        self.codes = names.indices.to_numpy(zero_copy_only=False)
        self.ledger = ledger

    def stage(
        self,
        stage: str,
        after: pa.LargeStringArray,
        deltas: dict[str, np.ndarray],
        gone: np.ndarray | None = None,
        reason: str = "no_text_left",
        values: np.ndarray | None = None,
    ) -> None:
        """Count one edit: texts after it, bytes added by reason, and documents dropped for `reason`."""
        before = self.sizes()
        alive = self.edited.alive
        drop = np.zeros(len(alive), np.bool_) if gone is None else gone & alive
        self.edited.texts = after
        left = self.sizes()
        for why, rows in ((reason, drop), ("no_text_left", alive & ~drop & (left == 0))):
            if rows.any():
                value = np.full(len(rows), np.nan) if values is None else values
                self.edited.dropped.append((stage, why, np.flatnonzero(rows), before[rows], value[rows]))
            for name, documents, size in self._sums(rows, before):
                self.ledger.stage(name, stage).drop(why, documents, size)
            alive = alive & ~rows
        for name, documents, size in self._sums(self.edited.alive, before):
            entry = self.ledger.stage(name, stage)
            entry.documents_in += documents
            entry.bytes_in += size
        for why, delta in deltas.items():
            for name, _, size in self._sums(alive, delta):
                self.ledger.stage(name, stage).change(why, size)
        for name, documents, size in self._sums(alive, left):
            entry = self.ledger.stage(name, stage)
            entry.documents_out += documents
            entry.bytes_out += size
        self.edited.alive = alive

    def redacted(self, columns: dict[str, np.ndarray]) -> None:
        """Note how many spans of each kind were replaced."""
        for kind in redaction.KINDS:
            for name, _, count in self._sums(self.edited.alive, columns[f"n_{kind}"]):
                if count:
                    self.edited.redacted.setdefault(name, {})[kind] = count

    def sizes(self) -> np.ndarray:
        """Bytes of every text, int64."""
        sizes: np.ndarray = pc.binary_length(self.edited.texts).to_numpy(zero_copy_only=False)
        return sizes.astype(np.int64)

    def _sums(self, mask: np.ndarray, values: np.ndarray) -> Iterable[tuple[str, int, int]]:
        """(source, documents, sum of values) of the documents of the mask."""
        codes, values = self.codes[mask], values[mask]
        for code, documents in enumerate(np.bincount(codes, minlength=len(self.names)).tolist()):
            if documents:
                yield self.names[code], documents, int(values[codes == code].sum())


def _decontaminate(account: _Account, edits: Edits) -> None:
    assert edits.benchmarks is not None
    before = account.sizes()
    benchmarks = _benchmarks(edits.benchmarks)
    texts = account.edited.texts
    after, gone, hits = contamination.decontaminate(texts, benchmarks, edits.decontaminate)
    removed = hits.filter(hits["removed"])
    values = np.full(len(gone), np.nan)
    np.fmax.at(values, removed["row"].to_numpy(), removed["ngrams"].to_numpy().astype(np.float64))
    cut = pc.binary_length(after).to_numpy(zero_copy_only=False).astype(np.int64) - before
    account.edited.hits = hits.filter(pa.array(account.edited.alive[hits["row"].to_numpy()]))
    account.stage("decontaminate", after, {"benchmark_span": cut}, gone, "contaminated", values)


@functools.lru_cache(2)
def _line_keys(urls: tuple[str, ...]) -> np.ndarray:
    return lines.read_keys(list(urls))


@functools.lru_cache(2)
def _benchmarks(url: str) -> contamination.Benchmarks:
    return contamination.read_benchmarks(url)
