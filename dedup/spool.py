"""Many values by document, more than memory may hold, in a temporary file that is mapped.

The file has no name and is gone with its task. Its pages are the system's to drop and read again: resident
sets that count pages of mapped files show them, private memory does not.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def spooled(
    pieces: Iterable[tuple[np.ndarray, np.ndarray]], count: int, dtype: type[np.generic]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(values, offsets int64 (count + 1)) of `count` documents, values mapped while the block runs.

    pieces: (values of `dtype`, offsets into them, from any number on) of consecutive documents, one piece in
    memory at a time. Document i's values are values[offsets[i]:offsets[i + 1]].
    """
    offsets = np.zeros(count + 1, np.int64)
    at = 0
    with tempfile.TemporaryFile(prefix="piledriver-") as file:
        for values, ends in pieces:
            more = len(ends) - 1
            offsets[at + 1 : at + more + 1] = offsets[at] + ends[1:] - ends[0]
            at += more
            file.write(values[ends[0] : ends[-1]].data.cast("B"))
        assert at == count
        file.flush()
        if offsets[-1] == 0:
            yield np.empty(0, dtype), offsets
            return
        # numba takes plain arrays only.
        yield np.asarray(np.memmap(file, dtype, "r", shape=(int(offsets[-1]),))), offsets
