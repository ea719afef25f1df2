"""Which document of each component stays, and the table of what is dropped."""

import numba
import numpy as np
import pyarrow as pa

from base import files
from dedup import catalog as catalogs
from dedup import hashing, verify
from dedup.catalog import Catalog
from dedup.config import DedupConfig

ROUNDS = 4
"""Kept documents of a component that are compared with every remaining member."""


@numba.njit(cache=True)
def _greedy(first, neighbour, old, keeper):  # type: ignore[no-untyped-def]
    """In policy order, a document is dropped for the best kept neighbour, else kept (keeper is itself).

    Nodes are numbered in policy order; node i's neighbours are neighbour[first[i]:first[i + 1]], ascending.
    Returns for each node the position of its keeper's edge, or -1.
    """
    edge = np.full(len(old), -1, np.int64)
    for i in range(len(old)):
        keeper[i] = i
        if old[i]:
            continue
        for k in range(first[i], first[i + 1]):
            j = neighbour[k]
            if j > i:
                break
            if keeper[j] == j:
                keeper[i] = j
                edge[i] = k
                break
    return edge


@numba.njit(cache=True)
def _rank_in_component(component, mask):  # type: ignore[no-untyped-def]
    """How many nodes of `mask` precede each node in its component; components are numbered from 0."""
    seen = np.zeros(component.max() + 1 if len(component) else 0, np.int64)
    rank = np.empty(len(component), np.int64)
    for i in range(len(component)):
        rank[i] = seen[component[i]]
        seen[component[i]] += mask[i]
    return rank


def _adjacency(
    count: int, left: np.ndarray, right: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    source = np.concatenate([left, right])
    target = np.concatenate([right, left])
    order = np.lexsort((target, source))
    first = np.searchsorted(source[order], np.arange(count + 1))
    return first, target[order], np.concatenate([similarity, similarity])[order]


def decide(
    catalog: Catalog,
    components: str,
    share: int,
    shares: int,
    edge_urls: list[str],
    config: DedupConfig,
    output: str,
) -> None:
    """Decide one share of the components and write what is dropped, sorted by ref.

    In policy order (`catalog.policy_order`) a document stays unless it reaches the threshold with one that
    stays; old documents always stay. Members that LSH did not pair with the kept document are compared with
    it, for the first `ROUNDS` kept documents of each component; after those only known pairs count. So a
    chain is split, and every dropped document has a verified similarity with its kept one.
    Columns: ref, document_id, source, length; kept_ref, kept_id, similarity.
    """
    table = files.read_parquet(components)
    refs, labels = table["ref"].to_numpy(), table["component"].to_numpy()
    mine = (labels * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(33)) % np.uint64(shares) == share
    refs, labels = refs[mine], labels[mine]
    order = np.argsort(refs)
    refs, labels = refs[order], labels[order]
    known = catalogs.lookup(catalog, refs) if len(refs) else None
    if known is None:
        write_dropped(output, np.empty(0, np.uint64), None, refs, refs, np.empty(0, np.float32))
        return
    policy = catalogs.policy_order(catalog, refs, known)
    place = np.empty(len(policy), np.int64)
    place[policy] = np.arange(len(policy))
    component = np.unique(labels[policy], return_inverse=True)[1]
    old = ~catalog.is_new(refs[policy])
    parts = []
    for url in edge_urls:
        edges = files.read_parquet(url)
        left, right = edges["left"].to_numpy(), edges["right"].to_numpy()
        here = np.isin(left, refs)
        parts.append((left[here], right[here], edges["similarity"].to_numpy()[here]))
    left, right, similarity = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    left, right = place[np.searchsorted(refs, left)], place[np.searchsorted(refs, right)]

    keeper = np.empty(len(refs), np.int64)
    for turn in range(ROUNDS):
        first, neighbour, strength = _adjacency(len(refs), left, right, similarity)
        _greedy(first, neighbour, old, keeper)
        leads = keeper == np.arange(len(refs))
        rank = _rank_in_component(component, leads)
        leader = np.full(len(refs), -1, np.int64)
        leader[component[leads & (rank == turn)]] = np.flatnonzero(leads & (rank == turn))
        other = np.flatnonzero(~old & (rank > turn) & (rank[keeper] > turn))
        lead = leader[component[other]]
        keys = np.sort(np.minimum(left, right) * len(refs) + np.maximum(left, right))
        wanted = lead * len(refs) + other
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        unknown = keys[at] != wanted
        lead, other = lead[unknown], other[unknown]
        if len(lead) == 0:
            continue
        one, two = refs[policy[lead]], refs[policy[other]]
        a, b = np.minimum(one, two), np.maximum(one, two)
        by = np.lexsort((b, a))
        found = verify.similarities(catalog, a[by], b[by], config.minhash)
        enough = found >= np.float32(config.threshold)
        left = np.concatenate([left, lead[by][enough]])
        right = np.concatenate([right, other[by][enough]])
        similarity = np.concatenate([similarity, found[enough]])
    first, neighbour, strength = _adjacency(len(refs), left, right, similarity)
    edge = _greedy(first, neighbour, old, keeper)
    gone = np.flatnonzero(edge >= 0)
    gone = gone[np.argsort(refs[policy[gone]])]
    kept = policy[keeper[gone]]
    rows = known.take(pa.array(policy[gone]))
    kept_ids = hashing.id_bytes(known["document_id"])[kept]
    write_dropped(output, refs[policy[gone]], rows, refs[kept], kept_ids, strength[edge[gone]])


def write_dropped(
    output: str,
    refs: np.ndarray,
    rows: pa.Table | None,
    kept_refs: np.ndarray,
    kept_ids: np.ndarray,
    similarity: np.ndarray,
) -> None:
    """Write near-duplicates with the columns that `decide` documents."""
    empty = pa.table({"document_id": pa.array([], pa.binary(16)), "source": pa.array([], pa.string())})
    rows = empty.append_column("length", pa.array([], pa.int64())) if rows is None else rows
    files.write_parquet(
        output,
        pa.table(
            {
                "ref": pa.array(refs, pa.uint64()),
                "document_id": rows["document_id"],
                "source": rows["source"],
                "length": rows["length"],
                "kept_ref": pa.array(kept_refs, pa.uint64()),
                "kept_id": hashing.ids_from_bytes(kept_ids.reshape(-1, 16))
                if len(refs)
                else empty["document_id"],
                "similarity": pa.array(similarity, pa.float32()),
            }
        ),
    )


def finish(catalog: Catalog, exact_urls: list[str], near_urls: list[str], which: str, output: str) -> None:
    """Write the final table of one of the files: docs/architecture.md names its columns.

    An exact duplicate whose kept document was itself dropped as a near-duplicate gets the document that
    stays in the end, with that one's similarity: equal texts have equal shingle sets.
    """
    exact_duplicate = which in exact_urls
    table = files.read_parquet(which)
    kept_refs = table["kept_ref"].to_numpy().copy()
    kept_ids = hashing.id_bytes(table["kept_id"]).copy()
    if exact_duplicate:
        similarity = np.ones(len(table), np.float32)
        near = [files.read_parquet(url) for url in near_urls]
        if near and len(table):
            moved = pa.concat_tables(near).sort_by("ref")
            sources = moved["ref"].to_numpy()
            at = np.minimum(np.searchsorted(sources, kept_refs), max(len(sources) - 1, 0))
            hit = sources[at] == kept_refs if len(sources) else np.zeros(len(table), np.bool_)
            kept_refs[hit] = moved["kept_ref"].to_numpy()[at[hit]]
            kept_ids[hit] = hashing.id_bytes(moved["kept_id"])[at[hit]]
            similarity[hit] = moved["similarity"].to_numpy()[at[hit]]
    else:
        similarity = table["similarity"].to_numpy()
    refs = table["ref"].to_numpy()
    numbers = (refs >> np.uint64(32)).astype(np.int64)
    kept_numbers = (kept_refs >> np.uint64(32)).astype(np.int64)
    names = pa.array([part.name for part in catalog.parts], pa.string())
    versions = pa.array([part.version for part in catalog.parts], pa.string())
    kept = hashing.ids_from_bytes(kept_ids)
    reason = "exact_duplicate" if exact_duplicate else "near_duplicate"
    files.write_parquet(
        output,
        pa.table(
            {
                "document_id": table["document_id"],
                "part": names.take(pa.array(numbers)).dictionary_encode(),
                "row": (refs & np.uint64(0xFFFFFFFF)).astype(np.uint32),
                "source": table["source"].combine_chunks().dictionary_encode(),
                "reason": pa.array([reason], pa.string())
                .take(pa.array(np.zeros(len(refs), np.int64)))
                .dictionary_encode(),
                "kept_id": kept,
                "kept_version": versions.take(pa.array(kept_numbers)),
                "similarity": pa.array(similarity, pa.float32()),
                "cluster": kept,
                "bytes": table["length"],
            }
        ),
    )
