"""Verification of candidate pairs by the exact similarity of their shingle sets."""

import numpy as np
import pyarrow as pa

from base import files
from dedup import candidates, minhash, runs
from dedup import catalog as catalogs
from dedup.catalog import Catalog
from dedup.config import DedupConfig

BATCH_BYTES = 32 * 2**20
"""Text that is compared at a time; its shingles need up to about twice as much."""


def similarities(catalog: Catalog, left: np.ndarray, right: np.ndarray, config: DedupConfig) -> np.ndarray:
    """`config.similarity` float32 of the pairs of refs, which must be sorted by (left, right)."""
    result = np.empty(len(left), np.float32)
    for first, end in batches(catalog, left, right):
        one, other = left[first:end], right[first:end]
        refs = np.unique(np.concatenate([one, other]))
        offsets, values = minhash.shingle_sets(catalogs.fetch_texts(catalog, refs), config.minhash)
        minhash.compare_sets(
            offsets,
            values,
            np.searchsorted(refs, one),
            np.searchsorted(refs, other),
            config.similarity == "containment",
            result[first:end],
        )
    return result


def batches(catalog: Catalog, left: np.ndarray, right: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of pairs, sorted by left, whose texts have about BATCH_BYTES; a left text counts once."""
    if len(left) == 0:
        return []
    known = np.unique(np.concatenate([left, right]))
    lengths = catalogs.lookup(catalog, known, ["length"])["length"].to_numpy()
    cost = lengths[np.searchsorted(known, right)]
    starts = np.append(True, left[1:] != left[:-1])
    cost = cost + np.where(starts, lengths[np.searchsorted(known, left)], 0)
    batch = np.cumsum(cost) // BATCH_BYTES
    bounds = np.flatnonzero(np.append(True, batch[1:] != batch[:-1])).tolist()
    return list(zip(bounds, [*bounds[1:], len(left)], strict=True))


def verify(catalog: Catalog, run_urls: list[str], group: int, config: DedupConfig, output: str) -> None:
    """Write the distinct candidate pairs of a group that reach the threshold: left, right, similarity.

    The number of pairs compared is in the metadata as `candidates`.
    """
    table = runs.read_partitions(run_urls, [group])
    left, right = candidates.distinct(table["left"].to_numpy(), table["right"].to_numpy())
    similarity = similarities(catalog, left, right, config)
    enough = similarity >= np.float32(config.threshold)
    edges = pa.table({"left": left[enough], "right": right[enough], "similarity": similarity[enough]})
    files.write_parquet(output, edges.replace_schema_metadata({"candidates": str(len(left))}))
