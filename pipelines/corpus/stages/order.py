"""The order of documents: a pure function of their ids and the seed, so that it is a shuffle without one.

A 64-bit key orders documents within a source (a global shuffle without holding the corpus), and a second one
chooses the split.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base.kernels import kernel, splitmix64
from dedup import hashing

SPLITS = ("train", "heldout")


def shuffle_keys(identifiers: pa.FixedSizeBinaryArray, seed: int) -> np.ndarray:
    """The uint64 by which documents of a source are ordered; a function of id and seed alone."""
    high, low = hashing.id_words(identifiers)
    return splitmix64(splitmix64(high + splitmix64(np.full(1, seed, np.uint64))) ^ low)


def is_heldout(identifiers: pa.FixedSizeBinaryArray, fraction: float) -> np.ndarray:
    """Which documents are held out for evaluation; a function of id and fraction alone.

    Given the ids of their content, without ordinals, it does not part identical documents.
    """
    high, low = hashing.id_words(identifiers)
    return splitmix64(low ^ splitmix64(high ^ np.uint64(0x68656C646F7574))) < np.uint64(int(fraction * 2**64))


def in_order(table: pa.Table, order: np.ndarray) -> pa.Table:
    """The rows of a table in an order, in one chunk; `input_ids` is copied once, not thrice as by `take`."""
    lists = table["input_ids"]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    offsets = np.zeros(len(order) + 1, np.int64)
    np.cumsum(pc.list_value_length(lists).to_numpy()[order], out=offsets[1:])
    values = np.empty(offsets[-1], lists.type.value_type.to_pandas_dtype())
    first = 0
    for chunk in lists.chunks:
        starts = offsets[place[first : first + len(chunk)]]
        _copy_lists(chunk.values.to_numpy(), chunk.offsets.to_numpy(), starts, values)
        first += len(chunk)
    column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    at = table.schema.get_field_index("input_ids")
    others = table.remove_column(at).take(pa.array(order)).combine_chunks()
    return others.add_column(at, table.schema.field(at), column)


@kernel
def _copy_lists(values: np.ndarray, offsets: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
    """Copy each list values[offsets[i]:offsets[i + 1]] to out[starts[i]:]."""
    for i in range(len(starts)):
        at = starts[i]
        for j in range(offsets[i], offsets[i + 1]):
            out[at] = values[j]
            at += 1
