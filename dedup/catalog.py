"""The documents of a deduplication by number: new ones in entries files, old ones in indexes.

A *ref* names a document in 64 bits: number of its part in the catalog << 32 | row in its documents file.
New parts come first, sorted by name, so that a ref does not depend on the order in which parts are given.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from base import arrow, files
from base.damage import MissingError, damaged
from base.errors import UserError
from base.records import Record
from dedup import hashing, runs
from dedup.config import MinHashConfig

INDEX = "index.json"
"""The summary of an index, below its folder; the index is complete when it is there."""
TABLES = {
    "texts": pa.schema(
        [("high", pa.uint64()), ("low", pa.uint64()), ("ref", pa.uint64()), ("document_id", pa.binary(16))]
    ),
    "bands": pa.schema([("hash", pa.uint64()), ("ref", pa.uint64())]),
    "locations": pa.schema(
        [
            ("ref", pa.uint64()),
            ("document_id", pa.binary(16)),
            ("length", pa.int64()),
            ("source", pa.string()),
        ]
    ),
}
"""The columns of an index's tables, by their folder, without nulls."""
_DOCUMENTS = pa.schema([("document_id", pa.binary(16)), ("text", pa.large_string())])
"""What is read of a documents file."""
MAX_GROUPS = 2048
"""Routing writes groups × partitions row groups; this bounds them."""
FEWEST_GROUPS, SMALL_ROWS = 4, 20_000


class Entries(NamedTuple):
    """The entries file of a new part."""

    url: str
    part: str
    rows: int


class IndexPart(NamedTuple):
    """A documents file of an index."""

    name: str
    documents: str
    """URL of the Arrow file with the text."""
    version: str
    """The corpus version that it belongs to."""


class IndexSummary(Record):
    """What index.json says of an index (dedup/index.py)."""

    has_place: ClassVar[bool] = True

    minhash: MinHashConfig = Field(strict=False)
    """Settings of the signatures."""
    bits: int = Field(ge=0, le=32)
    """Bits of the hash prefix by which its files are divided."""
    parts: list[IndexPart] = Field(strict=False)
    groups: list[int]
    """Of each part, the number of the file of locations that it is in."""

    @property
    def files(self) -> dict[str, int]:
        """How many files are in each folder of the index."""
        if not self.parts:
            return {}
        bands = self.minhash.bands << self.bits
        return {"texts": 1 << self.bits, "bands": bands, "locations": max(self.groups) + 1}

    @model_validator(mode="after")
    def _paths_stay(self) -> "IndexSummary":
        """Parts have plain names and documents files of those, and groups are numbers of some of them."""
        if len(self.groups) != len(self.parts):
            raise ValueError(f"{len(self.parts)} parts, but {len(self.groups)} groups")
        if any(not 0 <= group < len(self.parts) for group in self.groups):
            raise ValueError("a group is no number of a part")
        for part in self.parts:
            for name in (part.name, part.version):
                if not name or name in (".", "..") or set(name) & set("/\\\0"):
                    raise ValueError(f"{name!a} is the name of no part or version")
            if ".." in part.documents.split("/") or "::" in part.documents:
                raise ValueError(f"{part.documents!a} leaves its folder")
        return self


def read_summary(index: str) -> IndexSummary:
    """The summary of an index; raises UserError if the index is not there."""
    try:
        return IndexSummary.read(files.join(index, INDEX))
    except MissingError:
        raise UserError(f"dedup index {index} is not there or not complete") from None


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index of an earlier version that has parts (dedup/index.py)."""

    url: str
    bits: int
    """Bits of the hash prefix by which its files are divided."""
    first: int
    """Number of its first part in the catalog."""


@dataclass(frozen=True, kw_only=True)
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
        new: np.ndarray = refs < np.uint64(self.new << 32)
        return new

    def group_of(self, refs: np.ndarray) -> np.ndarray:
        """Group of each ref, int64."""
        groups: np.ndarray = self.group[(refs >> np.uint64(32)).astype(np.int64)]
        return groups

    def parts_of(self, group: int) -> list[int]:
        """Numbers of the new parts of a group."""
        return np.flatnonzero(self.group[: self.new] == group).tolist()


def open_catalog(
    entries: list[Entries], documents: dict[str, str], indexes: list[str], group_rows: int = 250_000
) -> Catalog:
    """Number the parts of `entries` (one part a file; empty files are left out) and of `indexes`.

    A group has about `group_rows` entries: more where there would be over `MAX_GROUPS` groups, and less, but
    at least SMALL_ROWS, where there would be under FEWEST_GROUPS, so that a few workers have something to do.
    """
    new = []
    for url, name, rows in entries:
        if not rows:
            continue
        if name not in documents:
            raise UserError(f"entries file {url} names part {name}, which has no documents file")
        new.append(Part(name=name, documents=documents[name], table=url, rows=rows))
    new.sort(key=lambda part: part.name)
    ends = np.cumsum([part.rows for part in new])
    total = int(ends[-1]) if new else 0
    fewest = max(SMALL_ROWS, -(-total // FEWEST_GROUPS))
    group = (ends - 1) // max(min(group_rows, fewest), -(-total // MAX_GROUPS))
    group = np.unique(group, return_inverse=True)[1].astype(np.int64)
    groups = int(group[-1]) + 1 if new else 0
    old: list[Part] = []
    known = []
    for url in indexes:
        summary = read_summary(url)
        if summary.parts:
            known.append(Index(url=url, bits=summary.bits, first=len(new) + len(old)))
        for number, (part, place) in enumerate(zip(summary.parts, summary.groups, strict=True)):
            old.append(
                Part(
                    name=part.name,
                    documents=part.documents,
                    table=files.join(url, "locations", f"{place:05d}.parquet"),
                    rows=0,
                    version=part.version,
                    number=number,
                )
            )
    group = np.concatenate([group, np.arange(len(old)) % max(groups, 1)])
    return Catalog(parts=new + old, new=len(new), group=group, groups=groups, indexes=known)


def read_entries(url: str) -> Entries:
    """What the footer of an entries file says; without rows it names no part."""
    with files.open_parquet(url, ["part"]) as parquet:
        metadata = parquet.metadata
        if metadata.num_rows == 0:
            return Entries(url, "", 0)
        at = parquet.schema_arrow.get_field_index("part")
        columns = [metadata.row_group(i).column(at) for i in range(metadata.num_row_groups)]
        if all(column.statistics is not None and column.statistics.has_min_max for column in columns):
            names = {name for c in columns for name in (c.statistics.min, c.statistics.max)}
        else:
            names = set(pc.unique(parquet.read(["part"])["part"]).to_pylist())
    if len(names) > 1:
        raise UserError(f"entries file {url} holds several parts; write one file for each part")
    return Entries(url, str(names.pop()), metadata.num_rows)


def refs_of(part: int, rows: pa.ChunkedArray | np.ndarray) -> np.ndarray:
    """The refs of rows of one part."""
    return (np.uint64(part) << np.uint64(32)) | np.asarray(rows).astype(np.uint64)


def dropped_refs(urls: list[str], group: int) -> np.ndarray:
    """The sorted refs of a group in runs that are partitioned by group."""
    if not urls:
        return np.empty(0, np.uint64)
    return np.sort(runs.read_partitions(urls, [group])["ref"].to_numpy())


def survivors(catalog: Catalog, group: int, dropped: list[str], columns: list[str]) -> pa.Table:
    """`ref`, sorted, and some columns of the entries of a group that are in none of the `dropped` runs."""
    gone = dropped_refs(dropped, group)
    tables = []
    for number in catalog.parts_of(group):
        table = files.read_parquet(catalog.parts[number].table, ["row", *columns])
        refs = refs_of(number, table["row"])
        at = np.searchsorted(gone, refs)
        stay = np.ones(len(refs), np.bool_)
        stay[at < len(gone)] = gone[at[at < len(gone)]] != refs[at < len(gone)]
        table = table.select(columns).append_column("ref", pa.array(refs))
        tables.append(table if stay.all() else table.filter(pa.array(stay)))
    table = pa.concat_tables(tables)
    refs = table["ref"].to_numpy()
    return table if (refs[1:] > refs[:-1]).all() else table.sort_by("ref")


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
            wanted = pa.schema([TABLES["locations"].field(name) for name in ("ref", *there)])
            table = runs.read_matching(part.table, wanted, refs_of(part.number, rows))
            if len(table) != len(rows):
                raise damaged(part.table, f"it has {len(table)} of {len(rows)} documents of part {part.name}")
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
    # Only a batch knows how many rows it has: of those that are passed over, one short column is read.
    counts, texts = arrow.open_columns(url, _DOCUMENTS)
    start = 0
    for i in range(counts.num_record_batches):
        if start > rows[-1]:
            break
        end = start + counts.get_batch(i).num_rows
        first, last = np.searchsorted(rows, [start, end])
        if last > first:
            yield texts.get_batch(i).column("text").take(pa.array(rows[first:last] - start))
        start = end
