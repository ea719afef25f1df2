"""Verification of candidate pairs by the exact similarity of their shingle sets."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from base import files
from dedup import candidates, minhash, runs
from dedup import catalog as catalogs
from dedup.catalog import Catalog
from dedup.config import DedupConfig
from dedup.spool import spooled


def similarities(catalog: Catalog, left: np.ndarray, right: np.ndarray, config: DedupConfig) -> np.ndarray:
    """`config.similarity` float32 of the pairs of refs, in their order.

    Every text is read and shingled once, one record batch of the documents files in memory at a time; the
    sets go through a temporary file of 8 bytes a shingle. Pairs sorted by left read it mostly in order.
    """
    refs = np.unique(np.concatenate([left, right]))
    result = np.empty(len(left), np.float32)

    def sets() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for texts in catalogs.text_batches(catalog, refs):
            offsets, values = minhash.shingle_sets(texts, config.minhash)
            yield values, offsets

    with spooled(sets(), len(refs), np.uint64) as (values, offsets):
        minhash.compare_sets(
            offsets,
            values,
            np.searchsorted(refs, left),
            np.searchsorted(refs, right),
            config.similarity == "containment",
            result,
        )
    return result


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
