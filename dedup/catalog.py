"""The documents of a deduplication by number: new ones in entries files, old ones in indexes.

A *ref* names a document in 64 bits: number of its part in the catalog << 32 | row in its documents file.
New parts come first, sorted by name, so that a ref does not depend on the order in which parts are given.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from base import files
from base.errors import UserError
from dedup import hashing, runs


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
class Catalog:
    """All parts; the first `new` of them are those of this build."""

    parts: list[Part]
    new: int

    def is_new(self, refs: np.ndarray) -> np.ndarray:
        """Which refs name documents of this build."""
        found: np.ndarray = refs < np.uint64(self.new << 32)
        return found


def open_catalog(entries: list[str], documents: dict[str, str], indexes: list[str]) -> Catalog:
    """Number the parts of `entries` (one part a file; empty files are left out) and of `indexes`."""
    new = []
    for url in entries:
        names = pc.unique(files.read_parquet(url, ["part"])["part"]).to_pylist()
        if not names:
            continue
        if len(names) > 1:
            raise UserError(f"entries file {url} holds {len(names)} parts; write one file for each part")
        filesystem, path = files.split(url)
        with filesystem.open(path, "rb") as file:
            rows = pq.ParquetFile(file).metadata.num_rows
        if names[0] not in documents:
            raise UserError(f"entries file {url} names part {names[0]}, which has no documents file")
        new.append(Part(names[0], documents[names[0]], url, rows))
    new.sort(key=lambda part: part.name)
    old = []
    for index in indexes:
        content = files.read_json(files.join(index, "index.json"))
        locations = files.join(index, "locations", "00000.parquet")
        for number, (name, url) in enumerate(content["parts"]):
            old.append(Part(name, url, locations, 0, content["version"], number))
    return Catalog(new + old, len(new))


def refs_of(part: int, rows: pa.ChunkedArray | np.ndarray) -> np.ndarray:
    """The refs of rows of one part."""
    return (np.uint64(part) << np.uint64(32)) | np.asarray(rows).astype(np.uint64)


def _by_part(refs: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(part number, rows uint64) of sorted refs."""
    numbers, starts = np.unique(refs >> np.uint64(32), return_index=True)
    for number, rows in zip(numbers, np.split(refs & np.uint64(0xFFFFFFFF), starts[1:]), strict=True):
        yield int(number), rows


def lookup(catalog: Catalog, refs: np.ndarray) -> pa.Table:
    """document_id, source (null for old documents), rank, quality, length of `refs`, which must be sorted.

    Old documents have the largest rank: they beat every new one.
    """
    tables = []
    for number, rows in _by_part(refs):
        part = catalog.parts[number]
        if part.version is None:
            table = files.read_parquet(
                part.table, ["row", "document_id", "source", "rank", "quality", "length"]
            )
            keys = table["row"].to_numpy().astype(np.uint64)
        else:
            wanted = refs_of(part.number, rows)
            table = runs.read_between(part.table, "ref", wanted, ["ref", "document_id", "length"])
            keys = table["ref"].to_numpy()
            rows = wanted
        order = np.argsort(keys, kind="stable")
        table = table.take(pa.array(order[np.searchsorted(keys, rows, sorter=order)]))
        if part.version is not None:
            count = len(table)
            table = table.append_column("source", pa.nulls(count, pa.string()))
            table = table.append_column("rank", pa.array(np.full(count, 2**31 - 1, np.int32)))
            table = table.append_column("quality", pa.array(np.zeros(count, np.float32)))
        table = table.set_column(
            table.schema.get_field_index("source"), "source", table["source"].cast(pa.string())
        )
        tables.append(table.select(["document_id", "source", "rank", "quality", "length"]))
    return pa.concat_tables(tables)


def policy_order(catalog: Catalog, refs: np.ndarray, table: pa.Table) -> np.ndarray:
    """Positions of `refs` from the one to keep first to last: old by (version, place), then
    rank, quality and length descending, then id ascending. `table` is as `lookup` gives it.
    """
    high, low = hashing.id_words(table["document_id"])
    old = ~catalog.is_new(refs)
    quality = np.nan_to_num(table["quality"].to_numpy().astype(np.float64), nan=-np.inf)
    place = np.where(old, refs, np.uint64(0))
    rank = table["rank"].to_numpy().astype(np.int64)
    length = table["length"].to_numpy()
    return np.lexsort((refs, low, high, -length, -quality, -rank, place, ~old))


def fetch_texts(catalog: Catalog, refs: np.ndarray) -> pa.Array:
    """The text of each of the sorted `refs`, large_string; local files are memory-mapped."""
    chunks = []
    for number, rows in _by_part(refs):
        chunks += _texts_of(catalog.parts[number].documents, rows.astype(np.int64))
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.large_string())


def _texts_of(url: str, rows: np.ndarray) -> list[pa.Array]:
    local = files.local_path(url)
    filesystem, path = files.split(url)
    with pa.memory_map(local) if local else filesystem.open(path, "rb") as file:
        reader = pa.ipc.open_file(file)
        chunks = []
        start = 0
        for i in range(reader.num_record_batches):
            if start > rows[-1]:
                break
            batch = reader.get_batch(i)
            inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + batch.num_rows)]
            if len(inside):
                chunks.append(batch.column("text").take(pa.array(inside - start)))
            start += batch.num_rows
        return chunks
