"""Connected components by union-find over edge files, merged in a tree.

A step reads a few edge files, or a few outputs of earlier steps, and writes at most one row for each
document in them, so that no step holds all edges.
"""

import numba
import numpy as np
import pyarrow as pa

from base import files


@numba.njit(cache=True)
def _find(parent, x):  # type: ignore[no-untyped-def]
    while parent[x] != x:
        parent[x] = parent[parent[x]]
        x = parent[x]
    return x


@numba.njit(cache=True)
def _roots(count, left, right):  # type: ignore[no-untyped-def]
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


def merge(_: object, urls: list[str], columns: tuple[str, str], output: str) -> None:
    """Components of the edges between two columns of `urls`: ref, component (its smallest ref), sorted so."""
    tables = [files.read_parquet(url, list(columns)) for url in urls]
    left = np.concatenate([table[columns[0]].to_numpy() for table in tables])
    right = np.concatenate([table[columns[1]].to_numpy() for table in tables])
    nodes, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    roots = nodes[_roots(len(nodes), places[: len(left)], places[len(left) :])]
    order = np.lexsort((nodes, roots))
    files.write_parquet(output, pa.table({"ref": nodes[order], "component": roots[order]}))
