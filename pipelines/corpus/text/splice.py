"""Replacing spans of bytes in a string column."""

import numpy as np
import pyarrow as pa

from base.kernels import kernel
from dedup.hashing import string_buffers


@kernel
def _splice(
    data: np.ndarray,
    offsets: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    choices: np.ndarray,
    pieces: np.ndarray,
    piece_offsets: np.ndarray,
    out: np.ndarray,
    out_offsets: np.ndarray,
) -> int:
    put = 0
    span = 0
    for row in range(len(offsets) - 1):
        at = offsets[row]
        while span < len(rows) and rows[span] == row:
            until = offsets[row] + starts[span]
            out[put : put + until - at] = data[at:until]
            put += until - at
            at = offsets[row] + ends[span]
            first, last = piece_offsets[choices[span]], piece_offsets[choices[span] + 1]
            out[put : put + last - first] = pieces[first:last]
            put += last - first
            span += 1
        until = offsets[row + 1]
        out[put : put + until - at] = data[at:until]
        put += until - at
        out_offsets[row + 1] = put
    return put


def splice(
    text: pa.LargeStringArray,
    rows: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    choices: np.ndarray,
    replacements: list[str],
) -> pa.LargeStringArray:
    """`text` with bytes [starts[i], ends[i]) of document rows[i] replaced by replacements[choices[i]].

    Spans are sorted by (row, start), do not overlap, count bytes from the start of their document and lie
    on character bounds; all int64. Without spans the result is `text` itself.
    """
    if len(rows) == 0:
        return text
    data, offsets = string_buffers(text)
    encoded = [replacement.encode() for replacement in replacements]
    piece_offsets = np.cumsum([0, *(len(piece) for piece in encoded)])
    pieces = np.frombuffer(b"".join(encoded), np.uint8)
    added = int(np.diff(piece_offsets)[choices].sum())
    out = np.empty(int(offsets[-1] - offsets[0]) - int((ends - starts).sum()) + added, np.uint8)
    out_offsets = np.zeros(len(offsets), np.int64)
    _splice(data, offsets, rows, starts, ends, choices, pieces, piece_offsets, out, out_offsets)
    buffers = [None, pa.py_buffer(out_offsets), pa.py_buffer(out)]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
