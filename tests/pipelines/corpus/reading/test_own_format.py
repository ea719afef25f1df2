"""The table of formats, and a format of somebody else's that is named by its import path."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.corpus.reading import formats, ingest, splitting
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

MODULE = '''
"""Fortune files: documents are divided by lines with a per cent sign."""

import re

import numpy as np
import pyarrow as pa

from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.formats import Format
from pipelines.corpus.reading.records import Batch, column_batch

FORTUNE = Format(
    name="fortune",
    documents="one between lines with `%`",
    reader=__name__,
    suffixes=(".fortune",),
    ranges="all files",
)
NOT_A_FORMAT = "fortune"


def _content(url, start, stop):
    """A range ends and begins after a line with a per cent sign."""
    data = b"".join(decompress.pieces(url))
    begins = [0, *(match.end() for match in re.finditer(rb"^%\\n", data, re.M))]
    return data, [at for at in begins if start <= at < (len(data) if stop is None else stop)]


def read(url, source, config, start, stop, first_record):
    data, begins = _content(url, start, stop)
    ends = [data.find(b"\\n%\\n", at) for at in begins]
    texts = [data[at:end] if end >= 0 else data[at:].rstrip() for at, end in zip(begins, ends)]
    sizes = np.array([len(text) for text in texts], np.int64)
    records = first_record + np.arange(len(texts))
    raw = pa.array(texts, pa.large_binary())
    batch = column_batch(records, raw, sizes, pa.nulls(len(texts), pa.string()), "The text", config)
    stop = len(data) if stop is None else stop
    yield Batch(batch.documents, batch.rejects, stop - start - int(sizes.sum()))


def count(url, source, start, stop):
    return len(_content(url, start, stop)[1])


def cuts(url, size, wanted):
    begins = _content(url, 0, None)[1]
    return sorted({0, *(min((at for at in begins if at >= place), default=0) for place in wanted)})
'''


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceConfig:
    (tmp_path / "their_fortunes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return SourceConfig(name="s", urls=["x"], format="their_fortunes:FORTUNE")


def texts_of(url: str, source: SourceConfig, *place: int) -> list[tuple[int, str]]:
    batches = ingest.read(url, source, IngestConfig(), *place)
    return [(row["record"], row["text"]) for batch in batches for row in batch.documents.to_pylist()]


def test_a_format_from_outside_is_read_whole_in_ranges_and_in_other_processes(
    source: SourceConfig, tmp_path: Path
) -> None:
    path = tmp_path / "wisdom"
    expected = [(number, f"Saying {number},\nof two lines.") for number in range(40)]
    path.write_text("\n%\n".join(text for _, text in expected) + "\n")
    assert texts_of(str(path), source) == expected
    size = path.stat().st_size
    starts = splitting.starts(str(path), source, size, size // 4)
    assert len(starts) == 4
    read: list[tuple[int, str]] = []
    for start, stop in zip(starts, [*starts[1:], size], strict=True):
        read += texts_of(str(path), source, start, stop, len(read))
        assert ingest.count_records(str(path), source, 0, stop) == len(read)
    assert read == expected
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(texts_of, str(path), source).result() == expected


def test_a_format_that_is_none_is_named_with_what_is_allowed(source: SourceConfig) -> None:
    for format, sentence in [
        ("jsnl", "it is auto, jsonl, json, parquet, arrow, csv, warc or text, or the import path"),
        ("nowhere:FORMAT", "nowhere:FORMAT cannot be imported: No module named 'nowhere'"),
        ("their_fortunes:COOKIE", "their_fortunes has no COOKIE"),
        ("their_fortunes:NOT_A_FORMAT", "their_fortunes:NOT_A_FORMAT is no Format"),
        (":x", "':x' is no import path; write it as package.module:NAME"),
    ]:
        with pytest.raises(ValidationError, match=sentence):
            SourceConfig(name="s", urls=["x"], format=format)


@pytest.mark.parametrize("format", formats.FORMATS, ids=lambda format: format.name)
def test_every_format_has_what_its_entry_says(format: formats.Format) -> None:
    module = format.as_reader()
    assert callable(module.read)
    assert bool(format.ranges) == hasattr(module, "cuts") == hasattr(module, "count")
    assert SourceConfig(name="s", urls=["x"], format=format.name).format == format.name
    assert f"| {format.name} | {' '.join(format.suffixes)} |" in formats.markdown()
    assert format.name in (SourceConfig.model_fields["format"].description or "")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"PAR1 and more", "parquet"),
        ("a.csv", b"ARROW1", "arrow"),
        ("a.txt", b"\xff\xff\xff\xff", "text"),
        ("a", b"\xff\xff\xff\xff\x00", "arrow"),
        ("a.json", b"\xff\xff\xff\xff\x00", "arrow"),
        ("a.json", b"WARC/1.0", "warc"),
        ("a", b"WARC/1.0", "warc"),
        ("a.json", b"", "jsonl"),
        ("a.json", b"7", "jsonl"),
        ("a.json", b"\xef\xbb\xbf \n[1]", "json"),
        ("a", b" \n{ \t\r\n", "json"),
        ("a", b'{"a": 1}\n', "jsonl"),
        ("a.bin", b"\xef\xbb\xbf{", "jsonl"),
        ("a.b.JSONL.gz", b"[", "jsonl"),
    ],
)
def test_what_decides_a_format(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    source = SourceConfig(name="s", urls=["x"])
    assert ingest.file_format(str(path), source).name == expected
