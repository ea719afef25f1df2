"""The index of a corpus version: text hashes and bands of its documents, sorted, with where their text is.

    index.json               version, minhash settings, parts [[name, documents URL]]
    texts/00000.parquet      high, low (halves of the text hash), ref, document_id; sorted by high, low, ref
    bands/00000.parquet …    hash, ref; one file a band, sorted by hash, ref
    locations/00000.parquet  ref, document_id, length; sorted by ref

A ref is part number << 32 | row, parts numbered as in index.json. Row groups are small, so that a build with
little new data reads only those that can match. An index is never changed after it is written.
"""

import numpy as np
import pyarrow as pa

from base import files
from base.errors import UserError
from dedup import catalog as catalogs
from dedup import exact, hashing, runs
from dedup.catalog import Catalog

ROW_GROUP = 16384


def _offsets(catalog: Catalog, indexes: list[str]) -> list[np.uint64]:
    """What turns each index's refs into refs of the catalog."""
    starts = []
    number = catalog.new
    for index in indexes:
        starts.append(np.uint64(number << 32))
        number += len(summary(index)["parts"])
    return starts


def find_texts(
    catalog: Catalog, indexes: list[str], high: np.ndarray, low: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For text hashes sorted by (high, low): the ref and id of the oldest equal text, and which have one."""
    refs = np.zeros(len(high), np.uint64)
    ids = np.zeros((len(high), 16), np.uint8)
    found = np.zeros(len(high), np.bool_)
    for index, start in zip(indexes, _offsets(catalog, indexes), strict=True):
        if not summary(index)["parts"]:
            continue
        table = runs.read_between(
            files.join(index, "texts", "00000.parquet"), "high", high, ["high", "low", "ref", "document_id"]
        )
        if len(table) == 0:
            continue
        old_high = table["high"].to_numpy()
        at = np.minimum(np.searchsorted(old_high, high), len(old_high) - 1)
        hit = (old_high[at] == high) & (table["low"].to_numpy()[at] == low) & ~found
        refs[hit] = table["ref"].to_numpy()[at[hit]] + start
        ids[hit] = hashing.id_bytes(table["document_id"])[at[hit]]
        found |= hit
    return refs, ids, found


def find_band(
    catalog: Catalog, indexes: list[str], band: int, hashes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(hash, ref) of the old documents that have one of the sorted `hashes` in a band."""
    found = [np.empty(0, np.uint64)]
    refs = [np.empty(0, np.uint64)]
    for index, start in zip(indexes, _offsets(catalog, indexes), strict=True):
        if not summary(index)["parts"]:
            continue
        table = runs.read_between(_band_url(index, band), "hash", hashes, ["hash", "ref"])
        old = table["hash"].to_numpy()
        if len(old) == 0 or len(hashes) == 0:
            continue
        hit = hashes[np.minimum(np.searchsorted(hashes, old), len(hashes) - 1)] == old
        found.append(old[hit])
        refs.append(table["ref"].to_numpy()[hit] + start)
    return np.concatenate(found), np.concatenate(refs)


def _band_url(index: str, band: int) -> str:
    return files.join(index, "bands", f"{band:05d}.parquet")


def summary(index: str) -> dict:
    """The content of index.json; raises UserError if the index is not there."""
    try:
        content: dict = files.read_json(files.join(index, "index.json"))
    except FileNotFoundError:
        raise UserError(f"dedup index {index} is not there or not complete") from None
    return content


def write_gone(catalog: Catalog, dropped: list[str], output: str) -> None:
    """Write the refs, sorted, of tables with the columns part and row; other parts are ignored."""
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
    files.write_parquet(output, pa.table({"ref": np.unique(np.concatenate(refs))}))


def _survivors(catalog: Catalog, dropped: list[str], columns: list[str]) -> pa.Table:
    """Some columns of the new entries that are in no `dropped` file, and their ref; sorted by ref."""
    gone = exact.dropped_refs(dropped, 0, catalog.new << 32)
    tables = []
    for number in range(catalog.new):
        table = files.read_parquet(catalog.parts[number].table, ["row", *columns])
        refs = catalogs.refs_of(number, table["row"])
        table = table.select(columns).append_column("ref", pa.array(refs))
        tables.append(table.filter(pa.array(~np.isin(refs, gone))))
    return pa.concat_tables(tables).sort_by("ref")


def write_texts(catalog: Catalog, dropped: list[str], output: str) -> None:
    """Write the text hashes of the new entries that are in no `dropped` file."""
    table = _survivors(catalog, dropped, ["text_hash", "document_id"])
    refs = table["ref"].to_numpy()
    high, low = hashing.id_words(table["text_hash"])
    hashes = pa.table({"high": high, "low": low, "ref": refs, "document_id": table["document_id"]})
    hashes = hashes.take(pa.array(np.lexsort((refs, low, high))))
    files.write_parquet(output, hashes, row_group_size=ROW_GROUP)


def write_locations(catalog: Catalog, dropped: list[str], output: str) -> None:
    """Write where the texts of the new entries are that are in no `dropped` file."""
    table = _survivors(catalog, dropped, ["document_id", "length"])
    files.write_parquet(output, table.select(["ref", "document_id", "length"]), row_group_size=ROW_GROUP)


def write_band(catalog: Catalog, run_urls: list[str], band: int, bits: int, output: str) -> None:
    """Write one band of the documents in the runs of `candidates.write_run`."""
    partitions = list(range(band << bits, (band + 1) << bits))
    table = runs.read_partitions(run_urls, partitions).select(["hash", "ref"])
    order = np.lexsort((table["ref"].to_numpy(), table["hash"].to_numpy()))
    files.write_parquet(output, table.take(pa.array(order)), row_group_size=ROW_GROUP)


def write_summary(catalog: Catalog, version: str, minhash: dict, output: str) -> None:
    """Write index.json, last of all: the index is complete when it is there."""
    parts = [[part.name, part.documents] for part in catalog.parts[: catalog.new]]
    files.write_json(
        files.join(output, "index.json"), {"version": version, "minhash": minhash, "parts": parts}
    )
