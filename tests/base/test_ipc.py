"""Places of buffers: what lies there is what Arrow reads."""

import contextlib
import io
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base import ipc


def written(lists: list[list[int]], dtype: np.dtype, compression: str | None = None) -> bytes:
    column = pa.array(lists, pa.large_list(pa.from_numpy_dtype(dtype)))
    ids = pa.array([bytes(16) for _ in lists], pa.binary(16))
    batch = pa.record_batch({"input_ids": column, "document_id": ids})
    sink = io.BytesIO()
    with pa.ipc.new_file(
        sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


@settings(deadline=None, max_examples=50)
@given(
    lists=st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=30), min_size=1, max_size=30),
    dtype=st.sampled_from([np.dtype("uint16"), np.dtype("uint32")]),
)
def test_the_values_lie_where_they_are_said_to(lists: list[list[int]], dtype: np.dtype) -> None:
    content = written(lists, dtype)
    places = ipc.buffers(content)
    assert len(places) == 6
    at, size = places[3]
    expected = [value for values in lists for value in values]
    assert size >= len(expected) * dtype.itemsize
    assert np.frombuffer(content, dtype, len(expected), at).tolist() == expected
    at, _ = places[1]
    offsets = np.frombuffer(content, np.int64, len(lists) + 1, at)
    assert np.diff(offsets).tolist() == [len(values) for values in lists]


def test_what_is_short_damaged_or_compressed_is_told() -> None:
    content = written([[1, 2, 3]] * 5, np.dtype("uint16"))
    whole = ipc.buffers(content)
    for length in range(8, 1024, 7):
        with contextlib.suppress(ipc.ShortError):
            assert ipc.buffers(content[:length]) == whole
    with pytest.raises(ValueError, match="no Arrow file"):
        ipc.buffers(b"PAR1" + bytes(100))
    with pytest.raises(ValueError, match="no record batch"):
        ipc.buffers(content[: content.index(b"\xff\xff\xff\xff")] + b"\xff\xff\xff\xff" + bytes(4))
    with pytest.raises(ValueError, match="compressed"):
        ipc.buffers(written([[1] * 1000] * 5, np.dtype("uint16"), "zstd"))
    choose = random.Random(0)
    for _ in range(2000):
        damaged = bytearray(content[:1024])
        for _ in range(choose.randrange(1, 4)):
            damaged[choose.randrange(8, len(damaged))] = choose.randrange(256)
        with contextlib.suppress(ValueError):
            ipc.buffers(bytes(damaged))
