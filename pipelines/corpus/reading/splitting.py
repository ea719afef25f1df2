"""Where a large file can be cut into ranges that are read on their own."""

import mmap
import zlib
from typing import IO

import zstandard

from base import files
from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.ingest import file_format
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.reading.webarchive import record_starts

_MAGIC = b"\x28\xb5\x2f\xfd"
_SEEKABLE = 0x8F92EAB1
_GZIP = b"\x1f\x8b\x08"
_PROBE = 2**12
"""Bytes of a gzip member that are enough for the first few of what it holds."""


def starts(url: str, source: SourceConfig, size: int, split_bytes: int) -> list[int]:
    """The first bytes of the ranges of a file of `size` bytes, about `split_bytes` each; [0] for one range.

    JSON lines are cut anywhere if they are not compressed, and between frames if they are compressed by
    zstd; parquet and Arrow files anywhere, since row groups and batches are never divided. Arrow streams
    and web archives that are not compressed are cut only if they are local files, for they must be walked;
    web archives with a gzip member for each record between members. All other files are one range.
    """
    count = round(size / split_bytes)
    if count < 2:
        return [0]
    wanted = [number * size // count for number in range(1, count)]
    kind = file_format(url, source)
    if kind == "parquet" or (kind == "arrow" and (files.local_path(url) or _is_arrow_file(url))):
        return [0, *wanted]
    if kind == "jsonl":
        codec = decompress.compression(url)
        if codec is None:
            return [0, *wanted]
        if codec == "zstd":
            return _nearest(_frames(url, size), wanted)
    if kind == "warc":
        codec, local = decompress.compression(url), files.local_path(url)
        if codec is None and local:
            return _nearest(record_starts(local, 0, size), wanted)
        if codec == "gzip":
            return _members(url, size, wanted)
    return [0]


def _is_arrow_file(url: str) -> bool:
    with decompress.open_file(url) as file:
        return file.read(6) == b"ARROW1"


def _nearest(places: list[int], wanted: list[int]) -> list[int]:
    """0 and for each wanted place the first of the possible ones that does not lie before it."""
    chosen = {0}
    at = 0
    for place in wanted:
        while at < len(places) and places[at] < place:
            at += 1
        if at < len(places):
            chosen.add(places[at])
    return sorted(chosen)


def _members(url: str, size: int, wanted: list[int]) -> list[int]:
    """0 and for each wanted place of a web archive the first gzip member from it on, before the next place.

    A member is known by its magic number and by what it decompresses to, the beginning of a record. A file
    whose first member is long has no others to look for.
    """
    with decompress.open_file(url) as file:
        first = zlib.decompressobj(31)
        try:
            first.decompress(file.read(decompress.STEP), 16 * decompress.STEP)
        except zlib.error:
            return [0]
        if not first.eof:
            return [0]
        ends = [*wanted[1:], size]
        found = [_member(file, place, end) for place, end in zip(wanted, ends, strict=True)]
    return [0, *(place for place in found if place is not None)]


def _member(file: IO[bytes], start: int, stop: int) -> int | None:
    """The first gzip member from `start` on and before `stop` that begins with a web archive's record."""
    for begin in range(start, stop, decompress.STEP):
        file.seek(begin)
        data = file.read(decompress.STEP + _PROBE)
        last = min(stop - begin, decompress.STEP) + len(_GZIP) - 1
        at = data.find(_GZIP, 0, last)
        while at >= 0:
            try:
                if zlib.decompressobj(31).decompress(data[at : at + _PROBE], 5) == b"WARC/":
                    return begin + at
            except zlib.error:
                pass
            at = data.find(_GZIP, at + 1, last)
    return None


def _frames(url: str, size: int) -> list[int]:
    """Where the zstd frames of a file begin: by its seek table, else by walking a local file's block headers.

    None are told of a file whose frames do not fill it exactly, which is damaged, nor of one elsewhere
    without a seek table.
    """
    frames = _seek_table(url, size)
    local = files.local_path(url)
    return _walk(local) if not frames and local else frames


def _seek_table(url: str, size: int) -> list[int]:
    """Frames by the seek table of zstd's seekable format (its contrib/seekable_format, version 0.1.0)."""
    with decompress.open_file(url) as file:
        file.seek(max(size - 9, 0))
        footer = file.read(9)
        if len(footer) < 9 or int.from_bytes(footer[5:], "little") != _SEEKABLE:
            return []
        count = int.from_bytes(footer[:4], "little")
        entry = 12 if footer[4] & 0x80 else 8
        length = 8 + count * entry + 9
        if length > size:
            return []
        file.seek(size - length)
        table = file.read(length)
    frames = []
    at = 0
    for number in range(count):
        frames.append(at)
        at += int.from_bytes(table[8 + number * entry : 12 + number * entry], "little")
    return frames if at == size - length else []


def _walk(path: str) -> list[int]:
    """Frames by the sizes in their block headers (RFC 8878, 3.1.1)."""
    frames = []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, size = 0, len(data)
        while at < size:
            magic = data[at : at + 4]
            if magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5:
                at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
                continue
            if magic != _MAGIC:
                return []
            frames.append(at)
            try:
                header = data[at : at + 18]
                at += zstandard.frame_header_size(header)
                checksum = zstandard.get_frame_parameters(header).has_checksum
            except zstandard.ZstdError:
                return []
            last = False
            while not last:
                block = int.from_bytes(data[at : at + 3], "little")
                last = bool(block & 1)
                at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
                if at > size:
                    return []
            at += 4 * checksum
    return frames if at == size else []
