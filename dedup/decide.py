"""Which document of each component stays, and the table of what is dropped."""

import json

import numpy as np
import pyarrow as pa

from base import files
from base.kernels import kernel
from dedup import catalog as catalogs
from dedup import hashing, runs, verify
from dedup.catalog import Catalog
from dedup.config import DedupConfig

ROUNDS = 4
"""Kept documents of a component that are compared with every remaining member."""


@kernel
def _greedy(first: np.ndarray, neighbour: np.ndarray, old: np.ndarray, keeper: np.ndarray) -> np.ndarray:
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


@kernel
def _rank_in_component(component: np.ndarray, mask: np.ndarray) -> np.ndarray:
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
    member_urls: list[str],
    edge_urls: list[str],
    share: int,
    config: DedupConfig,
    output: str,
) -> None:
    """Decide one share of the components and write what is dropped, by group, sorted by ref.

    In policy order (`catalog.policy_order`) a document stays unless it reaches the threshold with one that
    stays; old documents always stay. Members that LSH did not pair with the kept document are compared with
    it, for the first `ROUNDS` kept documents of each component; after those only known pairs count. So a
    chain is split, and every dropped document has a verified similarity with its kept one.
    Columns: ref, document_id, source, length; kept_ref, kept_id, similarity. The number of components by
    size is in the metadata as `sizes` (JSON).
    """
    known = runs.read_partitions(member_urls, [share]).sort_by("ref")
    refs, labels = known["ref"].to_numpy(), known["component"].to_numpy()
    sizes = np.unique(np.unique(labels, return_counts=True)[1], return_counts=True)
    metadata = {"sizes": json.dumps(dict(zip(*(side.tolist() for side in sizes), strict=True)))}
    policy = catalogs.policy_order(catalog, refs, known)
    place = np.empty(len(policy), np.int64)
    place[policy] = np.arange(len(policy))
    component = np.unique(labels[policy], return_inverse=True)[1]
    old = ~catalog.is_new(refs[policy])
    edges = runs.read_partitions(edge_urls, [share])
    similarity = edges["similarity"].to_numpy()
    left, right = (place[np.searchsorted(refs, edges[side].to_numpy())] for side in ("left", "right"))

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
        measured = verify.similarities(catalog, refs[policy[lead]], refs[policy[other]], config)
        enough = measured >= np.float32(config.threshold)
        left = np.concatenate([left, lead[enough]])
        right = np.concatenate([right, other[enough]])
        similarity = np.concatenate([similarity, measured[enough]])
    first, neighbour, strength = _adjacency(len(refs), left, right, similarity)
    edge = _greedy(first, neighbour, old, keeper)
    gone = np.flatnonzero(edge >= 0)
    gone = gone[np.argsort(refs[policy[gone]])]
    kept = policy[keeper[gone]]
    dropped = known.take(pa.array(policy[gone])).select(["ref", "document_id", "source", "length"])
    dropped = dropped.append_column("kept_ref", pa.array(refs[kept]))
    kept_ids = hashing.id_bytes(known["document_id"])[kept]
    dropped = dropped.append_column("kept_id", hashing.ids_from_bytes(kept_ids))
    dropped = dropped.append_column("similarity", pa.array(strength[edge[gone]], pa.float32()))
    runs.write_run(output, [(dropped, catalog.group_of(refs[policy[gone]]))], metadata)


def finish(catalog: Catalog, exact_urls: list[str], near_urls: list[str], group: int, output: str) -> None:
    """Write the final table of a group: docs/reference/formats.md names its columns.

    exact_urls, near_urls: runs by group, those of exact duplicates with or without a similarity (then it is
    1). The number and the bytes by reason are in the metadata as `counts` (JSON).
    """
    tables = []
    for reason, urls in (("exact_duplicate", exact_urls), ("near_duplicate", near_urls)):
        if not urls:
            continue
        table = runs.read_partitions(urls, [group])
        if "similarity" not in table.column_names:
            table = table.append_column("similarity", pa.array(np.ones(len(table), np.float32)))
        tables.append(table.append_column("reason", pa.repeat(reason, len(table))))
    table = pa.concat_tables(tables).sort_by("ref")
    refs = table["ref"].to_numpy()
    numbers = (refs >> np.uint64(32)).astype(np.int64)
    kept_numbers = (table["kept_ref"].to_numpy() >> np.uint64(32)).astype(np.int64)
    names = pa.array([part.name for part in catalog.parts], pa.string())
    versions = pa.array([part.version for part in catalog.parts], pa.string())
    totals = table.group_by("reason").aggregate([("length", "count"), ("length", "sum")]).to_pylist()
    counts = {row["reason"]: [row["length_count"], row["length_sum"]] for row in totals}
    result = pa.table(
        {
            "document_id": table["document_id"],
            "part": names.take(pa.array(numbers)).dictionary_encode(),
            "row": (refs & np.uint64(0xFFFFFFFF)).astype(np.uint32),
            "source": table["source"].combine_chunks().dictionary_encode(),
            "reason": table["reason"].combine_chunks().dictionary_encode(),
            "kept_id": table["kept_id"],
            "kept_version": versions.take(pa.array(kept_numbers)),
            "similarity": table["similarity"],
            "cluster": table["kept_id"],
            "bytes": table["length"],
        }
    )
    files.write_parquet(
        output, result.replace_schema_metadata({"counts": json.dumps(counts, sort_keys=True)})
    )
