"""The index of a corpus version: text hashes and bands of its documents, sorted, with where their text is.

    index.json          version, minhash settings, bits, parts [[name, documents URL]], groups (one a part)
    texts/<prefix>      high, low (halves of the text hash), ref, document_id; sorted by high, low, ref
    bands/<partition>   hash, ref; sorted by hash, ref; partition = band << bits | prefix
    locations/<group>   ref, document_id, length; sorted by ref

A prefix is the first `bits` bits of a hash, names are of five digits and more, files are parquet. A ref is
part number << 32 | row, parts numbered as in index.json. A build reads of a row group one column of 8 bytes a
document, and the others only where a hash is found. An index is never changed after it is written.
"""

import numpy as np
import pyarrow as pa

from base import files
from base.errors import UserError
from dedup import exact, hashing, runs
from dedup.catalog import Catalog, Index

ROW_GROUP = 65536


def find_texts(
    catalog: Catalog, high: np.ndarray, low: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For text hashes sorted by (high, low): the ref and id of the oldest equal text, and which have one."""
    refs = np.zeros(len(high), np.uint64)
    ids = np.zeros((len(high), 16), np.uint8)
    found = np.zeros(len(high), np.bool_)
    for index in catalog.indexes:
        table = _matching(index, "texts", 0, np.unique(high), ["high", "low", "ref", "document_id"])
        # Several texts may share the upper half: only equal whole hashes count, the first of each.
        old_high, old_low = table["high"].to_numpy(), table["low"].to_numpy()
        first = np.searchsorted(old_high, high)
        last = np.searchsorted(old_high, high, side="right")
        for step in range(int((last - first).max()) if len(high) else 0):
            at = np.minimum(first + step, max(len(old_high) - 1, 0))
            hit = (first + step < last) & (old_low[at] == low) & ~found
            refs[hit] = table["ref"].to_numpy()[at[hit]] + np.uint64(index.first << 32)
            ids[hit] = hashing.id_bytes(table["document_id"])[at[hit]]
            found |= hit
    return refs, ids, found


def find_band(catalog: Catalog, band: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hash, ref) of the old documents that have one of the sorted, distinct `hashes` in a band."""
    found = [np.empty(0, np.uint64)]
    refs = [np.empty(0, np.uint64)]
    for index in catalog.indexes:
        table = _matching(index, "bands", band, hashes, ["hash", "ref"])
        found.append(table["hash"].to_numpy())
        refs.append(table["ref"].to_numpy() + np.uint64(index.first << 32))
    return np.concatenate(found), np.concatenate(refs)


def _matching(index: Index, folder: str, band: int, hashes: np.ndarray, columns: list[str]) -> pa.Table:
    """The rows of an index whose first of `columns` is one of the sorted, distinct `hashes`."""
    prefixes = exact.prefix(hashes, index.bits)
    tables = [
        runs.read_matching(
            files.join(index.url, folder, f"{band << index.bits | prefix:05d}.parquet"),
            columns[0],
            hashes[prefixes == prefix],
            columns,
        )
        for prefix in np.unique(prefixes).tolist() or [0]
    ]
    return pa.concat_tables(tables)


def summary(index: str) -> dict:
    """The content of index.json; raises UserError if the index is not there."""
    try:
        content: dict = files.read_json(files.join(index, "index.json"))
    except FileNotFoundError:
        raise UserError(f"dedup index {index} is not there or not complete") from None
    return content


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
    table = exact.survivors(catalog, group, dropped, ["text_hash", "document_id"])
    high, low = hashing.id_words(table["text_hash"])
    hashes = pa.table({"high": high, "low": low, "ref": table["ref"], "document_id": table["document_id"]})
    runs.write_run(output, [(hashes, exact.prefix(high, bits))])


def write_texts(catalog: Catalog, run_urls: list[str], prefix: int, output: str) -> None:
    """Write the text hashes of one prefix from the runs of `write_texts_run`."""
    table = runs.read_partitions(run_urls, [prefix])
    order = np.lexsort([table[name].to_numpy() for name in ("ref", "low", "high")])
    runs.write_sorted(output, table.take(pa.array(order)), ROW_GROUP)


def write_locations(catalog: Catalog, group: int, dropped: list[str], output: str) -> None:
    """Write where the texts of the entries of a group are that are in no `dropped` run."""
    table = exact.survivors(catalog, group, dropped, ["document_id", "length"])
    runs.write_sorted(output, table.select(["ref", "document_id", "length"]), ROW_GROUP)


def write_band(catalog: Catalog, run_urls: list[str], partition: int, output: str) -> None:
    """Write one partition of the bands of the documents in the runs of `candidates.write_run`."""
    table = runs.read_partitions(run_urls, [partition]).select(["hash", "ref"])
    order = np.lexsort((table["ref"].to_numpy(), table["hash"].to_numpy()))
    runs.write_sorted(output, table.take(pa.array(order)), ROW_GROUP)


def write_summary(catalog: Catalog, version: str, minhash: dict, bits: int, output: str) -> None:
    """Write index.json, last of all: the index is complete when it is there."""
    content = {
        "version": version,
        "minhash": minhash,
        "bits": bits,
        "parts": [[part.name, part.documents] for part in catalog.parts[: catalog.new]],
        "groups": catalog.group[: catalog.new].tolist(),
    }
    files.write_json(files.join(output, "index.json"), content)
