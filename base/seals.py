"""Seals of files of work: whether a file is what was written under its name, told when it is read.

A Parquet file's seal lies between its last page and its footer, where no reader looks: hashes of the
footer and of the file's name. Its pages have the checksums that the format knows. So of a file that is cut,
changed, or another's in its place, no more is read than is wanted. An Arrow file has a hash of each column of
each record batch in the metadata of the batch, and a JSON record has one of all its other fields. Files
without a seal (of earlier releases, and tables of versions, whose digests are in manifests) are taken as they
are.
"""

import json
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

MAGIC = b"pdseal01"
SIZE = len(MAGIC) + 16
"""Bytes of a seal: the magic, a hash of the name, one of the footer."""
FIELD = "seal"
"""The field of a JSON record that is its seal."""
_END = b"PAR1"
_TAIL = 2**16
"""Bytes of the end of a file that are read for its footer, as Arrow does."""


def name_of(url: str) -> bytes:
    """What of a URL a seal names: the last folders and the file, so that a storage can be moved."""
    return "/".join(url.rstrip("/").split("/")[-3:]).encode()


def _seal(url: str, footer: bytes) -> bytes:
    return MAGIC + xxhash.xxh3_64_digest(name_of(url)) + xxhash.xxh3_64_digest(footer)


class _Held:
    """A file to write to, whose last writes are held back to be changed."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        """Writes go through to `file` at first."""
        self.file = file
        self.held: bytearray | None = None
        self.written = 0

    def write(self, content: Any) -> int:
        """Write or hold back."""
        size = memoryview(content).nbytes
        self.written += size
        if self.held is None:
            self.file.write(content)
        else:
            self.held += content
        return size

    def tell(self) -> int:
        """Bytes so far."""
        return self.written

    def flush(self) -> None:
        """Nothing: the file is flushed when it is whole."""

    def close(self) -> None:
        """Nothing: whoever opened the file closes it."""


class ParquetWriter:
    """A pq.ParquetWriter into an open file, which is sealed for the URL under which it will be seen."""

    def __init__(self, file: IO[bytes], url: str, schema: pa.Schema, **options: Any) -> None:
        """Options are those of pq.ParquetWriter; pages are compressed with zstd unless they say otherwise."""
        self._held, self._url = _Held(file), url
        settings = {"compression": "zstd", "write_page_checksum": True, **options}
        self._writer = pq.ParquetWriter(self._held, schema, **settings)

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Write a table as pq.ParquetWriter does."""
        self._writer.write_table(table, row_group_size)

    def add_key_value_metadata(self, values: dict[str, str]) -> None:
        """Keep values in the footer."""
        self._writer.add_key_value_metadata(values)

    def close(self) -> None:
        """Write what is left, the seal and the footer."""
        self._held.held = bytearray()
        self._writer.close()
        end = bytes(self._held.held)
        size = 8 + int.from_bytes(end[-8:-4], "little")
        if len(end) < size:
            raise RuntimeError("the footer was not written at the end")
        self._held.file.write(end[:-size] + _seal(self._url, end[-size:-8]) + end[-size:])


def is_whole(file: IO[bytes], url: str) -> bool:
    """Whether an open Parquet file has its end and the seal of its URL."""
    try:
        _end(file, url, needed=True)
    except ValueError:
        return False
    return True


def footer(file: IO[bytes], url: str) -> pq.FileMetaData:
    """The footer of an open Parquet file of a URL.

    Raises ValueError for what is no such file, or not the one that was written there.
    """
    return pq.read_metadata(pa.BufferReader(_end(file, url)))


def _end(file: IO[bytes], url: str, *, needed: bool = False) -> bytes:
    """The end of an open Parquet file from the footer on, compared with the seal, which may be needed."""
    size = file.seek(0, 2)
    file.seek(max(size - _TAIL, 0))
    tail = file.read()
    if len(tail) < 12 or tail[-4:] != _END:
        raise ValueError("it is empty" if not size else "it has no end of a Parquet file")
    length = 8 + int.from_bytes(tail[-8:-4], "little")
    if length > size:
        raise ValueError("it has no footer of a Parquet file")
    if length + SIZE > len(tail):
        file.seek(max(size - length - SIZE, 0))
        tail = file.read()
    end, found = tail[-length:], tail[-length - SIZE : -length]
    if found[: len(MAGIC)] == MAGIC:
        wanted = _seal(url, end[:-8])
        if found[-8:] != wanted[-8:]:
            raise ValueError("its footer has changed since it was written")
        if found != wanted:
            raise ValueError("it is another file than the one that was written there")
    elif needed:
        raise ValueError("it has no seal")
    return end


def of_column(url: str, batch: int, name: str, column: pa.Array) -> str:
    """The seal of a column of a record batch of the Arrow file of a URL."""
    state = xxhash.xxh3_64(name_of(url) + f"\0{batch}\0{name}\0{column.type}\0{len(column)}".encode())
    for piece in _pieces(column):
        state.update(piece)
    return str(state.hexdigest())


def _pieces(column: pa.Array) -> list[Any]:
    """The content of a column as buffers, the same whatever it is a slice of; not copied if it is plain."""
    kind, start, stop = column.type, column.offset, column.offset + len(column)
    buffers = column.buffers()
    if len(column) and not column.null_count:
        if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
            offsets = np.frombuffer(buffers[1], np.int64)[start : stop + 1]
            data = memoryview(buffers[2] or b"")[offsets[0] : offsets[-1]]
            return [offsets - offsets[0] if offsets[0] else offsets, data]
        if (pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind)) and kind.bit_width % 8 == 0:
            width = kind.bit_width // 8
            return [memoryview(buffers[1])[start * width : stop * width]]
    return [pa.RecordBatch.from_arrays([column], ["column"]).serialize()]


def sealed(value: dict[str, Any], place: bytes = b"") -> dict[str, Any]:
    """A JSON object with its seal, which may be of a place too."""
    return {**value, FIELD: _of_json(value, place)}


def unsealed(value: Any, place: bytes = b"", *, needed: bool = False) -> Any:
    """A JSON value without its seal. Raises ValueError for that of another value, or none that is needed."""
    if not isinstance(value, dict) or FIELD not in value:
        if needed:
            raise ValueError("it has no seal")
        return value
    rest = {name: item for name, item in value.items() if name != FIELD}
    if value[FIELD] != _of_json(rest, place):
        raise ValueError("it has changed since it was written")
    return rest


def _of_json(value: dict[str, Any], place: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(value).encode() + place)
