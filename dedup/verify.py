"""Verification of candidate pairs by the exact similarity of their shingle sets.

Who compares a pair needs the sets of two documents of any two groups. So that a text is read once, and not
by every group that compares it, groups ask for documents (`write_wanted`), the task of a document's own group
reads and shingles it (`write_sets`), and the sets are routed to the groups that asked (`verify`). Sets go
through temporary files: memory holds a record batch of text or a row group of sets, and 100 bytes a pair.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from base import files
from base.kernels import kernel
from dedup import candidates, hashing, minhash, runs
from dedup import catalog as catalogs
from dedup.catalog import Catalog
from dedup.config import DedupConfig
from dedup.spool import spooled

CHUNK_BYTES = 32 * 2**20
"""Sets of a row group, about."""


def similarities(catalog: Catalog, left: np.ndarray, right: np.ndarray, config: DedupConfig) -> np.ndarray:
    """`config.similarity` float32 of the pairs of refs, in their order, from the texts.

    Every text is read and shingled once, one record batch of the documents files in memory at a time.
    """
    refs = np.unique(np.concatenate([left, right]))
    with spooled(_sets_of(catalog, refs, config), len(refs), np.uint64) as (values, offsets):
        places = np.searchsorted(refs, left), np.searchsorted(refs, right)
        return _compare(values, offsets, *places, config)


def _sets_of(
    catalog: Catalog, refs: np.ndarray, config: DedupConfig
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(values, offsets) of the shingle sets of sorted refs, by record batch of the documents files."""
    for texts in catalogs.text_batches(catalog, refs):
        offsets, values = minhash.shingle_sets(texts, config.minhash)
        yield values, offsets


def _compare(
    values: np.ndarray, offsets: np.ndarray, left: np.ndarray, right: np.ndarray, config: DedupConfig
) -> np.ndarray:
    """Similarity float32 of the sets at places `left` and `right`; read mostly in order if left is sorted."""
    result = np.empty(len(left), np.float32)
    minhash.compare_sets(offsets, values, left, right, config.similarity == "containment", result)
    return result


def write_wanted(catalog: Catalog, pair_urls: list[str], group: int, output: str) -> None:
    """Ask the groups of documents for those of a group's candidate pairs: ref, asker (the group)."""
    table = runs.read_partitions(pair_urls, [group])
    refs = np.unique(np.concatenate([table["left"].to_numpy(), table["right"].to_numpy()]))
    wanted = pa.table({"ref": refs, "asker": np.full(len(refs), group, np.int32)})
    runs.write_run(output, [(wanted, catalog.group_of(refs))])


def write_sets(
    catalog: Catalog, wanted_urls: list[str], group: int, config: DedupConfig, output: str
) -> None:
    """Route the shingle sets of a group's documents to the groups that asked for them.

    Columns: ref; shingles, the sorted distinct uint64 of the set as bytes.
    """
    wanted = runs.read_partitions(wanted_urls, [group])
    refs, places = np.unique(wanted["ref"].to_numpy(), return_inverse=True)
    askers = wanted["asker"].to_numpy()
    order = np.lexsort((places, askers))
    with spooled(_sets_of(catalog, refs, config), len(refs), np.uint64) as (values, offsets):
        chunks = _chunks(refs, values, offsets, places[order], askers[order])
        runs.write_run(output, chunks, compression="none")


def _chunks(
    refs: np.ndarray, values: np.ndarray, offsets: np.ndarray, places: np.ndarray, askers: np.ndarray
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Tables of ref and shingles of the documents at `places`, for one asker and about CHUNK_BYTES each."""
    schema = pa.schema([("ref", pa.uint64()), ("shingles", pa.large_binary())])
    yield schema.empty_table(), askers[:0]
    chunk = np.cumsum((offsets[places + 1] - offsets[places]) * 8) // CHUNK_BYTES
    bounds = np.flatnonzero((np.diff(askers) != 0) | (np.diff(chunk) != 0)) + 1
    for mine in np.split(np.arange(len(places)), bounds) if len(places) else []:
        rows = places[mine]
        ends = np.append(0, np.cumsum(offsets[rows + 1] - offsets[rows]))
        gathered = np.empty(ends[-1], np.uint64)
        _gather(values, offsets, rows, ends, gathered)
        buffers = [None, pa.py_buffer(ends * 8), pa.py_buffer(gathered)]
        sets = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(rows), buffers)
        yield pa.table({"ref": refs[rows], "shingles": sets}, schema=schema), askers[mine]


@kernel
def _gather(
    values: np.ndarray, offsets: np.ndarray, rows: np.ndarray, ends: np.ndarray, out: np.ndarray
) -> None:
    for i in range(len(rows)):
        out[ends[i] : ends[i + 1]] = values[offsets[rows[i]] : offsets[rows[i] + 1]]


def verify(
    catalog: Catalog,
    pair_urls: list[str],
    set_urls: list[str],
    group: int,
    config: DedupConfig,
    output: str,
) -> None:
    """Write the distinct candidate pairs of a group that reach the threshold: left, right, similarity.

    The number of pairs compared is in the metadata as `candidates`.
    """
    table = runs.read_partitions(pair_urls, [group])
    left, right = candidates.distinct(table["left"].to_numpy(), table["right"].to_numpy())
    del table
    wanted = np.unique(np.concatenate([left, right]))
    arrived: list[np.ndarray] = [wanted[:0]]

    def sets() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for piece in runs.row_groups(set_urls, group):
            arrived.append(piece["ref"].to_numpy())
            data, offsets = hashing.string_buffers(piece["shingles"])
            yield data.view(np.uint64), offsets // 8

    with spooled(sets(), len(wanted), np.uint64) as (values, offsets):
        order = np.argsort(np.concatenate(arrived))
        places = order[np.searchsorted(wanted, left)], order[np.searchsorted(wanted, right)]
        similarity = _compare(values, offsets, *places, config)
    enough = similarity >= np.float32(config.threshold)
    edges = pa.table({"left": left[enough], "right": right[enough], "similarity": similarity[enough]})
    files.write_parquet(output, edges.replace_schema_metadata({"candidates": str(len(left))}))
