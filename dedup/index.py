"""The index of a corpus version: text hashes and bands of its documents, sorted, with where their text is.

    index.json          catalog.IndexSummary, written last of all: the index is complete when it is there
    texts/<prefix>      high, low (halves of the text hash), ref, document_id; sorted by high, low, ref
    bands/<partition>   hash, ref; sorted by hash, ref; partition = band << bits | prefix
    locations/<group>   ref, document_id, length, source; sorted by ref

A prefix is the first `bits` bits of a hash, names are of five digits and more, files are parquet. A ref is
part number << 32 | row, parts numbered as in index.json. A build reads of a row group one column of 8 bytes a
document, and the others only where a hash is found. An index is never changed after it is written.
"""

import numpy as np
import pyarrow as pa

from base import files
from base.errors import UserError
from dedup import catalog as catalogs
from dedup import hashing, runs
from dedup.catalog import Catalog, Index

ROW_GROUP = 65536


def find_texts(
    catalog: Catalog, high: np.ndarray, low: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For text hashes sorted by (high, low): the ref and id of the oldest equal text, and which have one."""
    refs = np.zeros(len(high), np.uint64)
    ids = np.zeros((len(high), 16), np.uint8)
    there = np.zeros(len(high), np.bool_)
    for index in catalog.indexes:
        table = _matching(index, "texts", 0, np.unique(high))
        # Several texts may share the upper half: only equal whole hashes count, the first of each.
        old_high, old_low = table["high"].to_numpy(), table["low"].to_numpy()
        first = np.searchsorted(old_high, high)
        last = np.searchsorted(old_high, high, side="right")
        for step in range(int((last - first).max()) if len(high) else 0):
            at = np.minimum(first + step, max(len(old_high) - 1, 0))
            hit = (first + step < last) & (old_low[at] == low) & ~there
            refs[hit] = table["ref"].to_numpy()[at[hit]] + np.uint64(index.first << 32)
            ids[hit] = hashing.id_bytes(table["document_id"])[at[hit]]
            there |= hit
    return refs, ids, there


def find_band(catalog: Catalog, band: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hash, ref) of the old documents that have one of the sorted, distinct `hashes` in a band."""
    shared = [np.empty(0, np.uint64)]
    refs = [np.empty(0, np.uint64)]
    for index in catalog.indexes:
        table = _matching(index, "bands", band, hashes)
        shared.append(table["hash"].to_numpy())
        refs.append(table["ref"].to_numpy() + np.uint64(index.first << 32))
    return np.concatenate(shared), np.concatenate(refs)


def _matching(index: Index, folder: str, band: int, hashes: np.ndarray) -> pa.Table:
    """The rows of a folder's tables whose first column is one of the sorted, distinct `hashes`."""
    prefixes = hashing.prefix(hashes, index.bits)
    tables = [
        runs.read_matching(
            files.join(index.url, folder, f"{band << index.bits | prefix:05d}.parquet"),
            catalogs.TABLES[folder],
            hashes[prefixes == prefix],
        )
        for prefix in np.unique(prefixes).tolist() or [0]
    ]
    return pa.concat_tables(tables)


def write_gone(catalog: Catalog, dropped: list[str], output: str) -> None:
    """Route the documents of tables with the columns part and row by group; other parts are ignored."""
    numbers = {part.name: number for number, part in enumerate(catalog.parts)}
    refs = [np.empty(0, np.uint64)]
    for url in dropped:
        table = files.read_parquet(url, ["part", "row"])
        names = hashing.one_array(table["part"].cast(pa.string())).dictionary_encode()
        number = np.array([numbers.get(name, -1) for name in names.dictionary.to_pylist()], np.int64)
        number = number[names.indices.to_numpy()] if len(table) else np.empty(0, np.int64)
        here = number >= 0
        refs.append(
            number[here].astype(np.uint64) << np.uint64(32) | table["row"].to_numpy()[here].astype(np.uint64)
        )
    distinct = np.unique(np.concatenate(refs))
    runs.write_run(output, [(pa.table({"ref": distinct}), catalog.group_of(distinct))])


def write_texts_run(catalog: Catalog, group: int, dropped: list[str], bits: int, output: str) -> None:
    """Route the text hashes of the entries of a group that are in no `dropped` run by prefix."""
    table = catalogs.survivors(catalog, group, dropped, ["text_hash", "document_id"])
    high, low = hashing.id_words(table["text_hash"])
    hashes = pa.table({"high": high, "low": low, "ref": table["ref"], "document_id": table["document_id"]})
    runs.write_run(output, [(hashes, hashing.prefix(high, bits))])


def write_texts(catalog: Catalog, run_urls: list[str], prefix: int, output: str) -> None:
    """Write the text hashes of one prefix from the runs of `write_texts_run`."""
    table = runs.read_partitions(run_urls, [prefix])
    order = np.lexsort([table[name].to_numpy() for name in ("ref", "low", "high")])
    runs.write_sorted(output, table.take(pa.array(order)), ROW_GROUP)


def write_locations(catalog: Catalog, group: int, dropped: list[str], output: str) -> None:
    """Write where the texts of the entries of a group are that are in no `dropped` run."""
    table = catalogs.survivors(catalog, group, dropped, ["document_id", "length", "source"])
    source = table["source"].cast(pa.string())
    table = table.select(["ref", "document_id", "length"]).append_column("source", source)
    runs.write_sorted(output, table, ROW_GROUP)


def write_band(catalog: Catalog, run_urls: list[str], partition: int, output: str) -> None:
    """Write one partition of the bands of the documents in the runs of `candidates.write_run`."""
    table = runs.read_partitions(run_urls, [partition]).select(["hash", "ref"])
    order = np.lexsort((table["ref"].to_numpy(), table["hash"].to_numpy()))
    runs.write_sorted(output, table.take(pa.array(order)), ROW_GROUP)


def compact(catalog: Catalog, folder: str, bits: int, partition: int, output: str) -> None:
    """Write one partition of texts or bands of all indexes of the catalog as that of one index.

    catalog: without new parts. bits: at least those of every index.
    """
    prefix = partition & ((1 << bits) - 1)
    tables = []
    for index in catalog.indexes:
        file = f"{partition >> (bits - index.bits):05d}.parquet"
        table = files.read_parquet(files.join(index.url, folder, file), catalogs.TABLES[folder])
        table = _numbered(index, table)
        mine = hashing.prefix(table[table.column_names[0]].to_numpy(), bits) == prefix
        tables.append(table.filter(pa.array(mine)))
    table = pa.concat_tables(tables)
    keys = ["ref", *(name for name in ("low", "high", "hash") if name in table.column_names)]
    order = np.lexsort([table[name].to_numpy() for name in keys])
    runs.write_sorted(output, table.take(pa.array(order)), ROW_GROUP)


def compact_locations(catalog: Catalog, number: int, url: str, output: str) -> None:
    """Write a locations file of index `number` of the catalog with the catalog's refs."""
    table = _numbered(catalog.indexes[number], files.read_parquet(url, catalogs.TABLES["locations"]))
    runs.write_sorted(output, table, ROW_GROUP)


def _numbered(index: Index, table: pa.Table) -> pa.Table:
    """A table of an index with the refs of the catalog."""
    refs = table["ref"].to_numpy() + np.uint64(index.first << 32)
    return table.set_column(table.schema.get_field_index("ref"), "ref", pa.array(refs))


def route_by_part(catalog: Catalog, folder: str, partition: int, output: str) -> None:
    """Route one file of texts or bands of the catalog's only index by part, for `write_entries`."""
    (index,) = catalog.indexes
    table = files.read_parquet(files.join(index.url, folder, f"{partition:05d}.parquet"))
    if folder == "bands":
        band = np.full(len(table), partition >> index.bits, np.int32)
        table = table.append_column("band", pa.array(band))
    numbers = (table["ref"].to_numpy() >> np.uint64(32)).astype(np.int64)
    runs.write_run(output, [(table, numbers)])


def write_entries(
    catalog: Catalog, number: int, texts: list[str], bands: list[str], width: int, output: str
) -> None:
    """Write the entries of one part of the catalog's only index, from the runs of `route_by_part`.

    Ranks and qualities are 0: documents of one index are no duplicates of each other.
    """
    part = catalog.parts[number]
    table = files.read_parquet(part.table)
    table = table.filter(pa.array(table["ref"].to_numpy() >> np.uint64(32) == number))
    refs, count = table["ref"].to_numpy(), len(table)
    hashes = runs.read_partitions(texts, [number]).sort_by("ref")
    hashed = runs.read_partitions(bands, [number])
    if not np.array_equal(hashes["ref"], refs) or not np.isin(hashed["ref"], refs).all():
        raise UserError(
            f"the tables of the dedup index of part {part.name} are not of the same documents; jobs.verify "
            "--rebuild on the storage of that part makes the index again"
        )
    at = np.searchsorted(refs, hashed["ref"].to_numpy())
    matrix = np.zeros((count, width), np.uint64)
    matrix[at, hashed["band"].to_numpy()] = hashed["hash"].to_numpy()
    shingles = np.zeros(count, np.int32)
    shingles[at] = 1
    entries = {
        "document_id": table["document_id"],
        "part": pa.repeat(part.name, count).dictionary_encode(),
        "row": (refs & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        "source": table["source"].combine_chunks().dictionary_encode(),
        "text_hash": hashing.ids_from_words(hashes["high"].to_numpy(), hashes["low"].to_numpy()),
        "rank": np.zeros(count, np.int32),
        "quality": np.zeros(count, np.float32),
        "length": table["length"],
        "bands": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), width),
        "shingles": shingles,
    }
    files.write_parquet(output, pa.table(entries))
