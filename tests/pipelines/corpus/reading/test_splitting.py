"""A large file in ranges: the same records, with the same numbers, however it is cut."""

import gzip
import itertools
import json
import random
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.corpus import inputs
from pipelines.corpus.reading import decompress, ingest, splitting
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

SOURCE = SourceConfig(name="s", urls=["x"])


def read_range(
    path: str, start: int = 0, stop: int | None = None, first: int = 0
) -> tuple[list[tuple], list[tuple], int]:
    documents, rejects, framing = [], [], 0
    for batch in ingest.read(path, SOURCE, IngestConfig(max_document_bytes=2000), start, stop, first):
        documents += [(d["record"], d["text"], d["raw_bytes"]) for d in batch.documents.to_pylist()]
        rejects += [(r["record"], r["reason"], r["bytes"]) for r in batch.rejects.to_pylist()]
        framing += batch.framing_bytes
    return documents, rejects, framing


def read_ranges(path: str, starts: list[int], size: int) -> tuple[list[tuple], list[tuple], int]:
    """The ranges from `starts` read each on its own and joined."""
    documents, rejects, framing = [], [], 0
    first = 0
    for start, stop in zip(starts, [*starts[1:], size], strict=True):
        more = read_range(path, start, stop, first)
        documents += more[0]
        rejects += more[1]
        framing += more[2]
        first += ingest.count_records(path, SOURCE, start, stop)
    return documents, rejects, framing


LINES = [
    b'{"text": "one"}',
    b"",
    b"\r",
    b"broken",
    '{"text": "zwei ä"}'.encode(),
    json.dumps({"text": "long " * 30}).encode(),
    json.dumps({"text": "too long " * 400}).encode(),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(LINES), max_size=12),
    st.booleans(),
    st.lists(st.integers(3, 5000), max_size=6),
    st.sampled_from(["plain", "zstd"]),
)
@example([b"\xef\xbb\xbf" + LINES[0], LINES[0]], True, [3, 4, 18, 19, 20], "plain")
def test_json_lines_cut_anywhere(
    tmp_path: Path, lines: list[bytes], ended: bool, cuts: list[int], kind: str
) -> None:
    content = b"\n".join(lines) + (b"\n" if ended else b"")
    cuts = sorted({cut for cut in cuts if cut < len(content)})
    path = tmp_path / "a.jsonl"
    if kind == "plain":
        path.write_bytes(content)
        starts = [0, *cuts]
    else:
        pieces = [content[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        frames = [zstandard.compress(piece) for piece in pieces]
        path.write_bytes(b"".join(frames))
        starts = [sum(map(len, frames[:number])) for number in range(len(frames))]
    whole = read_range(str(path))
    assert read_ranges(str(path), starts, path.stat().st_size) == whole


def jsonl(count: int) -> bytes:
    choose = random.Random(count)
    lines = [
        json.dumps({"text": f"{number} " + "".join(choose.choices("abc \n", k=choose.randrange(300)))})
        for number in range(count)
    ]
    return "\n".join(lines).encode()


def cut(path: Path, split_bytes: int) -> list[int]:
    return splitting.starts(str(path), SOURCE, path.stat().st_size, split_bytes)


def test_what_is_cut_and_where(tmp_path: Path) -> None:
    content = jsonl(2000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    starts = cut(path, 2**15)
    assert len(starts) == round(len(content) / 2**15)
    assert read_ranges(str(path), starts, len(content)) == read_range(str(path))
    assert cut(path, len(content)) == [0]
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_bytes(content)
        assert cut(tmp_path / name, 2**15) == [0]
    one = tmp_path / "one.jsonl.zst"
    one.write_bytes(zstandard.compress(content))
    assert cut(one, 2**12) == [0]


def skippable(content: bytes) -> bytes:
    return b"\x5e\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("seekable", [False, True])
def test_zstd_frames(tmp_path: Path, checksum: bool, seekable: bool) -> None:
    content = jsonl(3000)
    pieces = [content[at : at + 7001] for at in range(0, len(content), 7001)]
    compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=not seekable)
    frames = [compressor.compress(piece) for piece in pieces]
    frames[3] = zstandard.ZstdCompressor().compress(b"")  # an empty frame, and one of a single repeated byte
    frames[4] = zstandard.compress(b" " * 300_000)
    path = tmp_path / "a.jsonl.zst"
    data = b"".join(frames)
    if seekable:
        entries = b"".join(
            len(frame).to_bytes(4, "little") + len(piece).to_bytes(4, "little")
            for frame, piece in zip(frames, pieces, strict=True)
        )
        data += skippable(
            entries + len(frames).to_bytes(4, "little") + b"\0" + 0x8F92EAB1.to_bytes(4, "little")
        )
    else:
        data = skippable(b"first") + data + skippable(b"")
    path.write_bytes(data)
    starts = cut(path, 2**13)
    assert len(starts) > 10
    assert read_ranges(str(path), starts, len(data)) == read_range(str(path))
    memory = f"memory:///splitting/{checksum}-{seekable}.jsonl.zst"
    fsspec.filesystem("memory").pipe_file(memory.removeprefix("memory://"), data)
    assert splitting.starts(memory, SOURCE, len(data), 2**13) == (starts if seekable else [0])
    path.write_bytes(data[:-5])
    assert cut(path, 2**13) == [0]


def test_a_damaged_frame_loses_its_own_range(tmp_path: Path) -> None:
    content = jsonl(3000)
    frames = [zstandard.compress(content[at : at + 7001]) for at in range(0, len(content), 7001)]
    path = tmp_path / "a.jsonl.zst"
    data = bytearray(b"".join(frames))
    place = sum(map(len, frames[:5])) + len(frames[5]) // 2
    data[place : place + 8] = bytes(8)
    path.write_bytes(data)
    documents, rejects, _ = read_ranges(str(path), cut(path, 2**13), len(data))
    assert {reason for _, reason, _ in rejects if "file" in reason} == {"corrupt_file"}
    texts = {text for _, text, _ in documents}
    assert 2900 <= len(texts) < 3000
    assert json.loads(content.rsplit(b"\n", 1)[1])["text"] in texts


def test_tables(tmp_path: Path) -> None:
    texts = [json.loads(line)["text"] for line in jsonl(3000).split(b"\n")]
    table = pa.table({"id": range(3000), "text": [None if n == 1234 else t for n, t in enumerate(texts)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    with pa.ipc.new_file(str(tmp_path / "b.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    with pa.ipc.new_stream(str(tmp_path / "c.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        path = tmp_path / name
        size = path.stat().st_size
        starts = cut(path, 2**14)
        assert len(starts) > 10
        whole = read_range(str(path))
        assert len(whole[0]) + len(whole[1]) == 3000
        assert read_ranges(str(path), starts, size) == whole
        assert read_ranges(str(path), list(range(0, size, 997)), size) == whole


def test_web_archives(tmp_path: Path) -> None:
    choose = random.Random(0)
    parts = []
    for number in range(300):
        body = f"page {number} ".encode() * choose.randrange(1, 60)
        kind = "conversion" if number % 3 else "metadata"
        head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        parts.append(head.encode() + b"\r\n" + body + b"\r\n\r\n")
    path = tmp_path / "a.wet"
    path.write_bytes(b"".join(parts))
    size = path.stat().st_size
    starts = cut(path, 2**13)
    assert len(starts) > 8
    assert read_ranges(str(path), starts, size) == read_range(str(path))
    path.write_bytes(b"".join(parts)[:-1])
    assert cut(path, 2**13) == [0]
    path.write_bytes(b"".join(parts[:9]) + b"lost" + b"".join(parts[9:]))
    assert cut(path, 2**13) == [0]


def test_compressed_web_archives(tmp_path: Path) -> None:
    choose = random.Random(0)
    members = []
    for number in range(300):
        # Level 0 keeps what is compressed in it as it is: magic numbers that begin no record.
        body = f"page {number} ".encode() + choose.randbytes(choose.randrange(600)).hex().encode()
        kind = "conversion" if number % 3 else "metadata"
        body += gzip.compress(b"no record") if kind == "metadata" else b""
        head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        content = head.encode() + b"\r\n" + body + b"\r\n\r\n"
        members.append(gzip.compress(content, compresslevel=choose.choice((0, 6))))
    members[100] += gzip.compress(b"not a record\r\n\r\n")
    path = tmp_path / "a.wet.gz"
    path.write_bytes(b"".join(members))
    size = path.stat().st_size
    starts = cut(path, 2**13)
    assert len(starts) > 8
    assert set(starts) <= {0, *itertools.accumulate(map(len, members))}
    whole = read_range(str(path))
    assert len(whole[0]) == 200
    assert read_ranges(str(path), starts, size) == whole
    # The numbers of a range that ends early are not given again in the next one.
    content = path.read_bytes()
    damaged = starts[2] - 10
    path.write_bytes(content[:damaged] + bytes(10) + content[damaged + 10 :])
    documents, rejects, _ = read_ranges(str(path), starts, size)
    numbers = [row[0] for row in (*documents, *rejects)]
    assert len(numbers) == len(set(numbers)) > 150
    path.write_bytes(gzip.compress(gzip.decompress(content)))
    assert cut(path, 2**13) == [0]
    path.write_bytes(content[:5] + bytes(50) + content[55:])
    assert cut(path, 2**13) == [0]


def test_ranges_as_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(1000))
    (tmp_path / "b.jsonl").write_bytes(jsonl(2))
    source = SourceConfig(name="s", urls=[str(tmp_path / "*.jsonl")])
    found = inputs.list_inputs([source], str(tmp_path / "cache.json"), 2**14)
    ranges = [item for item in found if item.file == str(path)]
    assert len(ranges) == round(path.stat().st_size / 2**14) == len({item.part for item in ranges})
    assert [item.start for item in ranges] == [0, *(item.stop for item in ranges[:-1])]
    assert ranges[-1].stop == path.stat().st_size
    assert found == sorted(found)
    whole = inputs.list_inputs([source], str(tmp_path / "cache.json"), 2**20)
    assert [(item.start, item.bytes) for item in whole] == [(0, path.stat().st_size), (0, found[-1].bytes)]
    assert whole[-1] == found[-1]
    monkeypatch.setattr(decompress, "STEP", 50)
    assert read_ranges(str(path), [item.start for item in ranges], ranges[-1].stop) == read_range(str(path))
