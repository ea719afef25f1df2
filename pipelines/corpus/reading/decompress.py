"""Decompressed bytes of a file, a piece at a time, down to the last byte before any damage."""

import bz2
import codecs
import gzip
import lzma
import re
import sys
import zlib
from collections.abc import Generator, Iterator
from typing import IO, Any, cast

import pyarrow as pa
import zstandard

from base import files
from base.errors import UserError

STEP = 2**20
SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".xz": "xz", ".bz2": "bz2"}
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b"
GZIP_DEFLATE_MAGIC = GZIP_MAGIC + b"\x08"
"""The first bytes of a gzip member of the only method there is, less likely to stand elsewhere by chance."""
_XZ_MAGIC = b"\xfd7zXZ\x00"
_BZ2_BEGINS = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
"""Level and the first block's digits of pi, or sqrt(pi) if there is none: text may begin with BZh too."""
_FRAGMENT = 4096
_CONTENT_ERRORS = (OSError, gzip.BadGzipFile)
"""What decompressors raise of the errors of the operating system, and then without an error number."""
_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
_MAX_WINDOW = 2**31
_TOO_LONG = "too much memory"
"""What Arrow says of a zstd frame with a window of more than 128 MiB."""


class DamagedFile(Exception):
    """The content ends early, makes no sense, or is text in an encoding that is not read."""

    def __init__(self, reason: str, detail: str) -> None:
        """`reason` is truncated_file, corrupt_file or not_utf8, `detail` what the decompressor said."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def open_file(url: str) -> IO[bytes]:
    """Open a file for reading; UserError naming it when it is not there or may not be read."""
    filesystem, path = files.split(url)
    try:
        file: IO[bytes] = filesystem.open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"input file {url} is not there any more") from None
    except OSError as error:
        raise UserError(f"input file {url} cannot be opened: {error}") from None
    return file


def check_readable(url: str, error: BaseException) -> None:
    """Raise UserError if an error of reading is the storage's: the content is not damaged then."""
    if isinstance(error, OSError) and (error.errno is not None or type(error) not in _CONTENT_ERRORS):
        raise UserError(f"input file {url} cannot be read: {error}") from None


def compression(url: str) -> str | None:
    """How a file is compressed: by its first bytes, else by its extension, else not at all.

    A .zst file that does not start like one is still taken for zstd, so that damage is called damage; an
    empty one has nothing to decompress.
    """
    with open_file(url) as file:
        start = file.read(10)
    if not start:
        return None
    if start.startswith(ZSTD_MAGIC) or is_skippable(start):
        return "zstd"
    if _BZ2_BEGINS.match(start):
        return "bz2"
    for magic, name in ((GZIP_MAGIC, "gzip"), (_XZ_MAGIC, "xz")):
        if start.startswith(magic):
            return name
    return next((name for suffix, name in SUFFIXES.items() if file_name(url).endswith(suffix)), None)


def is_skippable(start: bytes) -> bool:
    """Whether these are the first bytes of a skippable zstd frame: one of 16 magic numbers."""
    return start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5


def file_name(url: str) -> str:
    """A URL without the query that an address of the web may have."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


class _Range:
    """The bytes of a file from `start` to `stop`, to be read as a file."""

    def __init__(self, file: IO[bytes], start: int, stop: int | None) -> None:
        if start:
            file.seek(start)
        self.file = file
        self.left = sys.maxsize if stop is None else stop - start
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes of what is left."""
        piece = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(piece)
        return piece

    def close(self) -> None:
        """Nothing: the file is closed by its owner."""


def pieces(url: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The decompressed content of a file, or of a range of its bytes, in pieces of at most STEP bytes.

    A range of a compressed file begins and ends with a frame or member. All of them are read; skippable zstd
    frames and zeros after a gzip member are passed over. Memory is a few STEPs and, of a zstd frame, its
    window: up to 128 MiB, and up to 2 GiB if `zstd --long=28` to `--long=31` wrote it. Raises DamagedFile
    after the last byte that could be decompressed, and for text in UTF-16 or UTF-32, which a byte order mark
    tells.
    """
    codec = compression(url)
    done = 0
    try:
        for piece in _decompressed(url, codec, start, stop):
            if done == 0 and start == 0 and piece[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise DamagedFile("not_utf8", "it is UTF-16 or UTF-32 by its byte order mark, not UTF-8")
            done += len(piece)
            yield piece
    except _ERRORS as error:
        check_readable(url, error)
        if codec is None:
            raise UserError(f"input file {url} cannot be read: {error}") from None
        whole = yield from _recover(url, codec, start, stop, done)
        if whole:
            return
        message = str(error).rstrip(".") or type(error).__name__
        early = isinstance(error, EOFError) or "truncated" in message.lower()
        raise DamagedFile("truncated_file" if early else "corrupt_file", f"{codec}: {message}") from None


def _decompressed(url: str, codec: str | None, start: int, stop: int | None) -> Iterator[bytes]:
    done = 0
    try:
        with open_file(url) as file:
            stream = _stream(_Range(file, start, stop), codec)
            while piece := stream.read(STEP):
                done += len(piece)
                yield bytes(piece)
    except OSError as error:
        if codec != "zstd" or _TOO_LONG not in str(error):
            raise
        yield from _long_frames(url, start, stop, done)


def _long_frames(url: str, start: int, stop: int | None, skip: int) -> Iterator[bytes]:
    """The bytes after the first `skip` of zstd frames with windows that Arrow does not allow."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    frame: Any = None
    with open_file(url) as file:
        part = _Range(file, start, stop)
        data = b""
        while data := data or part.read(_FRAGMENT):
            frame = frame or decompressor.decompressobj()
            piece = frame.decompress(data)
            data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
            for at in range(skip, len(piece), STEP):
                yield piece[at : at + STEP]
            skip = max(0, skip - len(piece))
    if frame is not None:
        raise EOFError("the last frame ends early")


def _stream(file: _Range, codec: str | None) -> Any:
    if codec is None:
        return file
    if codec == "xz":
        return lzma.LZMAFile(cast(IO[bytes], file))
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec)


def _recover(url: str, codec: str, start: int, stop: int | None, skip: int) -> Generator[bytes, None, bool]:
    """What lies between `skip` decompressed bytes of a range and the damage.

    The fast reader loses what it had decompressed when it meets the damage, so the file is read again
    from its start in small steps. Returns whether there was none: Python's reader of gzip passes over zeros
    after the last member, as gzip does (tapes and downloads are padded with them).
    """
    with open_file(url) as file:
        part = _Range(file, start, stop)
        stream: Any
        if codec == "zstd":
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
            stream = decompressor.stream_reader(cast(IO[bytes], part), read_across_frames=True)
        else:
            openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
            stream = openers[codec](part)
        position = 0
        try:
            # read1: read would lose what precedes an error in the same buffer.
            while piece := stream.read1(_FRAGMENT):
                position += len(piece)
                if position > skip:
                    yield piece[-(position - skip) :]
        except _ERRORS:
            return False
    return codec == "gzip"
