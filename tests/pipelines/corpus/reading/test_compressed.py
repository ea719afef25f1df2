"""Compressed files of several members: read to the last byte before damage, padding passed over."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from base.errors import UserError
from pipelines.corpus.reading import decompress, ingest
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

SOURCE = SourceConfig(name="s", urls=["x"])
LINES = [
    json.dumps({"text": f"document number {number} of this file"}).encode() + b"\n" for number in range(10)
]
FIRST, SECOND = b"".join(LINES[:3]), b"".join(LINES[3:])
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}
FIELD = Path("../shared/data/field")


def pieces(path: Path, start: int = 0, stop: int | None = None) -> tuple[bytes, str]:
    """The content down to damage, and what the damage is."""
    held = b""
    try:
        for piece in decompress.pieces(str(path), start, stop):
            assert piece
            held += piece
    except decompress.DamagedFile as damage:
        return held, damage.reason
    return held, ""


def both(path: Path) -> tuple[bytes, str]:
    """The same, read as a whole and as a range, as a build does."""
    whole = pieces(path)
    assert pieces(path, 0, path.stat().st_size) == whole
    return whole


@pytest.mark.parametrize("suffix", CODECS)
def test_members_with_padding_between_and_after(tmp_path: Path, suffix: str) -> None:
    compress, path = CODECS[suffix], tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(compress(FIRST) + compress(SECOND))
    assert both(path) == (FIRST + SECOND, "")
    assert pieces(path, path.stat().st_size) == (b"", "")
    for between, after in ((4, 0), (0, 4), (8, 512)):
        path.write_bytes(compress(FIRST) + bytes(between) + compress(SECOND) + bytes(after))
        if suffix in ("gz", "xz"):
            assert both(path) == (FIRST + SECOND, "")
        else:  # bzip2 and zstd know of no padding
            assert both(path) == (FIRST if between else FIRST + SECOND, "corrupt_file")


@pytest.mark.parametrize("suffix", CODECS)
def test_damage_in_a_later_member_is_one_reject(tmp_path: Path, suffix: str) -> None:
    compress, path = CODECS[suffix], tmp_path / f"a.jsonl.{suffix}"
    begin, later = compress(FIRST), compress(SECOND)
    # The header of the second member, what follows it, the end of it.
    for damaged in (begin + b"\x01" + later[1:], begin + b"no more of that", begin + later[:-3]):
        path.write_bytes(damaged)
        content, reason = both(path)
        assert content.startswith(FIRST)
        assert reason in ("corrupt_file", "truncated_file")
        for stop in (None, len(damaged)):
            batches = list(ingest.read(str(path), SOURCE, IngestConfig(), 0, stop))
            documents = sum(batch.documents.num_rows for batch in batches)
            assert documents >= 3
            (reject,) = [row for batch in batches for row in batch.rejects.to_pylist()]
            assert reject["record"] == documents
        with pytest.raises(UserError, match=rf"a\.jsonl\.{suffix} is damaged at record"):
            list(ingest.read(str(path), SOURCE, IngestConfig(on_damaged_file="stop")))


def test_all_that_precedes_a_wrong_checksum_is_read(tmp_path: Path) -> None:
    content = b"".join(LINES) * 100
    data = bytearray(gzip.compress(content))
    data[-8] ^= 0xFF
    (tmp_path / "a.gz").write_bytes(data)
    assert both(tmp_path / "a.gz") == (content, "corrupt_file")


def test_a_gzip_header_with_all_fields(tmp_path: Path) -> None:
    """Also where what Arrow does not read follows, and wherever the header ends in a step."""
    plain = gzip.compress(FIRST, mtime=0)
    header = plain[:3] + b"\x1e" + plain[4:10] + b"\x05\x00extra" + b"n" * 5000 + b"\0comment\0" + b"\0\0"
    (tmp_path / "a.gz").write_bytes(gzip.compress(SECOND) + bytes(4) + header + plain[10:])
    assert both(tmp_path / "a.gz") == (SECOND + FIRST, "")


def test_the_files_of_the_field() -> None:
    if not FIELD.exists():
        pytest.skip("the small files of the field are not here")
    assert both(FIELD / "xz_padding_between_streams.jsonl.xz")[0].count(b"\n") == 10
    content, reason = both(FIELD / "xz_second_stream_header_damaged.jsonl.xz")
    assert (content.count(b"\n"), reason) == (3, "corrupt_file")
