import bz2
import collections
import gzip
import hashlib
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from base.errors import UserError
from pipelines.corpus.reading import ingest, records
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

SOURCE = SourceConfig(name="s", urls=["x"])
NAMED = SourceConfig(name="s", urls=["x"], name_field="meta.pile_set_name")
DOTTED = SourceConfig(name="s", urls=["x"], text_field="meta.pile_set_name", name_field="a.b.c")


def read_all(
    path: Path, source: SourceConfig = SOURCE, **options: object
) -> tuple[list[dict], list[dict], int]:
    documents, rejects, framing = [], [], 0
    for batch in ingest.read(str(path), source, IngestConfig(**options)):
        assert batch.documents.schema == records.DOCUMENTS
        assert batch.rejects.schema == records.REJECTS
        batch.documents.validate(full=True)
        documents += batch.documents.to_pylist()
        rejects += batch.rejects.to_pylist()
        framing += batch.framing_bytes
    return documents, rejects, framing


def total(documents: list[dict], rejects: list[dict], framing: int) -> int:
    return sum([framing, *(d["raw_bytes"] for d in documents), *(r["bytes"] for r in rejects)])


def expected(content: bytes, source: SourceConfig) -> tuple[dict, dict]:
    """(text and name, reason) by line number, line by line with json.loads."""

    def at(value: object, path: str) -> object:
        if isinstance(value, dict) and path in value:
            return value[path]
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def good(text: str) -> bool:
        return not any(0xD800 <= ord(c) < 0xE000 for c in text)

    kept, rejected = {}, {}
    for number, line in enumerate(content.split(b"\n")):
        raw = line.removeprefix(b"\xef\xbb\xbf")
        if not raw.strip(b" \t\r"):
            continue
        try:
            value = json.loads(raw.removesuffix(b"\r").decode())
        except UnicodeDecodeError:
            rejected[number] = "invalid_utf8"
            continue
        except ValueError:
            rejected[number] = "invalid_json"
            continue
        text = at(value, source.text_field)
        if text is None:
            rejected[number] = "missing_text"
        elif not isinstance(text, str):
            rejected[number] = "text_not_string"
        elif not good(text):
            rejected[number] = "lone_surrogate"
        else:
            name = at(value, source.name_field) if source.name_field else None
            name = str(name) if type(name) is int else name
            kept[number] = (text, name if isinstance(name, str) and good(name) else None)
    return kept, rejected


def check(path: Path, content: bytes, source: SourceConfig, **options: object) -> None:
    path.write_bytes(content)
    documents, rejects, framing = read_all(path, source, **options)
    kept, rejected = expected(content, source)
    assert {d["record"]: (d["text"], d["name"]) for d in documents} == kept
    assert {r["record"]: r["reason"] for r in rejects} == rejected
    assert [d["record"] for d in documents] == sorted(kept)
    assert total(documents, rejects, framing) == len(content)


AWKWARD = [
    '{"text": "\\ud83d\\ude00 \\u0000 \\u00e9\\n\\t\\"\\\\\\/\\b\\f\\r"}',
    '{"text": "\\ud800"}',
    '{"text": "\\udc00\\ud800"}',
    '{"text": "\\ud83d\\u0041"}',
    '{"text": "\\ud83dabc"}',
    '{"text": "\\u12"}',
    '{"text": "\\x41"}',
    '{"text": "tab\tinside"}',
    '{"text": "a", "text": "b"}',
    '{"text": "a", "te\\u0078t": "b"}',
    '{"te\\u0078t": "b"}',
    '{"text": "a", "meta": {"pile_set_name": "x"}, "meta": {"pile_set_name": "y"}}',
    '{"text": "a", "meta": {"pile_set_name": "x", "pile_set_name": "y"}}',
    '{"text": "a", "meta": [{"pile_set_name": "x"}]}',
    '{"text": "a", "meta": {"other": {"pile_set_name": "x"}}}',
    '{"text": "a", "pile_set_name": "x", "meta": "X"}',
    '{"text": "a", "meta": {"pile_set_name": 3}}',
    *(
        f'{{"text": "a", "meta": {{"pile_set_name": {value}}}, "x": 1}}'
        for value in ("0", "-0", "-7", "01", "1.5", "1e3", "true", "null", "9" * 30)
    ),
    '{"text": "a", "meta.pile_set_name": "flat"}',
    '{"text": "a", "meta.pile_set_name": 12, "meta.other": 3}',
    '{"text": "a", "meta": {"meta.pile_set_name": "inner"}}',
    '{"text": "a", "meta.pile_set_name": "flat", "meta.pile_set_name": "again"}',
    '{"text": "a", "meta.pile_set_name": "flat", "meta": {"pile_set_name": "nested"}}',
    '{"text": "a", "meta": {"pile_set_name": "nested"}, "meta.pile_set_name": null}',
    '{"meta.pile_set_name": "flat", "a": {"b.c": 1}, "a.b.c": 2, "a.b": {"c": 3}}',
    '{"meta.pile_set_name": "flat", "a": {"b": {"c": 1}}}',
    '{"text": "a", "meta": {"pile_set_name": "\\u00e9 \\ud800"}}',
    '{"meta": {"pile_set_name": "\\u00e9"}, "text": "after"}',
    '{"x": {"text": "inner"}}',
    '{"x": {"text": "inner"}, "text": "outer"}',
    '{"x": [1, 2.5e-3, -0, true, false, null, {"text": 1}], "text": "outer"}',
    '{"x": 01, "text": "a"}',
    '{"x": 1., "text": "a"}',
    '{"x": -, "text": "a"}',
    '{"x": NaN, "text": "a"}',
    '{"x": -Infinity, "text": "a"}',
    '{"x": 1e999, "text": "a"}',
    '{"x": ' + "9" * 400 + ', "text": "a"}',
    '{"x": tru, "text": "a"}',
    '{"text": "a",}',
    '{"text": "a"} x',
    '{"text": "a"}}',
    '{"text": "a"',
    '{"text" "a"}',
    "{'text': 'a'}",
    '{,"text": "a"}',
    "{}",
    "[]",
    '["text"]',
    '"text"',
    "null",
    "12.5",
    '{"text": null}',
    '{"text": 42}',
    '{"text": true}',
    '{"text": ["a"]}',
    '{"text": {"text": "a"}}',
    '{"text": ""}',
    ' \t{ "text" : "spaced" , "x" : [ ] , "y" : { } } \r',
    '{"text": "' + "x" * 5000 + '"}',
    '{"text": "' + "é" * 3 + "€𝄞" * 50 + '"}',
    "[" * 50 + "]" * 50,
    '{"x": ' + "[" * 70 + "]" * 70 + ', "text": "deep"}',
    '\ufeff{"text": "mark"}',
    '{"text": "\u2028\x7f\x85"}',
]


@pytest.mark.parametrize("source", [SOURCE, NAMED, DOTTED])
def test_awkward_lines_are_read_as_json_loads_reads_them(tmp_path: Path, source: SourceConfig) -> None:
    check(tmp_path / "a.jsonl", "\n".join(AWKWARD).encode(), source)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    bad = [b"\xe9", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80", b"\xc3", b"\x80"]
    lines = [b'{"text": "%s and a little more text"}' % piece for piece in bad] + [b'{"text": "%s"}' % bad[0]]
    check(tmp_path / "a.jsonl", b"\n".join(lines), SOURCE)
    documents, rejects, _ = read_all(tmp_path / "a.jsonl", invalid_utf8="cp1252")
    assert documents[0]["text"] == "é and a little more text"
    assert not rejects


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "meta", "pile_set_name", "é", "x"]) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
proper_lines = st.builds(
    lambda value, ascii_only: json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"),
    st.fixed_dictionaries(
        {},
        optional={
            "text": st.text(max_size=40) | json_values,
            "meta": st.dictionaries(st.sampled_from(["pile_set_name", "y"]), json_values, max_size=2),
            "meta.pile_set_name": json_values,
            "z": json_values,
        },
    ),
    st.booleans(),
)
any_lines = (
    proper_lines
    | st.binary(max_size=30)
    | st.sampled_from([line.encode() for line in AWKWARD])
    | st.builds(lambda line, cut: line[:cut], proper_lines, st.integers(0, 40))
    | st.builds(
        lambda line, at, byte: line[:at] + bytes([byte]) + line[at + 1 :],
        proper_lines,
        st.integers(0, 60),
        st.integers(0, 255),
    )
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(any_lines, max_size=8),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.sampled_from([SOURCE, NAMED, DOTTED]),
)
def test_any_bytes_are_read_as_json_loads_reads_them(
    tmp_path: Path, lines: list[bytes], line_end: bytes, mark: bool, source: SourceConfig
) -> None:
    content = (b"\xef\xbb\xbf" if mark else b"") + line_end.join(lines)
    # Such a file is taken for a compressed one or a table, whatever its name.
    magic = rb"PAR1|ARROW1|\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18|\x1f[\x8b\x9d]|\xfd7zXZ\0|PK\x03\x04|BZh"
    assume(not re.match(magic, content))
    check(tmp_path / "a.jsonl", content, source)


def test_any_block_size_gives_the_same_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    lines = [line.encode() for line in AWKWARD] * 30 + [json.dumps({"text": "y" * 300_000}).encode()]
    path.write_bytes(b"\n".join(lines * 2) + b"\n")
    whole = read_all(path)
    assert total(*whole) == path.stat().st_size
    for step in (1, 7, 1000, 100_000):
        monkeypatch.setattr("pipelines.corpus.reading.decompress.STEP", step)
        if step == 1:
            short = tmp_path / "short.jsonl"
            short.write_bytes(b"\n".join(lines[:20]))
            assert [d["text"] for d in read_all(short)[0]] == [
                d["text"] for d in whole[0] if d["record"] < 20
            ]
        else:
            assert read_all(path, batch_bytes=2**16) == whole


def test_a_record_that_is_too_long_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    long = json.dumps({"text": "long " * 1000}).encode()
    path.write_bytes(b'{"text": "a"}\n' + long + b'\n{"text": "b"}\n' + long + b"\n" + long)
    for step in (100, 2**20):
        monkeypatch.setattr("pipelines.corpus.reading.decompress.STEP", step)
        documents, rejects, framing = read_all(path, max_document_bytes=1024)
        assert [(d["record"], d["text"]) for d in documents] == [(0, "a"), (2, "b")]
        assert [(r["record"], r["reason"], r["bytes"]) for r in rejects] == [
            (number, "too_long", len(long)) for number in (1, 3, 4)
        ]
        assert rejects[0]["sample"].startswith('{"text": "long')
        assert total(documents, rejects, framing) == path.stat().st_size


CONTENT = b"".join(
    json.dumps({"text": f"document {i} " + hashlib.sha256(bytes([i])).hexdigest() * 40}).encode() + b"\n"
    for i in range(200)
)


def zstd_frames(content: bytes) -> bytes:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"extra"
    half = content.index(b"\n", len(content) // 2) - 10
    streamed = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    second = streamed.compress(content[half:]) + streamed.flush()
    return skippable + zstandard.compress(content[:half]) + skippable + second


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    plain = tmp_path / "a.jsonl"
    plain.write_bytes(CONTENT)
    once, twice = tmp_path / f"a.jsonl{suffix}", tmp_path / "no_extension"
    once.write_bytes(COMPRESS[suffix](CONTENT))
    twice.write_bytes(COMPRESS[suffix](CONTENT[:1000]) + COMPRESS[suffix](CONTENT[1000:]))
    assert read_all(once) == read_all(twice) == read_all(plain)


def test_zstd_frames_skippable_frames_and_no_content_size(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstd_frames(CONTENT))
    documents, rejects, _ = read_all(path)
    assert len(documents) == 200
    assert not rejects


def test_zstd_frames_with_a_long_window(tmp_path: Path) -> None:
    """As `zstd --long=31` writes them, also after a frame of the usual kind; this takes as much memory."""
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    long = stream.compress(CONTENT) + stream.flush()
    plain, path = tmp_path / "a.jsonl", tmp_path / "a.jsonl.zst"
    for before in (b"", CONTENT):
        plain.write_bytes(before + CONTENT)
        path.write_bytes(zstandard.compress(before) * bool(before) + long)
        assert read_all(path) == read_all(plain)
    path.write_bytes(long[:-30])
    documents, rejects, _ = read_all(path)
    assert len(documents) > 100
    assert [r["reason"] for r in rejects] == ["truncated_file"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_truncated_and_corrupt_files_keep_what_comes_before(tmp_path: Path, suffix: str) -> None:
    compressed = COMPRESS[suffix](CONTENT)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compressed[:-30])
    documents, rejects, framing = read_all(path)
    assert [r["reason"] for r in rejects] == ["truncated_file"]
    assert rejects[0]["record"] == len(documents)
    recovered = total(documents, rejects, framing)
    assert (
        recovered
        == sum(len(line) + 1 for line in CONTENT.split(b"\n")[: len(documents)]) + rejects[0]["bytes"]
    )
    assert CONTENT[:recovered].count(b"\n") == len(documents)
    if suffix != ".bz2":  # a single bzip2 block holds all of the content
        assert len(documents) > 100
    damaged = bytearray(compressed)
    damaged[len(damaged) // 2] ^= 0xFF
    damaged[len(damaged) // 2 + 7] ^= 0xFF
    path.write_bytes(bytes(damaged))
    documents, rejects, _ = read_all(path)
    assert rejects[-1]["reason"] in ("corrupt_file", "truncated_file")
    with pytest.raises(UserError, match=rf"a\.jsonl{suffix} is damaged at record {rejects[-1]['record']}"):
        read_all(path, on_damaged_file="stop")


def test_what_follows_a_gzip_member(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(CONTENT) + bytes(512))
    documents, rejects, framing = read_all(path)
    assert (len(documents), rejects) == (200, [])
    assert total(documents, rejects, framing) == len(CONTENT)
    # All of the content is there, but something else comes after it, or its checksum is another one.
    for content in (gzip.compress(CONTENT) + b"something else", gzip.compress(CONTENT)[:-8] + bytes(8)):
        path.write_bytes(content)
        documents, rejects, _ = read_all(path)
        assert len(documents) == 200
        assert [(r["record"], r["reason"]) for r in rejects] == [(200, "corrupt_file")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_file_in_utf_16_is_one_reject_that_says_so(tmp_path: Path, name: str, encoding: str) -> None:
    content = ("\ufeff" + "text\n" * name.endswith(".csv") + '{"text": "é"}\n' * 20).encode(encoding)
    (tmp_path / name).write_bytes(COMPRESS.get(name[-4:], COMPRESS.get(name[-3:], bytes))(content))
    documents, rejects, _ = read_all(tmp_path / name)
    assert not documents
    assert [(r["record"], r["reason"]) for r in rejects] == [(0, "not_utf8")]
    assert "UTF-16 or UTF-32" in rejects[0]["detail"]
    with pytest.raises(UserError, match=rf"{name} is damaged at record 0: it is UTF-16 or UTF-32"):
        read_all(tmp_path / name, on_damaged_file="stop")


def test_a_file_that_is_gone_or_of_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl"):
        read_all(tmp_path / "gone.jsonl")
    (tmp_path / "a.dat").write_bytes(b"neither")
    with pytest.raises(UserError, match=r"a\.dat"):
        ingest.file_format(str(tmp_path / "a.dat"), SOURCE)
    documents, rejects, framing = read_all(tmp_path / "a.dat")
    assert [(r["record"], r["reason"], r["sample"]) for r in rejects] == [(0, "unknown_format", "neither")]
    assert total(documents, rejects, framing) == 7
    with pytest.raises(UserError, match=r"a\.dat"):
        read_all(tmp_path / "a.dat", on_damaged_file="stop")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.jsonl.zst", "a.jsonl.gz", "a.jsonl.xz"])
def test_an_empty_file_has_no_records(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert read_all(tmp_path / name) == ([], [], 0)


def test_text_is_one_document_a_file(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(b"BZh9 is how bzip2 files begin.")
    assert [row["text"] for row in read_all(tmp_path / "d.txt")[0]] == ["BZh9 is how bzip2 files begin."]
    content = "\ufeffOne\r\ndocument é".encode()
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(content))
    plain = read_all(tmp_path / "a.txt")
    assert plain == read_all(tmp_path / "b.txt.gz")
    assert plain[0][0]["text"] == "One\r\ndocument é"
    assert total(*plain) == len(content)
    assert [r["reason"] for r in read_all(tmp_path / "a.txt", max_document_bytes=1024)[1]] == []
    (tmp_path / "c.txt").write_bytes(b"x" * 3000 + b"\xff")
    assert [r["reason"] for r in read_all(tmp_path / "c.txt")[1]] == ["invalid_utf8"]
    long = read_all(tmp_path / "c.txt", max_document_bytes=1024)
    assert [r["reason"] for r in long[1]] == ["too_long"]
    assert total(*long) == 3001


def test_parquet(tmp_path: Path) -> None:
    texts = ["a", None, "é" * 3000, "", *[f"text {i}" for i in range(500)]]
    meta = [{"text": text, "set": "x" if text else None} for text in texts]
    table = pa.table({"text": texts, "meta": meta, "number": list(range(len(texts)))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    documents, rejects, framing = read_all(tmp_path / "a.parquet", max_document_bytes=2000)
    assert [(r["record"], r["reason"], r["bytes"]) for r in rejects] == [
        (1, "missing_text", 0),
        (2, "too_long", 6000),
    ]
    assert [(d["record"], d["text"]) for d in documents] == [
        (i, t) for i, t in enumerate(texts) if i not in (1, 2)
    ]
    assert total(documents, rejects, framing) == sum(len((t or "").encode()) for t in texts)
    nested = SourceConfig(name="s", urls=["x"], text_field="meta.text", name_field="meta.set")
    again, _, _ = read_all(tmp_path / "a.parquet", nested)
    assert [d["text"] for d in again] == [t for t in texts if t is not None]
    assert again[0]["name"] == "x"
    for field in ("content", "number", "text.x"):
        with pytest.raises(UserError, match=field):
            read_all(tmp_path / "a.parquet", SourceConfig(name="s", urls=["x"], text_field=field))
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-100])
    assert [r["reason"] for r in read_all(tmp_path / "b.parquet")[1]] == ["corrupt_file"]


def test_parquet_loses_the_row_group_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {number}" for number in range(1000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=100, use_dictionary=False)
    place = pq.read_metadata(path).row_group(3).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[place + 40 : place + 140] = bytes(100)
    path.write_bytes(content)
    documents, rejects, _ = read_all(path)
    assert [d["record"] for d in documents] == [*range(300), *range(400, 1000)]
    assert [d["text"] for d in documents] == [texts[d["record"]] for d in documents]
    assert [(r["record"], r["reason"]) for r in rejects] == [(300, "corrupt_file")]
    assert "row group 3 to row 399" in rejects[0]["detail"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_a_column_of_bytes_is_text_where_it_is_utf8(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["é".encode(), b"\xff", None], pa.binary())
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    documents, rejects, _ = read_all(tmp_path / "a.parquet")
    assert [d["text"] for d in documents] == ["é"]
    assert [r["reason"] for r in rejects] == ["invalid_utf8", "missing_text"]


def test_columns_of_names(tmp_path: Path) -> None:
    """Names are text or whole numbers; one that is not UTF-8 is none and costs nothing else."""
    texts = ["a", "b", "c"]
    columns: dict[str, tuple[pa.Array, list[str | None]]] = {
        "text": (pa.array(["x", None, ""]), ["x", None, None]),
        "bytes": (pa.array([b"x", b"\xff", "é".encode()]), ["x", None, "é"]),
        "dictionary": (pa.array([b"x", b"\xff", b"x"]).dictionary_encode(), ["x", None, "x"]),
        "number": (pa.array([5, -6, None], pa.int32()), ["5", "-6", None]),
        "null": (pa.nulls(3), [None] * 3),
        "no.such": (pa.array(["x", "y", "z"]), ["x", "y", "z"]),
        "meta.set": (pa.array(["x", "y", "z"]), ["x", "y", "z"]),
    }
    values = {name: column for name, (column, _) in columns.items()}
    others = {"struct": [{"set": 1}] * 3, "list": [["x"]] * 3, "real": [0.5] * 3, "meta": [{"set": "?"}] * 3}
    table = pa.table({"text.body": texts, **values, **others})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    source = SourceConfig(name="s", urls=["x"], text_field="text.body")
    for file in ("a.parquet", "a.arrow"):
        for field, (_, expected_names) in columns.items():
            named = source.model_copy(update={"name_field": field})
            documents, rejects, _ = read_all(tmp_path / file, named)
            assert [(d["text"], d["name"]) for d in documents] == list(
                zip(texts, expected_names, strict=True)
            )
            assert not rejects
        for field in ("struct", "list", "real"):
            with pytest.raises(
                UserError, match=rf"column {field} of input file .*{file} is .*, neither text"
            ):
                read_all(tmp_path / file, source.model_copy(update={"name_field": field}))


REASONS = {
    "invalid_json": "invalid_json",
    "raw_latin1_bytes": "invalid_utf8",
    "lone_surrogate_escape": "lone_surrogate",
}


def test_the_messy_files_against_their_truth(shared_data: Path) -> None:
    truth: dict[str, dict[int, dict]] = collections.defaultdict(dict)
    with open(shared_data / "pile_messy/truth/lines.jsonl") as lines:
        for line in lines:
            row = json.loads(line)
            truth[row["file"]][row["line"]] = row
    damaged = {"12-truncated.jsonl.zst": "truncated_file", "13-corrupt.jsonl.zst": "corrupt_file"}
    for path in sorted((shared_data / "pile_messy").glob("*.zst")):
        documents, rejects, framing = read_all(path, NAMED)
        lost = next((r["record"] for r in rejects if r["reason"] in damaged.values()), None)
        seen = set()
        for document in documents:
            row = truth[path.name][document["record"]]
            assert hashlib.sha256(document["text"].encode()).hexdigest() == row["sha256"]
            assert document["name"] == row["pile_set_name"]
            seen.add(document["record"])
        for reject in rejects:
            row = truth[path.name][reject["record"]]
            seen.add(reject["record"])
            if row["kind"] == "base_in_damaged_file":
                assert reject["reason"] == damaged[path.name]
                assert not row["recoverable"]
            elif row["kind"] == "valid_json_wrong_schema":
                assert reject["reason"] in ("missing_text", "text_not_string")
            else:
                assert reject["reason"] == REASONS[row["kind"]]
        for number, row in truth[path.name].items():
            if row["kind"] != "blank_line" and (lost is None or number < lost):
                assert number in seen
            if row.get("recoverable"):
                assert number in seen
        if path.name not in damaged:
            size = len(
                zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True).read()
            )
            assert total(documents, rejects, framing) == size
