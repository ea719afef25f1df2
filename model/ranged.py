"""Parts of the shards of a corpus on an object store, read by range: no shard is copied to this machine.

A shard is an Arrow file of one record batch, whose first bytes say where the columns lie. They are read once;
from then on some tokens are one request.
"""

import logging
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from base import files
from base.contents import ShardEntry
from base.damage import reached
from base.errors import UserError

HEAD = 1024
"""Bytes in which the description of a shard's columns is looked for; a longer one is read again."""
MAGIC = 8
"""Bytes of an Arrow file before its messages."""
PAUSES = (0.25, 1.0, 4.0, 16.0)
"""Seconds before what could not be read is asked for again."""
KEPT = 8
"""Shards whose documents stay in memory."""

logger = logging.getLogger("piledriver.loader")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the columns of a shard begin in its file."""

    offsets: int
    tokens: int
    ids: int


class RemoteShards:
    """Reads parts of shards, by their positions in the manifest."""

    def __init__(self, shards: list[ShardEntry], dtype: np.dtype[Any], url_of: Callable[[int], str]) -> None:
        """Nothing is read yet."""
        self._shards, self._dtype, self._url_of = shards, dtype, url_of
        self._places: dict[int, Places] = {}
        self._documents: dict[int, tuple[NDArray[np.int64], pa.Array]] = {}

    def tokens(self, wanted: list[tuple[int, int, int]]) -> list[NDArray[Any]]:
        """Tokens of shards: [(shard, first, stop)] → the tokens of each.

        Ranges that adjoin or overlap are one request, and all are asked for at the same time. Raises
        UserError for a shard that is not there or not what the manifest says.
        """
        self._place([number for number, _, _ in wanted])
        width = self._dtype.itemsize
        order = sorted(range(len(wanted)), key=wanted.__getitem__)
        merged: list[tuple[int, int, int]] = []
        within = {}
        for index in order:
            number, first, stop = wanted[index]
            if merged and merged[-1][0] == number and first <= merged[-1][2]:
                merged[-1] = (number, merged[-1][1], max(stop, merged[-1][2]))
            else:
                merged.append((number, first, stop))
            within[index] = len(merged) - 1
        begins = [self._places[number].tokens for number, _, _ in merged]
        ranges = [
            (number, begin + first * width, begin + stop * width)
            for begin, (number, first, stop) in zip(begins, merged, strict=True)
        ]
        read = [np.frombuffer(content, self._dtype) for content in self._read(ranges)]
        return [
            read[within[index]][first - merged[within[index]][1] : stop - merged[within[index]][1]]
            for index, (_, first, stop) in enumerate(wanted)
        ]

    def documents(self, number: int) -> tuple[NDArray[np.int64], pa.Array]:
        """Where the documents of a shard start, and their ids."""
        if number not in self._documents:
            self._place([number])
            places, count = self._places[number], self._shards[number].documents
            ranges = [
                (number, places.offsets, places.offsets + 8 * (count + 1)),
                (number, places.ids, places.ids + 16 * count),
            ]
            starts, ids = self._read(ranges)
            offsets = np.frombuffer(starts, np.int64)
            if offsets[0] != 0 or offsets[-1] != self._shards[number].tokens or (np.diff(offsets) < 0).any():
                raise self._damaged(number, "its documents do not cover its tokens")
            self._documents[number] = (
                offsets,
                pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), count, [None, pa.py_buffer(ids)]),
            )
            while len(self._documents) > KEPT:
                del self._documents[next(iter(self._documents))]
        return self._documents[number]

    def whole(self, number: int) -> bytes:
        """The content of a shard's file."""
        return self._read([(number, 0, None)])[0]

    def _place(self, numbers: list[int]) -> None:
        """Find out where the columns of shards lie."""
        new = [number for number in dict.fromkeys(numbers) if number not in self._places]
        heads = self._read([(number, 0, min(HEAD, self._shards[number].bytes)) for number in new])
        for number, head in zip(new, heads, strict=True):
            try:
                end = _end_of_description(head)
                if end > len(head):
                    head = self._read([(number, 0, min(end, self._shards[number].bytes))])[0]
                self._places[number] = self._parse(number, head)
            except (
                pa.ArrowException,
                KeyError,
                ValueError,
                MemoryError,
                struct.error,
                StopIteration,
            ) as error:
                raise self._damaged(number, " ".join(str(error).split())) from None

    def _parse(self, number: int, head: bytes) -> Places:
        """The places of a shard's columns by the first bytes of its file.

        Arrow reads a file of zeros that begins with them, of which no page but the first is touched: its
        arrays then point to where the columns lie.
        """
        entry = self._shards[number]
        zeros = np.zeros(entry.bytes, np.uint8)
        zeros[: len(head)] = np.frombuffer(head, np.uint8)
        batch = pa.ipc.open_stream(pa.py_buffer(zeros[MAGIC:])).read_next_batch()
        column, ids = batch.column("input_ids"), batch.column("document_id")
        if ids.type != pa.binary(16):
            raise ValueError(f"its document ids are {ids.type}")
        if not pa.types.is_large_list(column.type) or column.type.value_type != str(self._dtype):
            raise ValueError(f"its tokens are {column.type}, the manifest says {self._dtype}")
        counts = len(column), column.buffers()[-1].size // self._dtype.itemsize
        if counts != (entry.documents, entry.tokens):
            raise ValueError(
                f"it holds {counts[0]} documents and {counts[1]} tokens, the manifest says "
                f"{entry.documents} and {entry.tokens}"
            )
        base = zeros.ctypes.data
        return Places(
            offsets=column.buffers()[1].address - base,
            tokens=column.buffers()[-1].address - base,
            ids=ids.buffers()[1].address - base,
        )

    def _read(self, ranges: Sequence[tuple[int, int, int | None]]) -> list[bytes]:
        """Read ranges of shards at the same time, again after a pause where that fails."""
        results: dict[int, Any] = {}
        for pause in (*PAUSES, None):
            left = [place for place in range(len(ranges)) if not isinstance(results.get(place), bytes)]
            if not left:
                break
            results |= zip(left, self._ask([ranges[place] for place in left]), strict=True)
            failed = next((place for place in left if isinstance(results[place], Exception)), None)
            if failed is None:
                break
            url, error = self._url_of(ranges[failed][0]), results[failed]
            if isinstance(error, FileNotFoundError):
                raise UserError(f"shard {url} does not exist") from None
            if pause is None:
                with reached(url):
                    raise error
            logger.warning("%s is read again after %s: %s", url, type(error).__name__, error)
            time.sleep(pause)
        for place, (number, first, stop) in enumerate(ranges):
            if stop is not None and len(results[place]) != stop - first:
                raise self._damaged(number, "it ends early")
        return [results[place] for place in range(len(ranges))]

    def _ask(self, ranges: Sequence[tuple[int, int, int | None]]) -> list[Any]:
        """The bytes of each range, or the error."""
        if not ranges:
            return []
        split = [files.split(self._url_of(number)) for number, _, _ in ranges]
        firsts, stops = [first for _, first, _ in ranges], [stop for _, _, stop in ranges]
        found: list[Any] = split[0][0].cat_ranges(
            [path for _, path in split], firsts, stops, on_error="return"
        )
        return found

    def _damaged(self, number: int, problem: str) -> UserError:
        return UserError(f"shard {self._url_of(number)} is damaged: {problem}")


def _end_of_description(head: bytes) -> int:
    """Where the messages of a schema and of a record batch end, before its columns."""
    end = MAGIC
    for _ in range(2):
        if end + 8 > len(head):
            return end + HEAD
        mark, size = struct.unpack_from("<ii", head, end)
        if mark != -1 or not 0 < size < 2**20:
            raise ValueError("it is no Arrow file")
        end += 8 + size
    return end
