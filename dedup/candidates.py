"""Candidate pairs: documents that agree in a band (locality-sensitive hashing; MMDS ch. 3.4).

Only band hashes, refs and the upper half of the document id move between tasks.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from base.kernels import kernel
from dedup import catalog as catalogs
from dedup import hashing, index, runs
from dedup.catalog import Catalog

ALL_PAIRS = 64
"""Buckets up to this size give all pairs."""
NEIGHBOURS = 8
"""In larger ones each new document pairs with the first and the previous this many: 16 pairs a document."""


def write_run(catalog: Catalog, group: int, dropped: list[str], bits: int, output: str) -> None:
    """Route the bands of the entries of a group that are in no `dropped` run by band and hash prefix."""
    table = catalogs.survivors(catalog, group, dropped, ["document_id", "bands", "shingles"])
    keep = table["shingles"].to_numpy() > 0
    if not keep.all():
        table = table.filter(pa.array(keep))
    refs = table["ref"].to_numpy()
    keys = hashing.id_words(table["document_id"])[0]
    # Chunks as they are: joined, this column alone would be twice as much as all else here.
    column = table["bands"]
    bands = [np.empty((0, column.type.list_size), np.uint64), *map(band_matrix, column.chunks)]
    del table, column

    def chunks() -> Iterator[tuple[pa.Table, np.ndarray]]:
        for band in range(bands[0].shape[1]):
            hashes = np.concatenate([matrix[:, band] for matrix in bands])
            partition = hashing.prefix(hashes, bits) + (band << bits)
            yield pa.table({"hash": hashes, "ref": refs, "key": keys}), partition

    runs.write_run(output, chunks())


def band_matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    """A fixed_size_list<uint64>[B] array as (n, B), not copied."""
    matrix: np.ndarray = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return matrix


@kernel
def _pairs(
    hashes: np.ndarray, refs: np.ndarray, new: np.ndarray, all_pairs: int, neighbours: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of equal hash, old documents first in each; never two old ones."""
    left = np.empty(1024, np.uint64)
    right = np.empty(1024, np.uint64)
    used = 0
    start = 0
    for i in range(len(hashes)):
        if hashes[i] != hashes[start]:
            start = i
        if not new[i]:
            continue
        end = start
        while end < len(hashes) and end - start <= all_pairs and hashes[end] == hashes[start]:
            end += 1
        whole = end - start <= all_pairs
        # Below `head` and from `tail` on; in a small bucket the two meet.
        head = i if whole else min(i, start + neighbours)
        tail = max(head, i - neighbours)
        for k in range((head - start) + (i - tail)):
            j = start + k if start + k < head else tail + k - (head - start)
            if used == len(left):
                left = np.concatenate((left, np.empty(used, np.uint64)))
                right = np.concatenate((right, np.empty(used, np.uint64)))
            left[used] = min(refs[i], refs[j])
            right[used] = max(refs[i], refs[j])
            used += 1
    return left[:used], right[:used]


def find(
    catalog: Catalog,
    run_urls: list[str],
    partitions: list[int],
    bits: int,
    output: str,
) -> None:
    """Write the pairs (left < right) of some (band, prefix) partitions by the group of the left document."""
    lefts, rights = [], []
    for partition in partitions:
        table = runs.read_partitions(run_urls, [partition])
        hashes, refs, keys = (table[name].to_numpy() for name in ("hash", "ref", "key"))
        order = np.argsort(hashes)
        hashes = hashes[order]
        first = np.ones(len(hashes), np.bool_)
        first[1:] = hashes[1:] != hashes[:-1]
        starts = np.flatnonzero(first)
        old_hashes, old_refs = index.find_band(catalog, partition >> bits, hashes[starts])
        # Most hashes are alone: only the others are put in the order that decides which pairs there are.
        shared = np.diff(np.append(starts, len(hashes))) > 1
        shared[np.searchsorted(hashes[starts], old_hashes)] = True
        order = order[np.repeat(shared, np.diff(np.append(starts, len(hashes))))]
        refs, keys = refs[order], keys[order]
        hashes = np.concatenate([table["hash"].to_numpy()[order], old_hashes])
        refs = np.concatenate([refs, old_refs])
        keys = np.concatenate([keys, old_refs])
        new = catalog.is_new(refs)
        order = np.lexsort((refs, keys, new, hashes))
        left, right = _pairs(hashes[order], refs[order], new[order], ALL_PAIRS, NEIGHBOURS)
        lefts.append(left)
        rights.append(right)
    left, right = distinct(np.concatenate(lefts), np.concatenate(rights))
    runs.write_run(output, [(pa.table({"left": left, "right": right}), catalog.group_of(left))])


def distinct(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs, sorted."""
    order = np.lexsort((right, left))
    left, right = left[order], right[order]
    first = np.ones(len(left), np.bool_)
    first[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return left[first], right[first]
