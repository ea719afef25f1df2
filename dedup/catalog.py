"""The documents of a deduplication by number: new ones in entries files, old ones in indexes.

A *ref* names a document in 64 bits: number of its part in the catalog << 32 | row in its documents file.
New parts come first, sorted by name, so that a ref does not depend on the order in which parts are given.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from base import files
from base.errors import UserError
from dedup import hashing, runs

MAX_GROUPS = 2048
"""Routing writes groups × partitions row groups; this bounds them."""
FEWEST_GROUPS, SMALL_ROWS = 4, 20_000


@dataclass(frozen=True)
class Part:
    """One documents file."""

    name: str
    documents: str
    """URL of the Arrow file with the text."""
    table: str
    """URL of the entries parquet of a new part, of the index's locations of an old one."""
    rows: int
    """Entries of a new part; 0 for old ones."""
    version: str | None = None
    """Corpus version that an old part belongs to."""
    number: int = 0
    """Number of an old part within its index."""


@dataclass(frozen=True)
class Index:
    """An index of an earlier version that has parts (dedup/index.py)."""

    url: str
    bits: int
    """Bits of the hash prefix by which its files are divided."""
    first: int
    """Number of its first part in the catalog."""


@dataclass(frozen=True)
class Catalog:
    """All parts; the first `new` of them are those of this build.

    Documents are divided into *groups* by their part: consecutive new parts with about equally many entries.
    What is asked about a document is asked in the task of its group, so that every file is read once.
    """

    parts: list[Part]
    new: int
    group: np.ndarray
    """Group of each part, int64."""
    groups: int
    indexes: list[Index]

    def is_new(self, refs: np.ndarray) -> np.ndarray:
        """Which refs name documents of this build."""
        found: np.ndarray = refs < np.uint64(self.new << 32)
        return found

    def group_of(self, refs: np.ndarray) -> np.ndarray:
        """Group of each ref, int64."""
        groups: np.ndarray = self.group[(refs >> np.uint64(32)).astype(np.int64)]
        return groups

    def parts_of(self, group: int) -> list[int]:
        """Numbers of the new parts of a group."""
        return np.flatnonzero(self.group[: self.new] == group).tolist()


def open_catalog(
    entries: list[str], documents: dict[str, str], indexes: list[str], group_rows: int = 250_000
) -> Catalog:
    """Number the parts of `entries` (one part a file; empty files are left out) and of `indexes`.

    A group has about `group_rows` entries: more where there would be over `MAX_GROUPS` groups, and less, but
    at least SMALL_ROWS, where there would be under FEWEST_GROUPS, so that a few workers have something to do.
    """
    new = []
    for url in entries:
        name, rows = _part_of(url)
        if name is None:
            continue
        if name not in documents:
            raise UserError(f"entries file {url} names part {name}, which has no documents file")
        new.append(Part(name, documents[name], url, rows))
    new.sort(key=lambda part: part.name)
    ends = np.cumsum([part.rows for part in new])
    total = int(ends[-1]) if new else 0
    fewest = max(SMALL_ROWS, -(-total // FEWEST_GROUPS))
    group = (ends - 1) // max(min(group_rows, fewest), -(-total // MAX_GROUPS))
    group = np.unique(group, return_inverse=True)[1].astype(np.int64)
    groups = int(group[-1]) + 1 if new else 0
    old: list[Part] = []
    known = []
    for index in indexes:
        content = files.read_json(files.join(index, "index.json"))
        if content["parts"]:
            known.append(Index(index, content["bits"], len(new) + len(old)))
        for number, (name, url, version) in enumerate(content["parts"]):
            locations = files.join(index, "locations", f"{content['groups'][number]:05d}.parquet")
            old.append(Part(name, url, locations, 0, version, number))
    group = np.concatenate([group, np.arange(len(old)) % max(groups, 1)])
    return Catalog(new + old, len(new), group, groups, known)


def _part_of(url: str) -> tuple[str | None, int]:
    """(name of the part, None if there are no rows; rows) of an entries file, from its footer."""
    filesystem, path = files.split(url)
    with filesystem.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        metadata = parquet.metadata
        if metadata.num_rows == 0:
            return None, 0
        at = parquet.schema_arrow.get_field_index("part")
        columns = [metadata.row_group(i).column(at) for i in range(metadata.num_row_groups)]
        if all(column.statistics is not None and column.statistics.has_min_max for column in columns):
            names = {name for c in columns for name in (c.statistics.min, c.statistics.max)}
        else:
            names = set(pc.unique(parquet.read(["part"])["part"]).to_pylist())
    if len(names) > 1:
        raise UserError(f"entries file {url} holds several parts; write one file for each part")
    return str(names.pop()), metadata.num_rows


def refs_of(part: int, rows: pa.ChunkedArray | np.ndarray) -> np.ndarray:
    """The refs of rows of one part."""
    return (np.uint64(part) << np.uint64(32)) | np.asarray(rows).astype(np.uint64)


def _by_part(refs: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(part number, rows uint64) of sorted refs."""
    numbers, starts = np.unique(refs >> np.uint64(32), return_index=True)
    for number, start, end in zip(numbers.tolist(), starts, np.append(starts, len(refs))[1:], strict=True):
        yield number, refs[start:end] & np.uint64(0xFFFFFFFF)


def lookup(catalog: Catalog, refs: np.ndarray, columns: list[str]) -> pa.Table:
    """Some of document_id, source, rank, quality, length of `refs`, which must be sorted.

    Old documents have no source, and the largest rank: they beat every new one.
    """
    old = {"source": None, "rank": 2**31 - 1, "quality": 0.0}
    types = {"source": pa.string(), "rank": pa.int32(), "quality": pa.float32()}
    tables = []
    for number, rows in _by_part(refs):
        part = catalog.parts[number]
        if part.version is None:
            table = files.read_parquet(part.table, ["row", *columns])
            keys = table["row"].to_numpy()
            # Entries are in order of row unless someone sorted them otherwise.
            order = None if (keys[1:] > keys[:-1]).all() else np.argsort(keys, kind="stable")
            at = np.searchsorted(keys, rows.astype(keys.dtype), sorter=order)
            table = table.take(pa.array(at if order is None else order[at]))
        else:
            there = [name for name in columns if name not in old]
            table = runs.read_matching(part.table, "ref", refs_of(part.number, rows), ["ref", *there])
            for name in set(columns) - set(there):
                value = pa.scalar(old[name], types[name])
                table = table.append_column(name, pa.repeat(value, len(table)))
        if "source" in columns:
            source = table["source"].cast(pa.string())
            table = table.set_column(table.schema.get_field_index("source"), "source", source)
        tables.append(table.select(columns))
    return pa.concat_tables(tables)


def policy_order(catalog: Catalog, refs: np.ndarray, table: pa.Table) -> np.ndarray:
    """Positions of `refs` from the one to keep first to last: old by (version, place), then
    rank, quality and length descending, then id ascending. `table` has the columns that `lookup` gives.
    """
    high, low = hashing.id_words(table["document_id"])
    old = ~catalog.is_new(refs)
    quality = np.nan_to_num(table["quality"].to_numpy().astype(np.float64), nan=-np.inf)
    place = np.where(old, refs, np.uint64(0))
    rank = table["rank"].to_numpy().astype(np.int64)
    length = table["length"].to_numpy()
    return np.lexsort((refs, low, high, -length, -quality, -rank, place, ~old))


def text_batches(catalog: Catalog, refs: np.ndarray) -> Iterator[pa.Array]:
    """The texts of the sorted `refs` in their order, one array for each record batch that holds some.

    Record batches that hold none are not decompressed; local files are memory-mapped.
    """
    for number, rows in _by_part(refs):
        yield from _texts_of(catalog.parts[number].documents, rows.astype(np.int64))


def _texts_of(url: str, rows: np.ndarray) -> Iterator[pa.Array]:
    local = files.local_path(url)
    filesystem, path = files.split(url)
    with pa.memory_map(local) if local else filesystem.open(path, "rb") as file:
        # Only a batch knows how many rows it has: of those that are passed over, one short column is read.
        counts, texts = _reader(file, "document_id"), _reader(file, "text")
        start = 0
        for i in range(counts.num_record_batches):
            if start > rows[-1]:
                break
            end = start + counts.get_batch(i).num_rows
            first, last = np.searchsorted(rows, [start, end])
            if last > first:
                yield texts.get_batch(i).column("text").take(pa.array(rows[first:last] - start))
            start = end


def _reader(file: pa.NativeFile | IO[bytes], column: str) -> pa.ipc.RecordBatchFileReader:
    """A reader of one column of an Arrow file."""
    field = pa.ipc.open_file(file).schema.get_field_index(column)
    return pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=[field]))
