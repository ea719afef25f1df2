"""Exact deduplication: documents with equal text hashes."""

import numpy as np
import pyarrow as pa

from base import files
from dedup import catalog as catalogs
from dedup import hashing, index, runs
from dedup.catalog import Catalog

_COLUMNS = ["row", "document_id", "source", "text_hash", "rank", "quality", "length"]


def write_run(catalog: Catalog, group: int, bits: int, output: str) -> None:
    """Route the entries of a group by the first `bits` bits of their text hash."""
    tables = []
    for number in catalog.parts_of(group):
        table = files.read_parquet(catalog.parts[number].table, _COLUMNS)
        refs = catalogs.refs_of(number, table["row"])
        source = table["source"].cast(pa.string())
        table = table.set_column(2, "source", source).drop_columns(["row"])
        tables.append(table.append_column("ref", pa.array(refs)))
    table = pa.concat_tables(tables)
    high, _ = hashing.id_words(table["text_hash"])
    runs.write_run(output, [(table, hashing.prefix(high, bits))])


def drop_duplicates(catalog: Catalog, run_urls: list[str], partitions: list[int], output: str) -> None:
    """Keep the best of every group of equal text hash and write the others by their group, sorted by ref.

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
    old_refs, old_ids, known = index.find_texts(catalog, high, low)
    kept_refs[known] = old_refs[known]
    kept_ids[known] = old_ids[known]
    dropped |= known
    rows = order[dropped]
    result = table.take(pa.array(rows)).select(["ref", "document_id", "source", "length"])
    result = result.append_column("kept_ref", pa.array(kept_refs[dropped]))
    result = result.append_column("kept_id", hashing.ids_from_bytes(kept_ids[dropped]))
    result = result.sort_by("ref")
    runs.write_run(output, [(result, catalog.group_of(result["ref"].to_numpy()))])


def route_by_kept(catalog: Catalog, dropped: str, output: str) -> None:
    """Route what `drop_duplicates` wrote by the group of the kept document."""
    table = files.read_parquet(dropped)
    runs.write_run(output, [(table, catalog.group_of(table["kept_ref"].to_numpy()))])


def follow_kept(catalog: Catalog, run_urls: list[str], near_urls: list[str], group: int, output: str) -> None:
    """Name the document that stays for exact duplicates whose kept document is a near-duplicate itself.

    run_urls: of `route_by_kept`; near_urls: of `decide.decide`. Written by group of the dropped document,
    with the similarity with the document that stays, which is that of the kept one: equal texts have equal
    shingle sets.
    """
    table = runs.read_partitions(run_urls, [group])
    kept_refs = table["kept_ref"].to_numpy().copy()
    kept_ids = hashing.id_bytes(table["kept_id"]).copy()
    similarity = np.ones(len(table), np.float32)
    moved = runs.read_partitions(near_urls, [group]).sort_by("ref")
    sources = moved["ref"].to_numpy()
    if len(sources):
        at = np.minimum(np.searchsorted(sources, kept_refs), len(sources) - 1)
        hit = sources[at] == kept_refs
        kept_refs[hit] = moved["kept_ref"].to_numpy()[at[hit]]
        kept_ids[hit] = hashing.id_bytes(moved["kept_id"])[at[hit]]
        similarity[hit] = moved["similarity"].to_numpy()[at[hit]]
    result = pa.table(
        {
            **{name: table[name] for name in ("ref", "document_id", "source", "length")},
            "kept_ref": kept_refs,
            "kept_id": hashing.ids_from_bytes(kept_ids),
            "similarity": similarity,
        }
    )
    runs.write_run(output, [(result, catalog.group_of(table["ref"].to_numpy()))])
