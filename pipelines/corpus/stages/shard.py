"""Tokens into shards: tokenize each part into sorted runs, then merge a key range of every run into a shard.

The place of a document is a pure function of its id and the seed: a 64-bit key orders documents
within a source (a global shuffle without holding the corpus), and a second one chooses the split.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import files
from base.kernels import splitmix64
from dedup import hashing
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.stages.edit import (
    CHANGES,
    DROPS,
    Edited,
    Edits,
    SpanTable,
    account,
    edit,
    redacted_pieces,
    spans_of,
)
from pipelines.corpus.text import decontaminate as contamination
from pipelines.corpus.text.tokenizer import Tokenizer

RUN_TOKENS = 2**26
VERIFY_BYTES, VERIFY_SHARE = 2**17, 1 / 200
"""Text of a shard that is encoded by `tokenizers` too, at about 2 MB a second."""
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
SPLITS = ("train", "heldout")


def shuffle_keys(identifiers: pa.FixedSizeBinaryArray, seed: int) -> np.ndarray:
    """The uint64 by which documents of a source are ordered; a function of id and seed alone."""
    high, low = hashing.id_words(identifiers)
    return splitmix64(splitmix64(high + splitmix64(np.full(1, seed, np.uint64))) ^ low)


def is_heldout(identifiers: pa.FixedSizeBinaryArray, fraction: float) -> np.ndarray:
    """Which documents are held out for evaluation; a function of id and fraction alone.

    Given the ids of their content, without ordinals, it does not part identical documents.
    """
    high, low = hashing.id_words(identifiers)
    return splitmix64(low ^ splitmix64(high ^ np.uint64(0x68656C646F7574))) < np.uint64(int(fraction * 2**64))


@dataclass(frozen=True)
class Survivors:
    """The documents of a part that deduplication left, and the edits of their texts.

    `dropped` is the table with the part's dropped documents, None if there is none.
    """

    part: str
    file: str
    documents: str
    entries: str
    dropped: str | None
    spans: SpanTable
    edits: Edits


@dataclass(frozen=True)
class Sample:
    """What sampling the surviving texts of one part needs; `share` of them are taken, chosen by id."""

    survivors: Survivors
    share: float
    output: str


def sample_texts(task: Sample) -> str:
    """Write a sample of a part's surviving documents: `document_id` and `text` (its first 65,536 characters).

    Returns the URL of the table.
    """
    if files.exists(task.output):
        return task.output
    entries = surviving_entries(task.survivors, ["document_id", "source"])
    high, low = hashing.id_words(entries["document_id"])
    chosen = splitmix64(high + low) <= np.uint64(min(int(task.share * 2**64), 2**64 - 1))
    entries = entries.filter(pa.array(chosen))
    schema = pa.schema([("document_id", pa.binary(16)), ("text", pa.large_string())])
    tables = [schema.empty_table()]
    for chosen, _, edited in edited_documents(task.survivors, entries):
        alive = pa.array(edited.alive)
        text = pc.utf8_slice_codeunits(edited.texts.filter(alive), 0, 65536)
        columns = {"document_id": chosen["document_id"].filter(alive), "text": text}
        tables.append(pa.table(columns, schema=schema))
    files.write_parquet(task.output, pa.concat_tables(tables))
    return task.output


@dataclass(frozen=True)
class Tokenize:
    """What tokenizing one part needs.

    `attributes` is the part's table of measured columns. Below `folder` lie the outputs of every choice of
    survivors under the same tokenizer and edits, those of this one in the folder `key`.
    """

    survivors: Survivors
    attributes: str
    tokenizer: str
    end_of_document: str
    seed: int
    heldout_fraction: float
    folder: str
    key: str

    def url(self, suffix: str) -> str:
        """An output: arrow (the sorted runs), dropped, hits, changes (tables), or json (counts, last)."""
        return _output(self.folder, self.key, self.survivors.part, suffix)


def _output(folder: str, key: str, part: str, suffix: str) -> str:
    return files.join(folder, key, f"{part}.{suffix}")


def surviving_entries(survivors: Survivors, columns: list[str]) -> pa.Table:
    """The entries of a part that its table of dropped documents does not name, in order of row."""
    table = files.read_parquet(survivors.entries, sorted({*columns, "row"}))
    if survivors.dropped is not None:
        dropped = files.read_parquet(survivors.dropped, ["part", "row"])
        mine = dropped.filter(pc.equal(dropped["part"].cast(pa.string()), survivors.part))
        gone = np.isin(table["row"].to_numpy(), mine["row"].to_numpy())
        table = table.filter(pa.array(~gone))
    return table.sort_by("row")


def edited_documents(survivors: Survivors, entries: pa.Table) -> Iterator[tuple[pa.Table, pa.Table, Edited]]:
    """Yield (entries, rows of the documents file, edited texts) of one record batch after another.

    `entries` holds row and source of some of the survivors, in order of row.
    """
    rows = entries["row"].to_numpy()
    spans = spans_of(survivors.spans, rows)
    for positions, documents in document_texts(survivors.documents, rows):
        chosen = entries.slice(positions.start, positions.stop - positions.start)
        mine = None
        if spans is not None:
            low, high = np.searchsorted(spans[0], [positions.start, positions.stop])
            mine = spans[0][low:high] - positions.start, spans[1][low:high], spans[2][low:high]
        sources = chosen["source"].cast(pa.string()).combine_chunks()
        text = documents["text"].combine_chunks()
        yield chosen, documents, edit(text, sources, mine, survivors.edits)


def document_texts(url: str, rows: np.ndarray) -> Iterator[tuple[slice, pa.Table]]:
    """Yield (positions within `rows`, table of those rows) for sorted row numbers of a documents file."""
    filesystem, path = files.split(url)
    with filesystem.open(path, "rb") as stream, pa.ipc.open_file(stream) as reader:
        first = 0
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            low, high = np.searchsorted(rows, [first, first + batch.num_rows])
            if high > low:
                table = pa.Table.from_batches([batch])
                yield slice(low, high), table.take(pa.array(rows[low:high].astype(np.int64) - first))
            first += batch.num_rows


@dataclass(frozen=True)
class _Encoded:
    """Documents of a part after edits and tokenizer, by their row in the documents file.

    tokens: row, record, bytes, input_ids of those that stay. dropped: edit.DROPS and record. changes:
    edit.CHANGES. hits: decontaminate.HITS.
    """

    tokens: pa.Table
    dropped: pa.Table
    changes: pa.Table
    hits: pa.Table


def tokenize_part(task: Tokenize) -> dict[str, Any]:
    """Write the token runs of one part and return their counts.

    The output is an Arrow IPC file of record batches (runs), each sorted by (source, split, key), with
    `input_ids`, `document_id`, `key`, `record`, `row`, `bytes`. The counts file, written last, lists
    for each run the range of every (source, split). What another choice of survivors has tokenized already is
    taken from there, so that only the texts of other documents are read.
    """
    if files.exists(task.url("json")):
        counts: dict[str, Any] = files.read_json(task.url("json"))
        return counts
    entries = surviving_entries(task.survivors, ["document_id", "source", "length"])
    source = entries["source"].cast(pa.string())
    entries = entries.set_column(entries.schema.get_field_index("source"), "source", source)
    content = files.read_parquet(task.attributes, ["document_id"])["document_id"]
    entries = entries.append_column("content_id", content.take(entries["row"]))
    names = sorted(pc.unique(source).to_pylist())
    tokenizer = _tokenizer(task.tokenizer, task.end_of_document, files.digest(task.tokenizer))
    schema = pa.schema(
        [
            ("input_ids", pa.large_list(pa.from_numpy_dtype(tokenizer.dtype))),
            ("document_id", pa.binary(16)),
            ("key", pa.uint64()),
            ("record", pa.int64()),
            ("row", pa.uint32()),
            ("bytes", pa.int64()),
        ]
    )
    runs: list[list[dict[str, Any]]] = []
    tokenized = Ledger()
    tables: dict[str, list[pa.Table]] = {"dropped": [], "changes": [], "hits": []}
    pending: list[pa.Table] = []
    pending_tokens = 0
    with files.atomic_writer(task.url("arrow")) as stream, pa.ipc.new_file(stream, schema) as writer:
        for encoded in _encode(task, entries, tokenizer):
            for name, found in tables.items():
                found.append(getattr(encoded, name))
            pending.append(_identified(encoded.tokens, entries))
            pending_tokens += pc.sum(pc.list_value_length(encoded.tokens["input_ids"])).as_py() or 0
            if pending_tokens >= RUN_TOKENS:
                runs.append(_write_run(pending, names, task, schema, writer, tokenized))
                pending, pending_tokens = [], 0
        if pending:
            runs.append(_write_run(pending, names, task, schema, writer, tokenized))
    dropped, changes, hits = (_by_row(found, name) for name, found in tables.items())
    part = pa.repeat(task.survivors.part, dropped.num_rows)
    dropped_table = _identified(dropped, entries).append_column("part", part)
    files.write_parquet(task.url("dropped"), dropped_table.select(DROPPED.names).cast(DROPPED))
    files.write_parquet(task.url("changes"), changes)
    part = pa.repeat(task.survivors.part, hits.num_rows)
    hits_table = _identified(hits, entries).append_column("part", part)
    files.write_parquet(task.url("hits"), hits_table.select(HITS.names).cast(HITS))
    ledger = account(entries, dropped, changes, task.survivors.edits)
    ledger.add(tokenized)
    counts = {
        "part": task.survivors.part,
        "runs": runs,
        "ledger": ledger.to_json(),
        "redacted": redacted_pieces(entries, changes),
    }
    files.write_json(task.url("json"), counts)
    return counts


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


def _encode(task: Tokenize, entries: pa.Table, tokenizer: Tokenizer) -> Iterator[_Encoded]:
    """The survivors of a part: those that are found tokenized, then the others."""
    missing = np.ones(entries.num_rows, np.bool_)
    rows = entries["row"].to_numpy()
    for counts in sorted(files.list_files(_output(task.folder, "*", task.survivors.part, "json"))):
        key = counts.rsplit("/", 2)[1]
        if not missing.any():
            break
        for encoded in _earlier(task, key, rows[missing]):
            for table in (encoded.tokens, encoded.dropped):
                missing[np.searchsorted(rows, table["row"].to_numpy())] = False
            yield encoded
    left = entries.filter(pa.array(missing))
    for chosen, documents, edited in edited_documents(task.survivors, left):
        alive = pa.array(edited.alive)
        texts, numbers, records = edited.texts.filter(alive), chosen["row"], documents["record"]
        dropped, changes = pa.concat_tables(edited.dropped), pa.concat_tables(edited.changes)
        tokens = {
            "row": numbers.filter(alive),
            "record": records.filter(alive),
            "bytes": pc.binary_length(texts),
            "input_ids": tokenizer.encode(texts),
        }
        yield _Encoded(
            pa.table(tokens),
            _at_rows(dropped.append_column("record", records.take(dropped["row"])), numbers),
            _at_rows(changes, numbers),
            _at_rows(edited.hits, numbers),
        )


def _at_rows(table: pa.Table, rows: pa.ChunkedArray) -> pa.Table:
    """A table by row of a batch as one by row of the documents file."""
    return table.set_column(table.schema.get_field_index("row"), "row", rows.take(table["row"]))


def _earlier(task: Tokenize, key: str, wanted: np.ndarray) -> Iterator[_Encoded]:
    """The documents with the rows `wanted` that another choice of survivors has tokenized."""

    def chosen(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(np.isin(table["row"].to_numpy(), wanted)))

    def read(suffix: str, names: list[str]) -> pa.Table:
        return chosen(files.read_parquet(_output(task.folder, key, task.survivors.part, suffix), names))

    dropped, changes = read("dropped", _DROPS.names), read("changes", CHANGES.names)
    hits = read("hits", contamination.HITS.names)
    reader = _open_runs(_output(task.folder, key, task.survivors.part, "arrow"))
    columns = ["row", "record", "bytes", "input_ids"]
    yield _Encoded(reader.schema.empty_table().select(columns), dropped, changes, hits)
    nothing = dropped.slice(0, 0), changes.slice(0, 0), hits.slice(0, 0)
    for number in range(reader.num_record_batches):
        yield _Encoded(chosen(pa.Table.from_batches([reader.get_batch(number)]).select(columns)), *nothing)


def _open_runs(url: str) -> pa.RecordBatchFileReader:
    """The runs of a part; memory-mapped where they are local."""
    local = files.local_path(url)
    if local:
        return pa.ipc.open_file(pa.memory_map(local))
    filesystem, path = files.split(url)
    return pa.ipc.open_file(filesystem.open(path, "rb"))


def _write_run(
    pending: list[pa.Table],
    names: list[str],
    task: Tokenize,
    schema: pa.Schema,
    writer: pa.RecordBatchFileWriter,
    ledger: Ledger,
) -> list[dict[str, Any]]:
    table = pa.concat_tables(pending)
    keys = shuffle_keys(table["document_id"].combine_chunks(), task.seed)
    split = is_heldout(table["content_id"].combine_chunks(), task.heldout_fraction).astype(np.int64)
    source = pc.index_in(table["source"], pa.array(names)).to_numpy().astype(np.int64)
    group = source * len(SPLITS) + split
    order = np.lexsort((table["row"].to_numpy(), keys, group))
    table = _in_order(table.append_column("key", pa.array(keys)), order)
    lengths = pc.list_value_length(table["input_ids"]).to_numpy()
    sizes = table["bytes"].to_numpy()
    bounds = np.searchsorted(group[order], np.arange(len(names) * len(SPLITS) + 1))
    ranges = []
    for number, (start, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        if start == stop:
            continue
        name = names[number // len(SPLITS)]
        stage = ledger.stage(name, "tokenize")
        size = int(sizes[start:stop].sum())
        stage.documents_in += stop - start
        stage.documents_out += stop - start
        stage.bytes_in += size
        stage.bytes_out += size
        ranges.append(
            {
                "source": name,
                "split": SPLITS[number % len(SPLITS)],
                "start": start,
                "documents": stop - start,
                "tokens": int(lengths[start:stop].sum()),
                "bytes": size,
            }
        )
    writer.write_batch(table.select(schema.names).cast(schema).to_batches()[0])
    return ranges


def _in_order(table: pa.Table, order: np.ndarray) -> pa.Table:
    """The rows of a table in an order, in one chunk; `input_ids` is copied once, not thrice as by `take`."""
    lists = table["input_ids"]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    offsets = np.zeros(len(order) + 1, np.int64)
    np.cumsum(pc.list_value_length(lists).to_numpy()[order], out=offsets[1:])
    values = np.empty(offsets[-1], lists.type.value_type.to_pandas_dtype())
    first = 0
    for chunk in lists.chunks:
        starts = offsets[place[first : first + len(chunk)]]
        _copy_lists(chunk.values.to_numpy(), chunk.offsets.to_numpy(), starts, values)
        first += len(chunk)
    column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    at = table.schema.get_field_index("input_ids")
    others = table.remove_column(at).take(pa.array(order)).combine_chunks()
    return others.add_column(at, table.schema.field(at), column)


@numba.njit(cache=True, nogil=True)
def _copy_lists(values, offsets, starts, out):  # type: ignore[no-untyped-def]
    """Copy each list values[offsets[i]:offsets[i + 1]] to out[starts[i]:]."""
    for i in range(len(starts)):
        at = starts[i]
        for j in range(offsets[i], offsets[i + 1]):
            out[at] = values[j]
            at += 1


@dataclass(frozen=True)
class Run:
    """The documents of one source and split in one run of a part: [start, start + documents)."""

    survivors: Survivors
    tokens: str
    number: int
    start: int
    documents: int


@dataclass(frozen=True)
class Output:
    """A shard and its origins below the folder of a version, and their facts in a folder of work."""

    source: str
    split: str
    number: int
    folder: str
    facts: str

    @property
    def path(self) -> str:
        """Path below the version's folder."""
        return f"shards/{self.source}/{self.split}-{self.number:05d}.arrow"

    @property
    def origins(self) -> str:
        """Path of the origins below the version's folder."""
        return f"origins/{self.source}/{self.split}-{self.number:05d}.parquet"

    def facts_url(self, suffix: str = "json") -> str:
        """A file of the task in the folder of facts."""
        return files.join(self.facts, f"{self.source}.{self.split}-{self.number:05d}.{suffix}")

    def holds(self, line: dict[str, Any]) -> bool:
        """Whether shard and origins are there with the digests of a line of the manifest."""
        url, origins_url = files.join(self.folder, self.path), files.join(self.folder, self.origins)
        if not (files.exists(url) and files.exists(origins_url)):
            return False
        return (files.digest(url), files.digest(origins_url)) == (line["digest"], line.get("origins_digest"))

    def write(self, shard: pa.Table, origins: pa.Table) -> dict[str, Any]:
        """Write the shard (of one chunk) and its origins; returns its line of the manifest."""
        url, origins_url = files.join(self.folder, self.path), files.join(self.folder, self.origins)
        with files.atomic_writer(url) as stream, pa.ipc.new_file(stream, shard.schema) as writer:
            if shard.num_rows:
                writer.write_batch(shard.to_batches()[0])
        files.write_parquet(origins_url, origins)
        return {
            "path": self.path,
            "source": self.source,
            "split": self.split,
            "documents": shard.num_rows,
            "tokens": int(pc.sum(pc.list_value_length(shard["input_ids"])).as_py() or 0),
            "text_bytes": int(pc.sum(origins["bytes"]).as_py() or 0),
            "bytes": files.size(url),
            "digest": files.digest(url),
            "origins_digest": files.digest(origins_url),
        }


@dataclass(frozen=True)
class Shard(Output):
    """What merging one shard needs: the runs that hold its source and split, and its share of the keys."""

    count: int
    runs: list[Run]
    tokenizer: str
    end_of_document: str
    verify_documents: int


def write_shard(task: Shard) -> dict[str, Any]:
    """Write one shard and its origins; returns its line of the manifest.

    Raises RuntimeError when a checked document's ids differ from those of `tokenizers`.
    """
    if files.exists(task.facts_url()):
        done: dict[str, Any] = files.read_json(task.facts_url())
        # A build with another configuration may have been killed in the same version's folder.
        if task.holds(done):
            return done
    pieces, origins = [], []
    low = task.number * 2**64 // task.count
    high = (task.number + 1) * 2**64 // task.count - 1
    for run in task.runs:
        piece = _run_slice(run, low, high)
        pieces.append(piece)
        origins.append(
            pa.table(
                {
                    "file": pa.repeat(run.survivors.file, piece.num_rows).dictionary_encode(),
                    "part": pa.repeat(run.survivors.part, piece.num_rows).dictionary_encode(),
                }
            )
        )
    table = pa.concat_tables(pieces)
    origin = pa.concat_tables(origins, promote_options="permissive").unify_dictionaries()
    id_high, id_low = hashing.id_words(table["document_id"])
    order = np.lexsort((id_low, id_high, table["key"].to_numpy()))
    table = _in_order(table, order)
    origin = origin.take(pa.array(order))
    _verify(task, table, origin)
    origin_table = table.select(["document_id", "record", "row", "bytes"])
    for name in ("file", "part"):
        origin_table = origin_table.append_column(name, origin[name].cast(pa.string()))
    facts = task.write(table.select(["input_ids", "document_id"]), origin_table)
    files.write_json(task.facts_url(), facts)
    return facts


def _run_slice(run: Run, low: int, high: int) -> pa.Table:
    """The documents of a run whose keys lie within [low, high]."""
    reader = _open_runs(run.tokens)
    batch = reader.get_batch(run.number).slice(run.start, run.documents)
    keys = batch["key"].to_numpy()
    first = int(np.searchsorted(keys, np.uint64(low), "left"))
    last = int(np.searchsorted(keys, np.uint64(high), "right"))
    return pa.Table.from_batches([batch.slice(first, last - first)])


@functools.lru_cache(2)
def _tokenizer(url: str, end_of_document: str, digest: str) -> Tokenizer:
    """The tokenizer file with the given content: its tables and word cache serve all tasks of a process."""
    return Tokenizer.load(url, end_of_document)


def _verify(task: Shard, table: pa.Table, origin: pa.Table) -> None:
    """Compare the first documents of the shard with `tokenizers`: one, or as much as is allowed above."""
    sizes = np.cumsum(table["bytes"].to_numpy())
    most = min(VERIFY_BYTES, VERIFY_SHARE * sizes[-1]) if len(sizes) else 0
    count = min(len(sizes), task.verify_documents, max(int(np.searchsorted(sizes, most, "right")), 1))
    if not count:
        return
    tokenizer = _tokenizer(task.tokenizer, task.end_of_document, files.digest(task.tokenizer))
    survivors = {run.survivors.part: run.survivors for run in task.runs}
    parts = origin["part"].slice(0, count).cast(pa.string()).to_numpy(zero_copy_only=False)
    rows = table["row"].slice(0, count).to_numpy()
    for part in np.unique(parts).tolist():
        positions = np.flatnonzero(parts == part)
        positions = positions[np.argsort(rows[positions], kind="stable")]
        columns = {"row": rows[positions], "source": pa.repeat(task.source, len(positions))}
        first = 0
        for chosen, _, edited in edited_documents(survivors[part], pa.table(columns)):
            taken = positions[first : first + chosen.num_rows]
            tokenizer.verify(edited.texts, table["input_ids"].take(pa.array(taken)))
            first += chosen.num_rows


def plan_shards(
    counts: list[dict[str, Any]],
    tasks: list[Tokenize],
    target_tokens: int,
    **common: Any,
) -> list[Shard]:
    """The shards of a corpus from the token runs of `tasks` and their counts, by source, split and number.

    A source and split has about `target_tokens` tokens a shard, and no more shards than documents.
    """
    runs: dict[tuple[str, str], list[Run]] = {}
    tokens: dict[tuple[str, str], int] = {}
    by_part = sorted(zip(tasks, counts, strict=True), key=lambda pair: pair[0].survivors.part)
    for task, entry in by_part:
        for number, ranges in enumerate(entry["runs"]):
            for item in ranges:
                group = (item["source"], item["split"])
                tokens[group] = tokens.get(group, 0) + item["tokens"]
                runs.setdefault(group, []).append(
                    Run(task.survivors, task.url("arrow"), number, item["start"], item["documents"])
                )
    shards = []
    for group in sorted(runs, key=lambda group: (group[0], SPLITS.index(group[1]))):
        documents = sum(run.documents for run in runs[group])
        count = max(1, min(round(tokens[group] / target_tokens), documents))
        shards += [
            Shard(group[0], group[1], number, count=count, runs=runs[group], **common)
            for number in range(count)
        ]
    return shards
