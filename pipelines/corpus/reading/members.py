"""Members of a compressed file (streams, frames) one after the other, in small steps.

Slower than Arrow's readers, and loses nothing: for what those do not read, and for what they lose of a
damaged file.
"""

import bz2
import lzma
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

import brotli
import lz4.frame
import zstandard

_STEP = 4096
_ZSTD_STEP = 1024
"""What zstd makes of so many bytes, at most some MiB, is held."""
_MOST_MEMORY = 2**31
_LONGEST_HEADER = 2**18
GZIP_MAGIC = b"\x1f\x8b"


class _Member(Protocol):
    """A member that is being decompressed, as those of bz2 and lzma are."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out without more data."""

    @property
    def unused_data(self) -> bytes:
        """What lies behind the member in the data that were given."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """At most max_length bytes of what `data` and all data before it hold."""


class BadMember(Exception):
    """What a member makes no sense for, where its own decompressor has no exception for that."""


class _Gzip:
    """A member of gzip (RFC 1952), the checksum of which is looked at after all of its content is given."""

    def __init__(self) -> None:
        self.eof = False
        self.needs_input = True
        self.unused_data = b""
        self._inflate: Any = None
        self._held = b""
        self._crc = self._size = 0

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = b""
        if self._inflate is None:
            self._held += data
            length = _header_length(self._held)
            if length is None:
                return b""
            self._inflate, data, self._held = zlib.decompressobj(-15), self._held[length:], b""
        if self._inflate.eof:
            self._held += data
            self._check()
        else:
            piece = self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)
            self._crc = zlib.crc32(piece, self._crc)
            self._size += len(piece)
            self._held = self._inflate.unused_data
            full = len(piece) == max_length or bool(self._inflate.unconsumed_tail)
            self.needs_input = not (full or self._inflate.eof)
        return piece

    def _check(self) -> None:
        """Compare checksum and size with what the member says they are, once all eight bytes are here."""
        self.needs_input = len(self._held) < 8
        if self.needs_input:
            return
        if self._held[:8] != struct.pack("<II", self._crc, self._size % 2**32):
            raise BadMember("its checksum or size is another one")
        self.eof, self.unused_data = True, self._held[8:]


def _header_length(data: bytes) -> int | None:
    """Bytes of the header of a gzip member, None if it goes on. Raises BadMember where there is none."""
    if not (GZIP_MAGIC + b"\x08").startswith(data[:3]) or len(data) > _LONGEST_HEADER:
        raise BadMember("no header of gzip")
    if len(data) < 10:
        return None
    flags, at = data[3], 10
    if flags & 4:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (8, 16):  # a name, a comment
        if flags & flag:
            at = data.find(b"\0", at) + 1
            if at == 0:
                return None
    at += 2 * bool(flags & 2)
    return at if at <= len(data) else None


class _Zstd:
    """A frame of zstd, with a window of up to 2 GiB as `zstd --long=31` writes it."""

    def __init__(self, dictionary: bytes = b"") -> None:
        known = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        decompressor = zstandard.ZstdDecompressor(dict_data=known, max_window_size=_MOST_MEMORY)
        self._frame: Any = decompressor.decompressobj()
        self._data = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data) + self._data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        data = self._data + data
        step = min(max_length, _ZSTD_STEP)
        piece = self._frame.decompress(data[:step])
        self._data = data[step:]
        self.needs_input = not self._data
        return bytes(piece)


class _Brotli:
    """A stream of brotli, of which a file holds one."""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()
        self.needs_input = True
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return bool(self._stream.is_finished())

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._stream.process(data, output_buffer_limit=max_length)
        self.needs_input = bool(self._stream.can_accept_more_data())
        return bytes(piece)


class _Lz4:
    """A frame of lz4."""

    def __init__(self) -> None:
        self._frame: Any = lz4.frame.LZ4FrameDecompressor()

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._frame.needs_input)

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data or b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return bytes(self._frame.decompress(data, max_length))
        except RuntimeError as error:
            raise BadMember(str(error)) from None


_KINDS: dict[str, Callable[[], _Member]] = {
    "gzip": _Gzip,
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MOST_MEMORY),
    "lz4": _Lz4,
    "brotli": _Brotli,
}
_PADDED = ("gzip", "xz")
"""What may have zeros after a member: tapes and downloads are padded with them, and xz allows them."""


def decompressed(
    file: IO[bytes], codec: str, careful: int = sys.maxsize, dictionary: bytes = b""
) -> Iterator[bytes]:
    """The content of the members of a file, in small pieces, down to just before damage.

    A decompressor that meets damage gives none of what it made in the same step: the steps after the first
    `careful` bytes are of one byte. `dictionary`: what frames of zstd may need. Zeros after a member of gzip
    or xz are padding and passed over. Raises what the decompressor does where a member makes no sense, and
    EOFError where the last one ends early.
    """
    member: _Member | None = None
    padded = False
    done = 0
    data = b""
    while data or (member is not None and not member.needs_input) or (data := file.read(_STEP)):
        if member is None:
            data = data.lstrip(b"\0") if padded else data
            if not data:
                continue
            member = _Zstd(dictionary) if codec == "zstd" else _KINDS[codec]()
            padded = codec in _PADDED
        if piece := member.decompress(data, _STEP if done < careful else 1):
            done += len(piece)
            yield piece
        data = b""
        if member.eof:
            data = member.unused_data
            member = None
    if member is not None:
        raise EOFError("the last member ends early")
