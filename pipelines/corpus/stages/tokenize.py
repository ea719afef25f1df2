"""The texts that stay as tokens: every part becomes runs, each sorted by source, split and place."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import arrow, files
from base.layout import Layout, name_of, parent_of
from base.manifest import LedgerCounts
from base.records import Mark, Record, made
from pipelines.corpus.ledger import Ledger, add_counts
from pipelines.corpus.settings import ShardConfig
from pipelines.corpus.stages.edit import CHANGES, DROPS, account, pieces
from pipelines.corpus.stages.measure import Measured
from pipelines.corpus.stages.order import SPLITS, in_order, is_heldout, shuffle_keys
from pipelines.corpus.stages.plan_edits import EditPlan
from pipelines.corpus.stages.stage import Stage, unkeyed
from pipelines.corpus.stages.survivors import Survivors, edited_documents, surviving_entries
from pipelines.corpus.stages.vocabulary import Vocabulary
from pipelines.corpus.text import decontaminate as contamination
from pipelines.corpus.text.tokenizer import SpecialTokens, Tokenizer
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress

RUN_TOKENS = 2**26
BATCH_TOKENS, MOST_BITS = 2**12, 8
"""Tokens of a batch of a run at least, and first bits of keys by which a run is divided at most."""
SPELLED = "special_tokens"
"""The stage of edit.CHANGES whose pieces are special tokens that a text spells: it changes nothing."""
DROPPED = pa.schema(
    [
        ("document_id", pa.binary(16)),
        ("source", pa.string()),
        ("part", pa.string()),
        ("row", pa.uint32()),
        ("record", pa.int64()),
        *((name, DROPS.field(name).type) for name in ("bytes", "stage", "reason", "value")),
    ]
)
"""Documents that the edits dropped (edit.DROPS)."""
HITS = pa.schema(
    [
        ("benchmark", pa.string()),
        ("item", pa.int64()),
        ("field", pa.string()),
        ("document_id", pa.binary(16)),
        ("source", pa.string()),
        ("part", pa.string()),
        ("row", pa.uint32()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("ngrams", pa.int32()),
        ("passage_ngrams", pa.int32()),
        ("removed", pa.bool_()),
    ]
)
"""Benchmark passages in documents; start and end are bytes of the text that decontamination saw."""


class RunRange(Record):
    """The documents of one source and split in a run: a batch for each value of the first bits of keys."""

    source: str
    split: str
    batch: int
    """Number of its first batch."""
    bits: int
    """There are 2**bits batches; some may be empty."""
    documents: int
    tokens: int
    bytes: int
    """Of the edited texts."""


class TokenCounts(Mark):
    """What tokenizing a part counted; written last."""

    part: str
    runs: list[list[RunRange]]
    """What each run holds."""
    ledger: LedgerCounts
    """Of the edits and the stage tokenize (`Ledger.to_json`)."""
    redacted: dict[str, dict[str, int]]
    """Pieces of personal data that were replaced, by source and kind."""
    special_tokens: dict[str, dict[str, int]]
    """Special tokens that texts spell, by source and token."""


@dataclass(frozen=True, kw_only=True)
class TokenizePart:
    """What tokenizing one part needs.

    `attributes` is the part's table of measured columns. Below `folder` lie the outputs of every choice of
    survivors under the same tokenizer and edits, those of this one in the folder `key`.
    """

    survivors: Survivors
    attributes: str
    tokenizer: str
    end_of_document: str
    special_tokens: SpecialTokens
    seed: int
    heldout_fraction: float
    folder: str
    key: str

    def url(self, suffix: str) -> str:
        """An output: arrow (the sorted runs), dropped, hits, changes (tables), or json (counts, last)."""
        return _output(self.folder, self.key, self.survivors.part, suffix)


def _output(folder: str, key: str, part: str, suffix: str) -> str:
    return files.join(folder, key, f"{part}.{suffix}")


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """The tokens of every part."""

    key: str
    tasks: tuple[TokenizePart, ...]
    """They tell where the outputs of each part are."""
    counts: tuple[TokenCounts, ...]
    ledger: Ledger
    """Of the edits and the stage tokenize."""

    def urls(self, suffix: str) -> list[str]:
        """An output of every part: dropped or hits (tables)."""
        return [task.url(suffix) for task in self.tasks]

    @property
    def redacted(self) -> dict[str, dict[str, int]]:
        """Replaced spans of personal data by source and kind."""
        return _totals(counts.redacted for counts in self.counts)

    @property
    def special_tokens(self) -> dict[str, dict[str, int]]:
        """Special tokens that texts spell by source and token."""
        return _totals(counts.special_tokens for counts in self.counts)


def _totals(parts: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Counts by source and kind of all parts, sorted."""
    totals: dict[str, dict[str, int]] = {}
    for counts in parts:
        add_counts(totals, counts)
    return {name: dict(sorted(kinds.items())) for name, kinds in sorted(totals.items())}


@dataclass(frozen=True, kw_only=True)
class Tokenize(Stage):
    """Edit and encode the survivors of every part into sorted runs."""

    name: ClassVar[str] = "tokenize"
    version: ClassVar[int] = 3
    layout: Layout = unkeyed()
    measured: Measured = unkeyed()
    """`edits` depends on it."""
    edits: EditPlan
    vocabulary: Vocabulary
    settings: ShardConfig
    """Without the size of shards."""
    only: frozenset[str] | None = unkeyed(default=None)
    """Sources of which all documents are needed; parts without one are left out. None: all."""

    @property
    def encoding(self) -> str:
        """What the tokens of a text depend on, whatever other texts stay."""
        return files.key_of(self.name, self.version, self.edits.edits_key, self.vocabulary.key)

    def run(self, executor: Executor, progress: Progress) -> Tokenized:
        """Tokenize the parts that are not tokenized."""
        key, encoding, measured = self.key, self.encoding, self.measured
        sources_of = measured.sources_of
        chosen = [
            (item, survivors)
            for item, survivors in zip(measured.inputs, self.edits.survivors, strict=True)
            if self.only is None or sources_of[item.part] & self.only
        ]
        tasks = tuple(
            TokenizePart(
                survivors=survivors,
                attributes=measured.url("attributes", item, "parquet"),
                tokenizer=self.vocabulary.url,
                end_of_document=self.vocabulary.facts.end_of_document,
                special_tokens=self.vocabulary.special_tokens,
                seed=self.settings.seed,
                heldout_fraction=self.settings.heldout_fraction,
                folder=self.layout.work("tokens", files.key_of(encoding, measured.keys[item.source])),
                key=key,
            )
            for item, survivors in chosen
        )
        sizes = [item.bytes for item, _ in chosen]
        count = Counter(progress, self.name, 0, len(tasks))
        values = executor.map_files(tokenize_part, list(tasks), sizes, count)
        counts = tuple(TokenCounts.from_json(value, "the counts of a part") for value in values)
        ledger = Ledger()
        for entry in counts:
            ledger.add(Ledger.from_json(entry.ledger))
        return Tokenized(key=key, tasks=tasks, counts=counts, ledger=ledger)


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """Documents of a part after edits and tokenizer, by their row in the documents file.

    tokens: row, record, bytes, input_ids of those that stay. dropped: edit.DROPS and record. changes:
    edit.CHANGES. hits: decontaminate.HITS.
    """

    tokens: pa.Table
    dropped: pa.Table
    changes: pa.Table
    hits: pa.Table


def tokenize_part(task: TokenizePart) -> dict[str, Any]:
    """Write the token runs of one part; returns the TokenCounts as JSON.

    The output is an Arrow IPC file of runs, each sorted by (source, split, key) and divided into batches (see
    RunRange), with `input_ids`, `document_id`, `key`, `record`, `row`, `bytes`. The counts file, written
    last, lists for each run the range of every (source, split). What another choice of survivors has
    tokenized already is taken from there, so that only the texts of other documents are read.
    """
    finished = TokenCounts.finished(task.url("json"), task.url)
    if finished is not None:
        return finished.to_json()
    entries = surviving_entries(task.survivors, ["document_id", "source", "length"])
    source = entries["source"].cast(pa.string())
    entries = entries.set_column(entries.schema.get_field_index("source"), "source", source)
    content = files.read_parquet(task.attributes, ["document_id"])["document_id"]
    entries = entries.append_column("content_id", content.take(entries["row"]))
    tokenizer = tokenizer_of(
        task.tokenizer, task.end_of_document, task.special_tokens, files.digest(task.tokenizer)
    )
    schema = _run_schema(tokenizer)
    with files.together():
        with files.atomic_writer(task.url("arrow")) as stream, pa.ipc.new_file(stream, schema) as writer:
            runs = _Runs(task, sorted(pc.unique(source).to_pylist()), writer, schema)
            tables: dict[str, list[pa.Table]] = {"dropped": [], "changes": [], "hits": []}
            for encoded in _encode(task, entries, tokenizer):
                for name, found in tables.items():
                    found.append(getattr(encoded, name))
                runs.add(_identified(encoded.tokens, entries))
            runs.end()
        dropped, changes, hits = (_by_row(found, name) for name, found in tables.items())
        files.write_parquet(task.url("dropped"), _of_part(dropped, entries, task.survivors.part, DROPPED))
        files.write_parquet(task.url("changes"), changes)
        files.write_parquet(task.url("hits"), _of_part(hits, entries, task.survivors.part, HITS))
    ledger = account(entries, dropped, changes, task.survivors.edits)
    ledger.add(runs.ledger)
    counts = TokenCounts(
        part=task.survivors.part,
        runs=runs.ranges,
        ledger=ledger.to_json(),
        redacted=pieces(entries, changes, "redact"),
        special_tokens=pieces(entries, changes, SPELLED),
        made=made(task.url, ("dropped", "changes", "hits"), unsealed=["arrow"]),
    )
    counts.write(task.url("json"))
    return counts.to_json()


def _run_schema(tokenizer: Tokenizer) -> pa.Schema:
    """The columns of a run."""
    return pa.schema(
        [
            ("input_ids", pa.large_list(pa.from_numpy_dtype(tokenizer.dtype))),
            ("document_id", pa.binary(16)),
            ("key", pa.uint64()),
            ("record", pa.int64()),
            ("row", pa.uint32()),
            ("bytes", pa.int64()),
        ]
    )


def _of_part(table: pa.Table, entries: pa.Table, part: str, schema: pa.Schema) -> pa.Table:
    """A table of documents of a part with their ids, sources and part, as a schema has it."""
    parts = pa.repeat(part, table.num_rows)
    return _identified(table, entries).append_column("part", parts).select(schema.names).cast(schema)


def _by_row(tables: list[pa.Table], name: str) -> pa.Table:
    """Tables of an output of a part as one, in order of row; what belongs to a row is in its order."""
    empty = {"dropped": _DROPS, "changes": CHANGES, "hits": contamination.HITS}[name].empty_table()
    table = pa.concat_tables([empty, *(found.cast(empty.schema) for found in tables)])
    return table.take(pa.array(np.argsort(table["row"].to_numpy(), kind="stable")))


_DROPS = pa.schema([*DROPS, ("record", pa.int64())])


def _identified(table: pa.Table, entries: pa.Table) -> pa.Table:
    """A table with rows of the documents file, and document_id, content_id and source of each."""
    at = pa.array(np.searchsorted(entries["row"].to_numpy(), table["row"].to_numpy()))
    for name in ("document_id", "content_id", "source"):
        table = table.append_column(name, entries[name].take(at))
    return table


def _encode(task: TokenizePart, entries: pa.Table, tokenizer: Tokenizer) -> Iterator[_Encoded]:
    """The survivors of a part: those that are found tokenized, then the others."""
    missing = np.ones(entries.num_rows, np.bool_)
    rows = entries["row"].to_numpy()
    for counts in sorted(files.list_files(_output(task.folder, "*", task.survivors.part, "json"))):
        key = name_of(parent_of(counts))
        if not missing.any():
            break
        place = functools.partial(_output, task.folder, key, task.survivors.part)
        if TokenCounts.finished(counts, place) is None:
            continue
        for encoded in _earlier(task, key, rows[missing]):
            for table in (encoded.tokens, encoded.dropped):
                missing[np.searchsorted(rows, table["row"].to_numpy())] = False
            yield encoded
    left = entries.filter(pa.array(missing))
    for chosen, documents, edited in edited_documents(task.survivors, left):
        alive = pa.array(edited.alive)
        texts, numbers, records = edited.texts.filter(alive), chosen["row"], documents["record"]
        dropped, changes = pa.concat_tables(edited.dropped), pa.concat_tables(edited.changes)
        spelled = _spelled(tokenizer.spelled(texts), np.flatnonzero(edited.alive))
        tokens = {
            "row": numbers.filter(alive),
            "record": records.filter(alive),
            "bytes": pc.binary_length(texts),
            "input_ids": tokenizer.encode(texts),
        }
        yield _Encoded(
            tokens=pa.table(tokens),
            dropped=_at_rows(dropped.append_column("record", records.take(dropped["row"])), numbers),
            changes=_at_rows(pa.concat_tables([changes, spelled]), numbers),
            hits=_at_rows(edited.hits, numbers),
        )


def _spelled(counts: dict[str, np.ndarray], rows: np.ndarray) -> pa.Table:
    """What texts spell of special tokens as a table of edit.CHANGES; `rows` are those of the texts."""
    tables = [CHANGES.empty_table()]
    for token, found in counts.items():
        there = np.flatnonzero(found)
        columns = {
            "row": rows[there].astype(np.uint32),
            "stage": pa.repeat(SPELLED, len(there)),
            "reason": pa.repeat(token, len(there)),
            "pieces": found[there],
            "bytes": np.zeros(len(there), np.int64),
        }
        tables.append(pa.table(columns, schema=CHANGES))
    return pa.concat_tables(tables)


def _at_rows(table: pa.Table, rows: pa.ChunkedArray) -> pa.Table:
    """A table by row of a batch as one by row of the documents file."""
    return table.set_column(table.schema.get_field_index("row"), "row", rows.take(table["row"]))


def _earlier(task: TokenizePart, key: str, wanted: np.ndarray) -> Iterator[_Encoded]:
    """The documents with the rows `wanted` that another choice of survivors has tokenized."""

    def chosen(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(np.isin(table["row"].to_numpy(), wanted)))

    def read(suffix: str, names: list[str]) -> pa.Table:
        return chosen(files.read_parquet(_output(task.folder, key, task.survivors.part, suffix), names))

    dropped, changes = read("dropped", _DROPS.names), read("changes", CHANGES.names)
    hits = read("hits", contamination.HITS.names)
    reader = arrow.open_file(_output(task.folder, key, task.survivors.part, "arrow"))
    columns = ["row", "record", "bytes", "input_ids"]
    nothing = reader.schema.empty_table().select(columns)
    yield _Encoded(tokens=nothing, dropped=dropped, changes=changes, hits=hits)
    for number in range(reader.num_record_batches):
        yield _Encoded(
            tokens=chosen(pa.Table.from_batches([reader.get_batch(number)]).select(columns)),
            dropped=dropped.slice(0, 0),
            changes=changes.slice(0, 0),
            hits=hits.slice(0, 0),
        )


class _Runs:
    """Writes the tokens of a part as sorted runs of at least RUN_TOKENS, the last one apart."""

    def __init__(
        self, task: TokenizePart, sources: list[str], writer: pa.RecordBatchFileWriter, schema: pa.Schema
    ) -> None:
        """Nothing is written so far; `sources` are the names of all documents."""
        self.task, self.sources, self.writer, self.schema = task, sources, writer, schema
        self.ranges: list[list[RunRange]] = []
        """What each run holds."""
        self.ledger = Ledger()
        """Of the stage tokenize."""
        self._pending: list[pa.Table] = []
        self._tokens = self._batches = 0

    def add(self, table: pa.Table) -> None:
        """Take in encoded documents, and write a run of what has come if it is enough."""
        self._pending.append(table)
        self._tokens += pc.sum(pc.list_value_length(table["input_ids"])).as_py() or 0
        if self._tokens >= RUN_TOKENS:
            self.end()

    def end(self) -> None:
        """Write a run of what has come; the edits may have left nothing of it."""
        if any(table.num_rows for table in self._pending):
            self.ranges.append(self._write(pa.concat_tables(self._pending)))
        self._pending, self._tokens = [], 0

    def _write(self, table: pa.Table) -> list[RunRange]:
        keys = shuffle_keys(table["document_id"].combine_chunks(), self.task.seed)
        heldout = is_heldout(table["content_id"].combine_chunks(), self.task.heldout_fraction)
        source = pc.index_in(table["source"], pa.array(self.sources)).to_numpy().astype(np.int64)
        group = source * len(SPLITS) + heldout.astype(np.int64)
        order = np.lexsort((table["row"].to_numpy(), keys, group))
        table = in_order(table.append_column("key", pa.array(keys)), order)
        lengths = pc.list_value_length(table["input_ids"]).to_numpy()
        sizes = table["bytes"].to_numpy()
        bounds = np.searchsorted(group[order], np.arange(len(self.sources) * len(SPLITS) + 1))
        batch = table.select(self.schema.names).cast(self.schema).to_batches()[0]
        ranges = []
        for number, (start, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            if start == stop:
                continue
            held = RunRange(
                source=self.sources[number // len(SPLITS)],
                split=SPLITS[number % len(SPLITS)],
                batch=self._batches,
                bits=bits_of(int(lengths[start:stop].sum())),
                documents=stop - start,
                tokens=int(lengths[start:stop].sum()),
                bytes=int(sizes[start:stop].sum()),
            )
            stage = self.ledger.stage(held.source, "tokenize")
            stage.documents_in += held.documents
            stage.documents_out += held.documents
            stage.bytes_in += held.bytes
            stage.bytes_out += held.bytes
            ranges.append(held)
            self._write_batches(batch.slice(start, stop - start), held.bits)
        return ranges

    def _write_batches(self, rows: pa.RecordBatch, bits: int) -> None:
        """Write rows that are in order of key, a batch for each value of its first bits."""
        firsts = np.array([value << (64 - bits) for value in range(1, 2**bits)], np.uint64)
        cuts = np.searchsorted(rows.column("key").to_numpy(), firsts).tolist()
        for start, stop in zip([0, *cuts], [*cuts, rows.num_rows], strict=True):
            self.writer.write_batch(rows.slice(start, stop - start))
        self._batches += 2**bits


def bits_of(tokens: int) -> int:
    """The first bits of its keys by which a range of a run is divided into batches."""
    return min(MOST_BITS, max(0, (tokens // BATCH_TOKENS).bit_length() - 1))


@functools.lru_cache(2)
def tokenizer_of(url: str, end_of_document: str, special_tokens: SpecialTokens, digest: str) -> Tokenizer:
    """The tokenizer file with the given content: its tables and word cache serve all tasks of a process."""
    return Tokenizer.load(url, end_of_document, special_tokens)
