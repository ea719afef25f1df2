"""Where the frames of a file that is compressed by zstd begin."""

import mmap

import zstandard

from base import files
from pipelines.corpus.reading import decompress

_SEEKABLE_MAGIC = 0x8F92EAB1
"""The last number of a seek table."""


def frames(url: str, size: int) -> list[int]:
    """Where the zstd frames of a file begin: by its seek table, else by walking a local file's block headers.

    None are told of a file whose frames do not fill it exactly, which is damaged, nor of one elsewhere
    without a seek table.
    """
    found = _seek_table(url, size)
    local = files.local_path(url)
    return _walk(local) if not found and local else found


def _seek_table(url: str, size: int) -> list[int]:
    """Frames by the seek table of zstd's seekable format (its contrib/seekable_format, version 0.1.0)."""
    with decompress.open_file(url) as file:
        file.seek(max(size - 9, 0))
        footer = file.read(9)
        if len(footer) < 9 or int.from_bytes(footer[5:], "little") != _SEEKABLE_MAGIC:
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
            if decompress.is_skippable(magic):
                at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
                continue
            if magic != decompress.ZSTD_MAGIC:
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
