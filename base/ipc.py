"""Where the buffers of an Arrow file's first record batch lie, so that a part of one is read by range.

The layout is that of the Arrow columnar format, "IPC File Format"; its metadata are FlatBuffers, of which the
few fields are read here that say where a buffer begins.
"""

import struct

MAGIC = b"ARROW1\0\0"
_CONTINUATION = b"\xff\xff\xff\xff"
_RECORD_BATCH = 3
"""MessageHeader: 1 schema, 2 dictionary batch, 3 record batch."""


class ShortError(ValueError):
    """The bytes end before the metadata of the first record batch do."""


def buffers(head: bytes) -> list[tuple[int, int]]:
    """(byte of the file, length) of each buffer of the first record batch, in depth-first order of columns.

    head: the first bytes of the file. Raises ShortError if they are too few, ValueError for what is no Arrow
    file with a record batch that is not compressed.
    """
    if head[: len(MAGIC)] != MAGIC:
        raise ValueError("it is no Arrow file")
    at = len(MAGIC)
    while True:
        if len(head) < at + 8:
            raise ShortError("it ends within its metadata")
        if head[at : at + 4] != _CONTINUATION:
            raise ValueError("it is no Arrow file of this format")
        (size,) = struct.unpack_from("<i", head, at + 4)
        body = at + 8 + size
        if size <= 0:
            raise ValueError("it has no record batch")
        if len(head) < body:
            raise ShortError("it ends within its metadata")
        try:
            found = _message(head[at + 8 : body])
        except (struct.error, IndexError):
            raise ValueError("its metadata cannot be read") from None
        if isinstance(found, list):
            return [(body + offset, length) for offset, length in found]
        at = body + found


def _message(data: bytes) -> list[tuple[int, int]] | int:
    """The buffers of a record batch's message; of another one, the bytes of its body."""
    (root,) = struct.unpack_from("<I", data, 0)
    kind, body = _field(data, root, 1), _field(data, root, 3)
    if kind is None or data[kind] != _RECORD_BATCH:
        return int(struct.unpack_from("<q", data, body)[0]) if body is not None else 0
    batch = _followed(data, _field(data, root, 2))
    if _field(data, batch, 3) is not None:
        raise ValueError("it is compressed")
    vector = _followed(data, _field(data, batch, 2))
    (count,) = struct.unpack_from("<I", data, vector)
    return [struct.unpack_from("<qq", data, vector + 4 + 16 * i) for i in range(count)]


def _field(data: bytes, table: int, number: int) -> int | None:
    """The place of a field of a table; None if it is left out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0 or 4 + 2 * number >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * number)
    return table + offset if offset else None


def _followed(data: bytes, place: int | None) -> int:
    """Where the offset at a place leads to."""
    if place is None:
        raise IndexError
    return place + int(struct.unpack_from("<I", data, place)[0])
