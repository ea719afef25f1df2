"""Connected components: union-find over edge files, then alternating stars where one task cannot hold all.

A component is named by its smallest ref. Rows (ref, other) are undirected edges, written by the group of
`ref`. Large-star connects a document's larger neighbours with its smallest one, small-star its smaller ones;
both alternate until nothing changes, when every component is a star around its smallest member. Source:
Kiveris, Lattanzi, Mirrokni, Rastogi, Vassilvitskii 2014, "Connected Components in MapReduce and Beyond". The
rounds grow with the logarithm of the component sizes. A task holds the edges of one group of documents, and
those of the largest component whose centre is in it.
"""

import numpy as np
import pyarrow as pa

from base import files
from base.kernels import GOLDEN, kernel
from dedup import candidates, runs
from dedup import catalog as catalogs
from dedup.catalog import Catalog


@kernel
def _find(parent: np.ndarray, x: int) -> int:
    while parent[x] != x:
        parent[x] = parent[parent[x]]
        x = parent[x]
    return x


@kernel
def _roots(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The smallest node of each node's component."""
    parent = np.arange(count)
    for i in range(len(left)):
        a = _find(parent, left[i])
        b = _find(parent, right[i])
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    for i in range(count):
        parent[i] = parent[parent[i]]
    return parent


def _write(catalog: Catalog, output: str, refs: np.ndarray, others: np.ndarray, changed: int) -> None:
    refs, others = candidates.distinct(refs, others)
    table = pa.table({"ref": refs, "other": others})
    runs.write_run(output, [(table, catalog.group_of(refs))], {"changed": str(changed)})


def forest(catalog: Catalog, edge_urls: list[str], output: str) -> None:
    """Every document of some edge files (left, right) with the smallest one that they connect it with."""
    edges = pa.concat_tables([files.read_parquet(url, ["left", "right"]) for url in edge_urls])
    nodes = np.concatenate([edges["left"].to_numpy(), edges["right"].to_numpy()])
    # Sorted in place: this task holds more than any other.
    nodes.sort()
    nodes = nodes[np.append(True, nodes[1:] != nodes[:-1])[: len(nodes)]]
    left, right = (np.searchsorted(nodes, edges[side].to_numpy()) for side in ("left", "right"))
    del edges
    roots = nodes[_roots(len(nodes), left, right)]
    del left, right
    table = pa.table({"ref": nodes, "other": roots})
    runs.write_run(output, [(table, catalog.group_of(nodes))], {"changed": "0"})


def _read(urls: list[str], group: int) -> tuple[np.ndarray, np.ndarray]:
    table = runs.read_partitions(urls, [group])
    return candidates.distinct(table["ref"].to_numpy(), table["other"].to_numpy())


def _smallest(refs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For every row the first value of its ref; rows are sorted by (ref, value)."""
    first = np.flatnonzero(np.append(True, refs[1:] != refs[:-1])[: len(refs)])
    return values[np.repeat(first, np.diff(np.append(first, len(refs))))]


def small_star(catalog: Catalog, urls: list[str], group: int, output: str) -> None:
    """Connect the smaller neighbours of every document of a group, and itself, with the smallest of them.

    Writes edges in both directions, and the smallest with itself.
    """
    refs, others = _read(urls, group)
    refs, others = refs[others <= refs], others[others <= refs]
    least = _smallest(refs, others)
    changed = int(((others != least) & (others != refs)).sum())
    big = np.concatenate([others, refs])
    small = np.concatenate([least, least])
    apart = big != small
    _write(
        catalog,
        output,
        np.concatenate([big, small[apart]]),
        np.concatenate([small, big[apart]]),
        changed,
    )


def large_star(catalog: Catalog, urls: list[str], group: int, output: str) -> None:
    """Connect the larger neighbours of every document of a group with the smallest neighbour or itself."""
    refs, others = _read(urls, group)
    least = np.minimum(_smallest(refs, others), refs)
    larger = others > refs
    changed = int((larger & (least != refs)).sum())
    _write(catalog, output, others[larger], least[larger], changed)


def labels(urls: list[str], group: int) -> tuple[np.ndarray, np.ndarray]:
    """(refs, components) of the documents of a group, sorted, from the last `small_star` or one `forest`."""
    refs, others = _read(urls, group)
    first = np.flatnonzero(np.append(True, refs[1:] != refs[:-1])[: len(refs)])
    return refs[first], others[first]


def share_of(components: np.ndarray, shares: int) -> np.ndarray:
    """The share in which each component is decided, int64."""
    mixed = components * GOLDEN >> np.uint64(33)
    return mixed.astype(np.int64) % max(shares, 1)


def write_members(catalog: Catalog, urls: list[str], group: int, output: str) -> None:
    """Route the documents of a group that are in components, with what the policy needs, by component.

    Columns: component, ref, document_id, source, rank, quality, length.
    """
    refs, components = labels(urls, group)
    columns = ["document_id", "source", "rank", "quality", "length"]
    if len(refs):
        table = catalogs.lookup(catalog, refs, columns)
    else:
        types = [pa.binary(16), pa.string(), pa.int32(), pa.float32(), pa.int64()]
        table = pa.schema(list(zip(columns, types, strict=True))).empty_table()
    table = table.add_column(0, "ref", pa.array(refs)).add_column(0, "component", pa.array(components))
    runs.write_run(output, [(table, share_of(components, catalog.groups))])


def write_edges(catalog: Catalog, urls: list[str], edges: str, group: int, output: str) -> None:
    """Route the edges whose left document is in a group by component: component, left, right, similarity."""
    refs, components = labels(urls, group)
    table = files.read_parquet(edges).replace_schema_metadata()
    component = components[np.searchsorted(refs, table["left"].to_numpy())]
    table = table.add_column(0, "component", pa.array(component))
    runs.write_run(output, [(table, share_of(component, catalog.groups))])
