"""Compressed files of several members: read to the last byte before damage, padding passed over."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import brotli
import lz4.frame
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from base.errors import UserError
from pipelines.corpus.reading import decompress, ingest, splitting
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
    "lz4": lz4.frame.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
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
        else:  # the others know of no padding
            content, reason = both(path)
            assert content == (FIRST if between else FIRST + SECOND)
            assert reason in ("corrupt_file", "truncated_file")


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


def the_reject(path: Path, *, stored: bool = True) -> tuple[str, str]:
    """Reason and detail of the only thing that a file gives."""
    (batch,) = [
        batch
        for batch in ingest.read(str(path), SOURCE, IngestConfig())
        if batch.rejects.num_rows or batch.documents.num_rows
    ]
    assert batch.documents.num_rows == 0
    (reject,) = batch.rejects.to_pylist()
    assert reject["record"] == 0
    assert not stored or reject["bytes"] == path.stat().st_size
    with pytest.raises(UserError, match=path.name):
        list(ingest.read(str(path), SOURCE, IngestConfig(on_damaged_file="stop")))
    return reject["reason"], reject["detail"]


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.jsonl", content)
    return out.getvalue()


def tarred(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("a.jsonl")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
UNREAD = {
    "zip": (zipped(FIRST), "it is a zip archive"),
    "tar": (tarred(FIRST), "it is a tar archive"),
    "snappy": (b"\xff\x06\x00\x00sNaPpY" + bytes(50), "compressed by snappy"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "it is a 7z archive"),
    "rar": (b"Rar!\x1a\x07\x00" + bytes(50), "it is a rar archive"),
    "Z": (b"\x1f\x9d\x90" + bytes(50), "compressed by compress"),
}


@pytest.mark.parametrize("kind", UNREAD)
@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet", "a.arrow", "a.warc", "a"]
)
def test_what_is_not_read_is_one_reject_that_names_it(tmp_path: Path, kind: str, name: str) -> None:
    content, sentence = UNREAD[kind]
    for whole in (name, f"{name}.{kind}"):
        (tmp_path / whole).write_bytes(content)
        reason, detail = the_reject(tmp_path / whole)
        assert (reason, sentence in detail) == ("unsupported_compression", True)
        assert splitting.starts(str(tmp_path / whole), SOURCE, len(content), 10) == [0]
    (tmp_path / name).write_bytes(POINTER)
    assert the_reject(tmp_path / name)[0] == "git_lfs_pointer"


def test_raw_snappy_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.snappy").write_bytes(b"\x80\x01\xf0" + bytes(range(100)))
    assert "compressed by snappy" in the_reject(tmp_path / "a.jsonl.snappy")[1]


@pytest.mark.parametrize("suffix", CODECS)
def test_compressed_twice_and_compressed_archives(tmp_path: Path, suffix: str) -> None:
    for content, what in (
        (gzip.compress(FIRST), "it is compressed again, by gzip"),
        (tarred(FIRST), "it is a tar archive"),
        (zipped(FIRST), "it is a zip archive"),
    ):
        path = tmp_path / f"a.jsonl.{suffix}"
        path.write_bytes(CODECS[suffix](content))
        reason, detail = the_reject(path, stored=False)
        assert (reason, what in detail) == ("unsupported_compression", True)


def test_tables_that_are_compressed_as_a_whole(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    reason, detail = the_reject(tmp_path / "b.parquet.gz", stored=False)
    assert (reason, "compressed as a whole, by gzip" in detail) == ("unsupported_compression", True)
    (tmp_path / "a.parquet").rename(tmp_path / "c.parquet.gz")
    (batch,) = ingest.read(str(tmp_path / "c.parquet.gz"), SOURCE, IngestConfig())
    assert batch.documents["text"].to_pylist() == ["a"]


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst", "lz4", "br"])
def test_a_name_of_a_compression_on_text_that_is_not_compressed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    for content in (FIRST, b"\xef\xbb\xbf" + FIRST, '{"text": "日本"}'.encode() + b"\n" + FIRST * 20):
        path.write_bytes(content)
        assert both(path) == (content, "")
    path.write_bytes(b"\x00\x01\x02 garbage \xff" * 9)
    assert both(path)[1] in ("corrupt_file", "truncated_file")


def test_brotli(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.br"
    path.write_bytes(brotli.compress(FIRST + SECOND))
    assert both(path) == (FIRST + SECOND, "")
    documents = [batch.documents.num_rows for batch in ingest.read(str(path), SOURCE, IngestConfig())]
    assert sum(documents) == 10
    path.write_bytes(brotli.compress(FIRST + SECOND)[:-9])
    assert both(path)[1] == "truncated_file"
