"""JSON arrays, CSV, Arrow, `datasets` folders, web archives and other file systems, through ingest.read."""

import bz2
import csv
import gzip
import io
import json
import random
import zlib
from pathlib import Path

import brotli
import fsspec
import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from base.errors import UserError
from pipelines.corpus import inputs
from pipelines.corpus.reading import csvscan, decompress, ingest
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

SOURCE = SourceConfig(name="s", urls=["x"])


def read_all(
    path: Path | str, source: SourceConfig = SOURCE, **options: object
) -> tuple[list[dict], list[dict], int]:
    documents, rejects, framing = [], [], 0
    for batch in ingest.read(str(path), source, IngestConfig(**options)):
        batch.documents.validate(full=True)
        documents += batch.documents.to_pylist()
        rejects += batch.rejects.to_pylist()
        framing += batch.framing_bytes
    return documents, rejects, framing


def total(documents: list[dict], rejects: list[dict], framing: int) -> int:
    return sum([framing, *(d["raw_bytes"] for d in documents), *(r["bytes"] for r in rejects)])


# CSV


def csv_bytes(rows: list[list[str]], delimiter: str = ",", end: str = "\n", header: str = "id,text") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerow(header.split(","))
    writer.writerows(rows)
    return out.getvalue().encode()


# The writer of the csv module leaves a lone carriage return bare, and its reader takes one for a line end.
fields = st.lists(st.sampled_from(["a", ",", '"', ";", "|", "\t", "\r\n", "\n", " ", "é"]), max_size=9).map(
    "".join
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(fields, fields), max_size=8), st.sampled_from(",\t;|"), st.booleans(), st.booleans()
)
def test_csv_is_read_as_the_csv_module_reads_it(
    tmp_path: Path, rows: list[tuple[str, str]], delimiter: str, windows: bool, last: bool
) -> None:
    content = csv_bytes([list(row) for row in rows], delimiter, "\r\n" if windows else "\n")
    content = content if last else content.rstrip(b"\r\n")
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    text = content.decode()
    expected = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))[1:]
    named = SourceConfig(name="s", urls=["x"], name_field="id")
    documents, rejects, framing = read_all(path, named)
    assert total(documents, rejects, framing) == len(content)
    if not rejects:
        assert [[d["name"] or "", d["text"]] for d in documents] == [row for row in expected if row]
        assert [d["record"] for d in documents] == [n for n, row in enumerate(expected) if row]
    else:  # only where cutting the end off left a quote open
        assert not last


BROKEN = (
    b"id,text\n"
    b'0,"first\nof two lines"\n'
    b'1,"closed" too early\n'
    b"2,one,too many\n"
    b"\n"
    b'4,"she said ""yes"""\r\n'
    b'5,not "special" here\n'
    b'6,"never closed\n'
    b'7,"swallowed"\n'
    b"8,back on track\n"
    b"9,\xff bad\n"
    b'10,"open to the end\n'
)


def test_broken_csv_records_are_rejected_and_the_next_ones_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(BROKEN)
    whole = read_all(path)
    documents, rejects, _ = whole
    assert total(*whole) == len(BROKEN)
    assert [(d["record"], d["text"]) for d in documents] == [
        (0, "first\nof two lines"),
        (4, 'she said "yes"'),
        (5, 'not "special" here'),
        (7, "back on track"),
    ]
    assert [(r["record"], r["reason"]) for r in rejects] == [
        (1, "invalid_csv"),
        (2, "wrong_columns"),
        (6, "invalid_csv"),
        (8, "invalid_utf8"),
        (9, "invalid_csv"),
    ]
    assert rejects[2]["sample"] == '6,"never closed\n7,"swallowed"'
    large = BROKEN + b"".join(b'%d,"%s\n"\n' % (n, b"x" * 3000) for n in range(100))
    path.write_bytes(large.replace(b'10,"open to the end\n', b""))
    whole = read_all(path)
    for step in (1000, 70_000):
        monkeypatch.setattr(decompress, "STEP", step)
        assert read_all(path, batch_bytes=2**16) == whole
    path.write_bytes(b"id,text\n1,a\n" + b'2,"' + b"y" * 200_000 + b'"\n3,b\n')
    documents, rejects, framing = read_all(path, batch_bytes=2**16, max_document_bytes=1024)
    assert [(d["record"], d["text"]) for d in documents] == [(0, "a"), (2, "b")]
    assert [(r["record"], r["reason"], r["bytes"]) for r in rejects] == [(1, "too_long", 200_004)]
    assert total(documents, rejects, framing) == path.stat().st_size


@pytest.mark.parametrize("batch_bytes", [2**16, 2**24])
def test_a_quote_that_nothing_closes_costs_its_line(tmp_path: Path, batch_bytes: int) -> None:
    rows = b"".join(b"%d,line %d of many\n" % (number, number) for number in range(10_000))
    (tmp_path / "a.csv").write_bytes(b'id,text\nx,"open\n' + rows)
    documents, rejects, framing = read_all(tmp_path / "a.csv", batch_bytes=batch_bytes)
    assert [d["record"] for d in documents] == list(range(1, 10_001))
    assert [(r["record"], r["reason"], r["sample"]) for r in rejects] == [(0, "invalid_csv", 'x,"open')]
    assert total(documents, rejects, framing) == (tmp_path / "a.csv").stat().st_size


def test_a_quote_that_nothing_closes_for_long_costs_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long is the larger of max_document_bytes and batch_bytes, wherever blocks of the file end."""
    rows = [b'%d,line "" %d""of many' % (number, number) for number in range(20_000)]
    rows[0] = rows[8000] = rows[16_000] = b'x,"open'
    rows[19_999] = b'y,"' + b"one long line " * 20_000
    rows.append(b"z,end")
    content = b"\r\n".join([b"id,text", *rows])
    (tmp_path / "a.csv").write_bytes(content)
    for step in (5000, 2**20):
        monkeypatch.setattr(decompress, "STEP", step)
        documents, rejects, framing = read_all(
            tmp_path / "a.csv", batch_bytes=2**16, max_document_bytes=2**15
        )
        assert [d["record"] for d in documents] == [n for n in range(20_001) if n % 8000 and n != 19_999]
        assert [(r["record"], r["reason"], r["sample"][:7]) for r in rejects] == [
            *((n, "invalid_csv", 'x,"open') for n in (0, 8000, 16_000)),
            (19_999, "too_long", 'y,"one '),
        ]
        assert total(documents, rejects, framing) == len(content)


def test_csv_headers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    assert read_all(tmp_path / "a.csv") == ([], [], 0)
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbftext\tn\nx, y\t1\n"))
    documents, rejects, framing = read_all(tmp_path / "b.tsv.gz")
    assert [d["text"] for d in documents] == ["x, y"]
    assert total(documents, rejects, framing) == 17
    (tmp_path / "e.csv").write_bytes(b"\r\n\nid,text\n1,a\n")
    assert read_all(tmp_path / "e.csv") == (
        [{"record": 0, "text": "a", "raw_bytes": 3, "name": None}],
        [],
        12,
    )
    (tmp_path / "f.csv").write_bytes(b"\n\n")
    assert read_all(tmp_path / "f.csv") == ([], [], 2)
    (tmp_path / "c.csv").write_bytes(b"id,body\n1,a\n")
    with pytest.raises(UserError, match=r"c\.csv has no column text; it has id, body"):
        read_all(tmp_path / "c.csv")
    body = SourceConfig(name="s", urls=["x"], text_field="body", format="csv")
    assert read_all(tmp_path / "c.csv", body)[0][0]["text"] == "a"
    (tmp_path / "d.csv.bz2").write_bytes(bz2.compress(csv_bytes([["1", "é" * 9000]] * 30))[:-20])
    assert read_all(tmp_path / "d.csv.bz2")[1][-1]["reason"] == "truncated_file"


def test_csv_scan_never_reads_past_its_data() -> None:
    choose = random.Random(3)
    for _ in range(300):
        data = np.frombuffer(bytes(choose.choices(b'a,"\r\n', k=choose.randrange(1, 20))), np.uint8)
        arrays = [np.zeros(len(data) + 1, kind) for kind in (np.uint8, np.uint8, np.int64, np.int64)]
        status, offsets, names = np.zeros(21, np.uint8), np.zeros(22, np.int64), np.zeros(22, np.int64)
        longest = choose.choice([3, 2**62])
        count, used = csvscan.scan(data, 44, 2, 1, 0, True, 2**62, longest, *arrays, status, offsets, names)
        assert used == len(data)
        assert np.less_equal(arrays[2][:count], arrays[3][:count]).all()
        part, taken = csvscan.scan(data, 44, 2, 1, 0, False, 2**62, longest, *arrays, status, offsets, names)
        assert part <= count
        assert taken <= used


# Arrow


TEXTS = [f"text {number} " + "é" * (number % 50) for number in range(1000)]


def arrow_table() -> pa.Table:
    return pa.table(
        {
            "text": pa.array([None if n == 7 else text for n, text in enumerate(TEXTS)], pa.string()),
            "meta": [{"body": text, "set": f"set {n % 3}"} for n, text in enumerate(TEXTS)],
        }
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.fixed_dictionaries(
            {"text": st.text('ab\\"[]{},\n é'), "meta": st.recursive(st.text(',]"'), st.lists)}
        )
        | st.sampled_from([7, None, [{"text": "x"}], {"text": 1}])
    ),
    indent=st.sampled_from([None, 0, 3]),
    chunk=st.integers(1, 40),
)
def test_a_json_array_is_read_as_its_elements_in_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list, indent: int | None, chunk: int
) -> None:
    array, lines = tmp_path / "x.json", tmp_path / "x.jsonl"
    array.write_text(json.dumps(values, indent=indent, ensure_ascii=False) + "\n")
    lines.write_text("".join(json.dumps(value) + "\n" for value in values))
    monkeypatch.setattr(decompress, "STEP", chunk)
    documents, rejects, framing = read_all(array)
    expected, refused, _ = read_all(lines)
    assert [(row["record"], row["text"]) for row in documents] == [
        (row["record"], row["text"]) for row in expected
    ]
    assert [(row["record"], row["reason"]) for row in rejects] == [
        (row["record"], row["reason"]) for row in refused
    ]
    assert total(documents, rejects, framing) == array.stat().st_size


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.fixed_dictionaries({"text": st.text('ab\\"[]{},\n é'), "meta": st.recursive(st.none(), st.lists)})
        | st.sampled_from([7, None, "a ]", {}, {"text": [{}, 1]}])
        | st.lists(st.sampled_from([{"text": "in an array"}, [], 3, "}"]), min_size=1)
    ),
    indent=st.sampled_from([None, 0, 3]),
    between=st.sampled_from(["\n", " ", "\r\n", "\n\n\t"]),
    chunk=st.integers(1, 40),
)
def test_json_values_over_several_lines_are_read_as_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: list,
    indent: int | None,
    between: str,
    chunk: int,
) -> None:
    path, lines = tmp_path / "x.json", tmp_path / "x.jsonl"
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    path.write_text(between.join(json.dumps(value, indent=indent) for value in values), newline="")
    lines.write_text("".join(json.dumps(value) + "\n" for value in flat))
    monkeypatch.setattr(decompress, "STEP", chunk)
    documents, rejects, framing = read_all(path, SOURCE.model_copy(update={"format": "json"}))
    expected, refused, _ = read_all(lines)
    assert total(documents, rejects, framing) == path.stat().st_size
    assert [row["text"] for row in documents] == [row["text"] for row in expected]
    assert [row["reason"] for row in rejects] == [row["reason"] for row in refused]
    assert [row["record"] for row in documents] == [row["record"] for row in expected]


def test_a_json_file_that_begins_with_an_object_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, texts in (
        ('{\n "text": "a",\n "id": 3\n}\n', ["a"]),
        ('\ufeff{\r\n "text": "a"}\r\n{"text": "b"}\n\n[{"text": "c"}]', ["a", "b", "c"]),
        ('[{"text":"a"},{"text":"b"}]\n[{"text":"c"}]\n', ["a", "b", "c"]),
        ('\ufeff[{"text":"a"}]', ["a"]),
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
    ):
        path.write_bytes(content.encode())
        documents, rejects, framing = read_all(path)
        assert ([row["text"] for row in documents], rejects) == (texts, [])
        assert [row["record"] for row in documents] == list(range(len(texts)))
        assert total(documents, rejects, framing) == path.stat().st_size


def test_a_broken_element_of_a_json_array_is_rejected_and_the_others_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    content = b'\xef\xbb\xbf [{"text": "a"},\n {"text": "b\nb"}, {"text": bad}, {"text": "c"}\n]'
    path.write_bytes(gzip.compress(content))
    documents, rejects, framing = read_all(path)
    assert [(row["record"], row["text"]) for row in documents] == [(0, "a"), (3, "c")]
    assert [(row["record"], row["reason"]) for row in rejects] == [(1, "invalid_json"), (2, "invalid_json")]
    assert total(documents, rejects, framing) == len(content)
    path.write_bytes(gzip.compress(content)[:-4])
    _, rejects, _ = read_all(path)
    assert rejects[-1]["reason"] == "truncated_file"
    (tmp_path / "empty.json").write_text("[]")
    assert read_all(tmp_path / "empty.json") == ([], [], 2)


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_arrow(tmp_path: Path, kind: str, compression: str | None) -> None:
    path = tmp_path / "a.arrow"
    table = arrow_table()
    write = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with write(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=100)
    documents, rejects, framing = read_all(path, batch_bytes=2**16)
    assert [(d["record"], d["text"]) for d in documents] == [(n, t) for n, t in enumerate(TEXTS) if n != 7]
    assert [(r["record"], r["reason"]) for r in rejects] == [(7, "missing_text")]
    assert framing == 0
    nested = SourceConfig(name="s", urls=["x"], text_field="meta.body", name_field="meta.set")
    named, _, _ = read_all(path, nested)
    assert [(d["text"], d["name"]) for d in named] == [(t, f"set {n % 3}") for n, t in enumerate(TEXTS)]
    with pytest.raises(UserError, match=r"a\.arrow has no column body; it has text, meta"):
        read_all(path, SourceConfig(name="s", urls=["x"], text_field="body"))
    unnamed = tmp_path / "data"
    unnamed.write_bytes(path.read_bytes())
    assert read_all(unnamed) == (documents, rejects, 0)
    memory = f"memory://arrow-{kind}-{compression}/a.arrow"
    fsspec.filesystem("memory").pipe_file(memory.removeprefix("memory:/"), path.read_bytes())
    assert read_all(memory) == (documents, rejects, 0)
    path.write_bytes(path.read_bytes()[:-1000])
    partly, damage, _ = read_all(path)
    assert partly == documents[: len(partly)]
    assert 800 <= len(partly) < 1000
    assert damage[-1]["reason"] == "truncated_file"


def test_arrow_offsets_of_a_damaged_file_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = pa.table({"text": ["some text"] * 1000})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    content = bytearray(path.read_bytes())
    place = bytes(content).index(np.arange(0, 90, 9, dtype=np.int32).tobytes())
    content[place + 400 : place + 404] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    assert [r["reason"] for r in read_all(path)[1]] == ["corrupt_file"]


def test_a_datasets_folder(tmp_path: Path) -> None:
    import datasets

    whole = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict({"text": TEXTS[:600]}),
            "test": datasets.Dataset.from_dict({"text": TEXTS[600:]}),
        }
    )
    whole.save_to_disk(str(tmp_path / "saved"), num_shards={"train": 2, "test": 1})
    source = SourceConfig(name="s", urls=[str(tmp_path / "saved")])
    found = sorted(file for _, file in inputs.check_sources([source]))
    assert [Path(file).suffix for file in found] == [".arrow"] * 3
    texts = [d["text"] for file in found for d in read_all(file, source)[0]]
    assert sorted(texts) == sorted(TEXTS)


# Web archives


PAGE = (
    "<html><head><title>T</title><script>no()</script></head><body><nav><a href=x>menu</a></nav>"
    "<main><h1>Heading</h1><p>Ein schöner Absatz, der bleibt.</p><p>Noch einer.</p></main></body></html>"
)


def warc(kind: str, body: bytes, content_type: str = "application/http; msgtype=response") -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def http(
    body: bytes, kind: str = "text/html; charset=utf-8", status: str = "200 OK", more: str = ""
) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n5;x=y\r\nAFTER\r\n0\r\n\r\n" % (len(body), body)


UTF8 = PAGE.encode()
GOOD = [
    http(UTF8),
    http(PAGE.encode("latin-1"), "text/html; charset=ISO-8859-1"),
    http(PAGE.replace("<head>", '<head><meta charset="iso-8859-1">').encode("latin-1"), "text/html"),
    http(UTF8, 'application/xhtml+xml; charset="nonsense"'),
    http(gzip.compress(UTF8), more="Content-Encoding: gzip\r\n"),
    http(zlib.compress(UTF8), more="Content-Encoding: deflate\r\n"),
    http(zlib.compress(UTF8)[2:-4], more="Content-Encoding: deflate\r\n"),
    http(brotli.compress(UTF8), more="Content-Encoding: br\r\n"),
    http(zstandard.compress(UTF8), more="content-encoding: zstd\r\n"),
    http(UTF8, more="Content-Encoding: gzip\r\n"),
    http(chunked(UTF8), more="Transfer-Encoding: chunked\r\n"),
    http(UTF8, more="Transfer-Encoding: chunked\r\n"),
]
BAD = {
    "content_encoding": [
        http(gzip.compress(UTF8)[:-20], more="Content-Encoding: gzip\r\n"),
        http(b"\x00\x01\x02", more="Content-Encoding: br\r\n"),
        http(UTF8, more="Content-Encoding: secret\r\n"),
    ],
    "transfer_encoding": [http(b"3\r\nabc\r\nno size\r\n", more="Transfer-Encoding: chunked\r\n")],
    "http_status": [http(UTF8, status="404 Not Found")],
    "not_html": [http(b"\x89PNG", "image/png")],
    "invalid_http": [b"nothing", b""],
    "too_long": [
        http(gzip.compress(b" " * 300_000), more="Content-Encoding: gzip\r\n"),
        http(b" " * 300_000),
    ],
}


def archive() -> tuple[bytes, list[int], dict[int, str]]:
    """The content, the records that are pages, and the reasons of the rejects."""
    parts = [warc("warcinfo", b"software: x\r\n", "application/warc-fields")]
    good: list[int] = []
    bad: dict[int, str] = {}
    for body in GOOD:
        good.append(len(parts))
        parts.append(warc("response", body))
        parts.append(warc("request", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"))
    for reason, bodies in BAD.items():
        for body in bodies:
            bad[len(parts)] = reason
            parts.append(warc("response", body))
    return b"".join(parts), good, bad


def test_warc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, good, bad = archive()
    path = tmp_path / "a.warc"
    path.write_bytes(content)
    whole = read_all(path, max_document_bytes=200_000)
    documents, rejects, framing = whole
    assert [d["record"] for d in documents] == good
    assert {r["record"]: r["reason"] for r in rejects} == bad
    assert total(*whole) == len(content)
    for document in documents:
        text = document["text"]
        assert "Ein schöner Absatz, der bleibt.\n" in text
        assert "menu" not in text
        assert "no()" not in text
    records = content.split(b"WARC/1.0")[1:]
    (tmp_path / "b.warc.gz").write_bytes(b"".join(gzip.compress(b"WARC/1.0" + r) for r in records))
    (tmp_path / "c").write_bytes(zstandard.compress(content))
    for other in ("b.warc.gz", "c"):
        assert read_all(tmp_path / other, max_document_bytes=200_000) == whole
    monkeypatch.setattr(decompress, "STEP", 100)
    assert read_all(path, max_document_bytes=200_000, batch_bytes=2**16) == whole


@pytest.mark.parametrize(
    ("parameter", "encoding", "text"),
    [
        ("charset=koi8-r", "koi8-r", "Съешь ещё"),
        ('boundary=x; Charset="Windows-1251"', "cp1251", "Съешь ещё"),
        ("charset=shift_jis", "shift_jis", "日本語の文章"),
        ("charset=iso-8859-7", "iso-8859-7", "Γειά σου"),
        # Bytes that would be UTF-8 too, but are said to be something else.
        ("charset=ISO-8859-1", "latin-1", "Ã¼ber"),
    ],
)
def test_a_page_is_read_in_the_encoding_that_its_server_names(
    tmp_path: Path, parameter: str, encoding: str, text: str
) -> None:
    page = PAGE.replace("Ein schöner Absatz, der bleibt.", f"{text} is what it says.").encode(encoding)
    (tmp_path / "a.warc").write_bytes(warc("response", http(page, f"text/html; {parameter}")))
    ((document,), rejects, _) = read_all(tmp_path / "a.warc")
    assert f"{text} is what it says." in document["text"] and not rejects


def test_damaged_web_archives(tmp_path: Path) -> None:
    page, other = warc("response", http(UTF8)), warc("response", http(UTF8.replace(b"Heading", b"Other")))
    path = tmp_path / "a.warc"
    for lost in (b"garbage in between\r\n", b"WARC/1.0\r\nContent-Length: x\r\n\r\n"):
        path.write_bytes(page + lost + other)
        documents, rejects, framing = read_all(path)
        assert [d["record"] for d in documents] == [0, 2]
        assert "Other" in documents[1]["text"]
        assert [(r["record"], r["reason"], r["bytes"]) for r in rejects] == [(1, "invalid_warc", len(lost))]
        assert total(documents, rejects, framing) == path.stat().st_size
    for cut in (10, 40, len(other) - 20):
        path.write_bytes(page + other[:cut])
        documents, rejects, framing = read_all(path)
        assert [d["record"] for d in documents] == [0]
        assert [(r["record"], r["reason"], r["bytes"]) for r in rejects] == [(1, "truncated_file", cut)]
        assert total(documents, rejects, framing) == path.stat().st_size
        with pytest.raises(UserError, match=r"a\.warc is damaged at record 1"):
            read_all(path, on_damaged_file="stop")
    compressed = gzip.compress(page * 50)
    (tmp_path / "b.warc.gz").write_bytes(compressed[:-10])
    documents, rejects, _ = read_all(tmp_path / "b.warc.gz")
    assert rejects[-1]["reason"] == "truncated_file"
    assert len(documents) >= 40


def test_wet(tmp_path: Path) -> None:
    parts = [
        warc("warcinfo", b"x: y\r\n", "application/warc-fields"),
        warc("conversion", "Plain ü text.\r\n\r\nMore.".encode(), "text/plain"),
        warc("conversion", b"not \xff utf-8", "text/plain"),
    ]
    path = tmp_path / "a.warc.wet.gz"
    path.write_bytes(b"".join(map(gzip.compress, parts)))
    documents, rejects, framing = read_all(path)
    assert [(d["record"], d["text"]) for d in documents] == [(1, "Plain ü text.\r\n\r\nMore.")]
    assert [(r["record"], r["reason"]) for r in rejects] == [(2, "invalid_utf8")]
    assert total(documents, rejects, framing) == sum(map(len, parts))


# Other file systems


def test_files_of_other_file_systems(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    content = {
        "a.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
        "b.jsonl.gz": gzip.compress(b'{"text": "three"}'),
        "c.csv": b"text\nfour\n",
        "d.txt": b"five",
        "e.warc.gz": gzip.compress(warc("conversion", b"six", "text/plain")),
    }
    for name, data in content.items():
        memory.pipe_file(f"/formats/{name}", data)
    source = SourceConfig(name="s", urls=["memory://formats", "memory://formats/*.csv"])
    found = inputs.list_inputs([source], str(tmp_path / "inputs.json"), 2**28)
    assert [item.file for item in found] == [f"memory:///formats/{name}" for name in content]
    assert [item.bytes for item in found] == [len(data) for data in content.values()]
    texts = [d["text"] for item in found for d in read_all(item.file)[0]]
    assert texts == ["one", "two", "three", "four", "five", "six"]
