"""Columns of texts that nothing has checked, from tables of every kind."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.reading import ingest
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

LONG = b"long " * 300
TEXTS = [b"first", b"caf\xe9 \x93ol\xe9\x94", b"second", LONG, None, b"", b"\xff", b"last"]
SOURCE = SourceConfig(name="s", urls=["x"], name_field="set")


def write(path: Path, kind: str) -> None:
    """TEXTS as a table of a kind of file; the source name of each record is its number."""
    if kind == "csv":
        lines = [b'%s,"%s"' % (str(n).encode(), text or b"") for n, text in enumerate(TEXTS)]
        path.write_bytes(b"\n".join([b"set,text", *lines]))
        return
    names = pa.array([str(n) for n in range(len(TEXTS))])
    table = pa.table({"text": pa.array(TEXTS, pa.binary()), "set": names})
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=3)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, 3)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv"])
@pytest.mark.parametrize("invalid", ["reject", "cp1252"])
def test_records_that_are_no_text_are_rejected_or_read_otherwise(
    tmp_path: Path, kind: str, invalid: str
) -> None:
    path = tmp_path / f"a.{kind}"
    write(path, kind)
    config = IngestConfig(max_document_bytes=1024, invalid_utf8=invalid)
    batches = list(ingest.read(str(path), SOURCE, config))
    documents = [row for batch in batches for row in batch.documents.to_pylist()]
    rejects = [row for batch in batches for row in batch.rejects.to_pylist()]
    expected, reasons = {}, {}
    for number, text in enumerate(TEXTS):
        if text is None and kind == "csv":
            expected[number] = ""
        elif text is None:
            reasons[number] = "missing_text"
        elif text == LONG:
            reasons[number] = "too_long"
        else:
            try:
                expected[number] = text.decode()
            except UnicodeDecodeError:
                if invalid == "reject":
                    reasons[number] = "invalid_utf8"
                else:
                    expected[number] = text.decode("cp1252")
    assert [(row["record"], row["text"]) for row in documents] == list(expected.items())
    assert all(row["name"] == str(row["record"]) for row in documents)
    assert [(row["record"], row["reason"]) for row in rejects] == list(reasons.items())
    if kind != "csv":
        sizes = {number: len(text or b"") for number, text in enumerate(TEXTS)}
        assert all(row["raw_bytes"] == sizes[row["record"]] for row in documents)
        assert all(row["bytes"] == sizes[row["record"]] for row in rejects)
    (long,) = [row for row in rejects if row["reason"] == "too_long"]
    assert "max_document_bytes is 1024" in long["detail"] and long["sample"] == LONG.decode()
