"""Exact deduplication: documents with equal text hashes."""

import numpy as np
import pyarrow as pa

from base import files
from dedup import catalog as catalogs
from dedup import hashing, index, runs
from dedup.catalog import Catalog

_COLUMNS = ["row", "document_id", "source", "text_hash", "rank", "quality", "length"]


def write_run(catalog: Catalog, parts: list[int], bits: int, output: str) -> None:
    """Route the entries of some parts by the first `bits` bits of their text hash."""
    tables = []
    for number in parts:
        table = files.read_parquet(catalog.parts[number].table, _COLUMNS)
        refs = catalogs.refs_of(number, table["row"])
        source = table["source"].cast(pa.string())
        table = table.set_column(2, "source", source).drop_columns(["row"])
        tables.append(table.append_column("ref", pa.array(refs)))
    table = pa.concat_tables(tables)
    high, _ = hashing.id_words(table["text_hash"])
    runs.write_run(output, table, prefix(high, bits))


def prefix(hashes: np.ndarray, bits: int) -> np.ndarray:
    """The first `bits` bits of uint64 hashes, as int64."""
    if bits == 0:
        return np.zeros(len(hashes), np.int64)
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def drop_duplicates(
    catalog: Catalog, run_urls: list[str], partitions: list[int], indexes: list[str], output: str
) -> None:
    """Keep the best of every group of equal text hash and write the others, sorted by ref.

    Columns: ref, document_id, source, length of the dropped; kept_ref, kept_id of the one that is kept. A
    document whose text an index holds is dropped in favour of the oldest version's document.
    """
    table = runs.read_partitions(run_urls, partitions)
    refs = table["ref"].to_numpy()
    # First by policy, then stably by hash: the first of each group is the one to keep.
    order = catalogs.policy_order(catalog, refs, table)
    high, low = hashing.id_words(table["text_hash"])
    order = order[np.lexsort((low[order], high[order]))]
    high, low = high[order], low[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    leader = order[np.flatnonzero(first)[np.cumsum(first) - 1]] if len(order) else order
    ids = hashing.id_bytes(table["document_id"])
    kept_refs = refs[leader]
    kept_ids = ids[leader]
    dropped = ~first
    old_refs, old_ids, found = index.find_texts(catalog, indexes, high, low)
    kept_refs[found] = old_refs[found]
    kept_ids[found] = old_ids[found]
    dropped |= found
    rows = order[dropped]
    result = table.take(pa.array(rows)).select(["ref", "document_id", "source", "length"])
    result = result.append_column("kept_ref", pa.array(kept_refs[dropped]))
    result = result.append_column("kept_id", hashing.ids_from_bytes(kept_ids[dropped]))
    files.write_parquet(output, result.sort_by("ref"))


def dropped_refs(urls: list[str], first: int, last: int) -> np.ndarray:
    """The refs in [first, last] of dropped files, sorted."""
    refs = np.concatenate(
        [np.empty(0, np.uint64)] + [files.read_parquet(url, ["ref"])["ref"].to_numpy() for url in urls]
    )
    return np.sort(refs[(refs >= np.uint64(first)) & (refs <= np.uint64(last))])
