"""Decompressed bytes of a file, a piece at a time, down to the last byte before any damage."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import zstandard

from base import files
from base.errors import UserError

STEP = 2**20
SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".xz": "xz", ".bz2": "bz2"}
_FRAGMENT = 4096
_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
_MAX_WINDOW = 2**31


class DamagedFile(Exception):
    """The compressed stream ends early or makes no sense."""

    def __init__(self, reason: str, detail: str) -> None:
        """`reason` is truncated_file or corrupt_file, `detail` what the decompressor said."""
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


def compression(url: str) -> str | None:
    """How a file is compressed: by its first bytes, else by its extension, else not at all.

    A .zst file that does not start like one is still taken for zstd, so that damage is called damage.
    """
    with open_file(url) as file:
        start = file.read(6)
    if start[:4] == b"\x28\xb5\x2f\xfd" or (start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5):
        return "zstd"
    for magic, name in ((b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\x00", "xz"), (b"BZh", "bz2")):
        if start.startswith(magic):
            return name
    return next((name for suffix, name in SUFFIXES.items() if url.endswith(suffix)), None)


def pieces(url: str) -> Iterator[bytes]:
    """The decompressed content of a file in pieces of at most STEP bytes.

    All frames or members of a file are read; skippable zstd frames are passed over. Raises DamagedFile
    after the last byte that could be decompressed.
    """
    codec = compression(url)
    done = 0
    try:
        with open_file(url) as file:
            stream = _stream(file, codec)
            while piece := stream.read(STEP):
                done += len(piece)
                yield bytes(piece)
    except _ERRORS as error:
        if codec is None:
            raise UserError(f"input file {url} cannot be read: {error}") from None
        yield from _recover(url, codec, done)
        message = str(error) or type(error).__name__
        early = isinstance(error, EOFError) or "truncated" in message.lower()
        raise DamagedFile("truncated_file" if early else "corrupt_file", f"{codec}: {message}") from None


def _stream(file: IO[bytes], codec: str | None) -> Any:
    if codec is None:
        return file
    if codec == "xz":
        return lzma.LZMAFile(file)
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec)


def _recover(url: str, codec: str, skip: int) -> Iterator[bytes]:
    """What lies between `skip` and the damage.

    The fast reader loses what it had decompressed when it meets the damage, so the file is read again
    from its start in small steps.
    """
    with open_file(url) as file:
        stream: Any
        if codec == "zstd":
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
            stream = decompressor.stream_reader(file, read_across_frames=True)
        else:
            openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
            stream = openers[codec](file)
        position = 0
        try:
            while piece := stream.read(_FRAGMENT):
                position += len(piece)
                if position > skip:
                    yield piece[-(position - skip) :]
        except _ERRORS:
            return
