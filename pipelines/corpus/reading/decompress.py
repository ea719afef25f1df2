"""Decompressed bytes of a file, a piece at a time, down to the last byte before any damage."""

import codecs
import gzip
import lzma
import re
import sys
import zlib
from collections.abc import Iterator
from typing import IO, cast

import brotli
import pyarrow as pa
import zstandard

from base import files
from base.damage import reached
from base.errors import UserError
from pipelines.corpus.reading import members

STEP = 2**20
SUFFIXES = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".xz": "xz",
    ".bz2": "bz2",
    ".lz4": "lz4",
    ".br": "brotli",
    ".lzma": "lzma",
    ".snappy": "snappy",
    ".sz": "snappy",
}
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_DEFLATE_MAGIC = members.GZIP_MAGIC + b"\x08"
"""The first bytes of a gzip member of the only method there is, less likely to stand elsewhere by chance."""
_BZ2_BEGINS = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
"""Level and the first block's digits of pi, or sqrt(pi) if there is none: text may begin with BZh too."""
_MAGIC = {
    ZSTD_MAGIC: "zstd",
    members.GZIP_MAGIC: "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\xff\x06\x00\x00sNaPpY": "snappy",
    b"\x02\x21\x4c\x18": "old lz4",
    b"\x89LZO\x00\r\n\x1a\n": "lzop",
    b"LZIP\x01": "lzip",
    b"\x1f\x9d": "compress",
    b"version https://git-lfs.github.com/spec/": "lfs",
}
"""The first bytes of what files may be as they are stored."""
_UNREAD = {
    "zip": "it is a zip archive; unpack it",
    "tar": "it is a tar archive; unpack it",
    "7z": "it is a 7z archive; unpack it",
    "rar": "it is a rar archive; unpack it",
    "snappy": "it is compressed by snappy, which is not read; decompress it",
    "old lz4": "it is compressed by lz4 in its legacy format, which is not read; decompress it",
    "lzop": "it is compressed by lzop, which is not read; decompress it",
    "lzip": "it is compressed by lzip, which is not read; decompress it",
    "compress": "it is compressed by compress (.Z), which is not read; decompress it",
    "lfs": "it is a Git LFS pointer, not the file itself; fetch that with git lfs pull",
}
"""What is not read, and what a person can do about it."""
UNREAD_REASONS = ("unsupported_compression", "git_lfs_pointer")
_TAR_MAGIC, _TAR_PLACE = b"ustar", 257
_START = 512
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CONTENT_ERRORS = (OSError, gzip.BadGzipFile)
"""What decompressors raise of the errors of the operating system, and then without an error number."""
_ERRORS = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    brotli.error,
    members.BadMember,
)
_DICTIONARY_FRAME, _DICTIONARY_MAGIC = b"\x5d\x2a\x4d\x18", b"\x37\xa4\x30\xec"
_LONGEST_DICTIONARY = 2**27
_BY_ARROW = ("gzip", "zstd", "bz2")
"""What Arrow's readers decompress, which are fast."""
_TOO_LONG = "too much memory"
"""What they say of a zstd frame with a window of more than 128 MiB."""


class DamagedFile(Exception):
    """The content ends early, makes no sense, or is of a kind or in an encoding that is not read."""

    def __init__(self, reason: str, detail: str) -> None:
        """What is wrong: truncated_file, corrupt_file, not_utf8 or those of `unread`; and a clause of it."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def open_file(url: str) -> IO[bytes]:
    """Open a file for reading; UserError naming it when it is not there or may not be read."""
    filesystem, path = files.split(url)
    try:
        with reached(url):
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

    A .zst file that does not start like one is still taken for zstd, so that damage is called damage, unless
    it starts like text: what a server or a person has decompressed often keeps its name. An empty one has
    nothing to decompress. What is not read (see `unread`) has a name too.
    """
    with open_file(url) as file:
        start = file.read(_START)
    if not start:
        return None
    by_name = next((name for suffix, name in SUFFIXES.items() if file_name(url).endswith(suffix)), None)
    found = _by_start(start)
    if found or by_name is None:
        return "lz4" if found == "zstd" and by_name == "lz4" and is_skippable(start) else found
    return None if _is_text(start) else by_name


def _by_start(start: bytes) -> str | None:
    """What the first bytes of a file, or of what was compressed, say that it is."""
    if is_skippable(start):
        return "zstd"
    if _BZ2_BEGINS.match(start):
        return "bz2"
    if start[_TAR_PLACE:].startswith(_TAR_MAGIC):
        return "tar"
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def _is_text(start: bytes) -> bool:
    """Whether a file that begins so is text: no control characters, and UTF-8 or a mark of UTF-16."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return not _CONTROLS.search(text)


def unread(url: str) -> DamagedFile | None:
    """What a file is that is not read, whatever its format: an archive, or a pointer to another file."""
    return _unread(compression(url))


def _unread(codec: str | None, inside: str = "") -> DamagedFile | None:
    sentence = _UNREAD.get(codec or "")
    reason = UNREAD_REASONS[codec == "lfs"]
    return DamagedFile(reason, inside + sentence) if sentence else None


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
    """The decompressed content of a file, or of a range of its bytes, in pieces of about STEP bytes at most.

    A range of a compressed file begins and ends with a frame or member. All of them are read; skippable zstd
    frames and zeros after a member of gzip or xz are passed over. Memory is a few STEPs and, of a zstd frame,
    its window: up to 128 MiB, and up to 2 GiB if `zstd --long=28` to `--long=31` wrote it. Raises DamagedFile
    after the last byte that could be decompressed, for text in UTF-16 or UTF-32, which a byte order mark
    tells, and for what is not read (see `unread`).
    """
    codec = compression(url)
    done = 0
    if damage := _unread(codec):
        raise damage
    try:
        for piece in _decompressed(url, codec, start, stop):
            if done == 0 and start == 0 and codec:
                _check_inside(codec, piece)
            if done == 0 and start == 0 and piece[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise DamagedFile("not_utf8", "it is UTF-16 or UTF-32 by its byte order mark, not UTF-8")
            done += len(piece)
            yield piece
    except _ERRORS as error:
        check_readable(url, error)
        if codec is None:
            raise UserError(f"input file {url} cannot be read: {error}") from None
        if codec in _BY_ARROW:
            # Arrow's readers lose what they had decompressed when they meet damage, and take padding and the
            # longest windows for such.
            try:
                yield from _in_steps(url, codec, start, stop, done)
                return
            except _ERRORS as slow:
                check_readable(url, slow)
                error = slow if _TOO_LONG in str(error) else error
        message = str(error).rstrip(".") or type(error).__name__
        early = isinstance(error, EOFError) or "truncated" in message.lower()
        raise DamagedFile("truncated_file" if early else "corrupt_file", f"{codec}: {message}") from None


def _check_inside(codec: str, piece: bytes) -> None:
    """Raise DamagedFile if what was compressed is compressed again, or an archive."""
    kind = _by_start(piece[:_START])
    inside = f"what {codec} has compressed is not text: "
    if damage := _unread(kind, inside):
        raise damage
    if kind:
        raise DamagedFile(UNREAD_REASONS[0], f"{inside}it is compressed again, by {kind}; decompress it")


def _decompressed(url: str, codec: str | None, start: int, stop: int | None) -> Iterator[bytes]:
    if codec is not None and codec not in _BY_ARROW:
        yield from _in_steps(url, codec, start, stop, 0)
        return
    with open_file(url) as file:
        part = _Range(file, start, stop)
        stream = pa.CompressedInputStream(pa.PythonFile(part, mode="r"), codec) if codec else part
        while piece := stream.read(STEP):
            yield bytes(piece)


def _in_steps(url: str, codec: str, start: int, stop: int | None, skip: int) -> Iterator[bytes]:
    """The content of a range without its first `skip` bytes, down to the last byte before any damage."""
    done = skip
    try:
        for piece in _after(url, codec, start, stop, skip, sys.maxsize):
            done += len(piece)
            yield piece
    except _ERRORS:
        yield from _after(url, codec, start, stop, done, done)


def _after(url: str, codec: str, start: int, stop: int | None, skip: int, careful: int) -> Iterator[bytes]:
    """What members.decompressed gives of a range after `skip` bytes, in pieces of about STEP bytes."""
    held: list[bytes] = []
    size = 0
    dictionary = _dictionary(url) if codec == "zstd" else b""
    with open_file(url) as file:
        part = cast(IO[bytes], _Range(file, start, stop))
        try:
            for piece in members.decompressed(part, codec, careful, dictionary):
                held.append(piece[skip:])
                size += len(held[-1])
                skip = max(0, skip - len(piece))
                if size >= STEP:
                    yield b"".join(held)
                    held, size = [], 0
        except _ERRORS:
            if size:
                yield b"".join(held)
            raise
    if size:
        yield b"".join(held)


def _dictionary(url: str) -> bytes:
    """The dictionary that a file begins with in a skippable frame, as web archives in zstd have it."""
    with open_file(url) as file:
        start = file.read(12)
        if not start.startswith(_DICTIONARY_FRAME) or start[8:] not in (ZSTD_MAGIC, _DICTIONARY_MAGIC):
            return b""
        content = start[8:] + file.read(min(int.from_bytes(start[4:8], "little"), _LONGEST_DICTIONARY) - 4)
    if start[8:] == ZSTD_MAGIC:
        return zstandard.ZstdDecompressor().decompress(content, max_output_size=_LONGEST_DICTIONARY)
    return content
