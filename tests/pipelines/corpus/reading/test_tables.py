"""Tables that stand for much more text than they hold, columns of nulls alone, types of text columns."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.reading import ingest
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

SOURCE = SourceConfig(name="s", urls=["x"])
BATCH = 2**16


def write(path: Path, table: pa.Table, **options: object) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, **options)
        return
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def sizes(path: Path, source: SourceConfig = SOURCE) -> list[tuple[int, int, int]]:
    """Rows, bytes of text and bytes of names of each batch."""
    found = []
    for batch in ingest.read(str(path), source, IngestConfig(batch_bytes=BATCH)):
        documents = batch.documents
        names = sum(len(name or "") for name in documents["name"].to_pylist())
        found.append((documents.num_rows, documents["text"].nbytes, names))
    return found


LONG = "x" * 10_000
ROWS = 3000


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("kind", ["dictionary", "plain", "views", "prefixes"])
def test_batches_are_bounded_by_the_text_that_they_become(tmp_path: Path, suffix: str, kind: str) -> None:
    """A few kB of repeats of one text, of views of it or of one prefix are not decoded all at once."""
    path = tmp_path / f"a{suffix}"
    options: dict[str, object] = {}
    if kind == "prefixes":
        column = pa.array([f"{LONG}{number}" for number in range(ROWS)])
        options = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
    else:
        column = pa.array([LONG] * ROWS).dictionary_encode()
        if kind == "plain":
            column = column.cast(pa.string())
        if kind == "views":
            column = column.cast(pa.string()).cast(pa.string_view())
    table = pa.table({"text": column, "set": pa.array([LONG] * ROWS).dictionary_encode()})
    write(path, table, **options)
    batches = sizes(path)
    assert sum(rows for rows, _, _ in batches) == ROWS
    assert max(size for _, size, _ in batches) <= 2 * BATCH + len(LONG)
    short = pa.table({"text": ["a"] * ROWS, "set": table["set"]})
    write(path, short)
    batches = sizes(path, SourceConfig(name="s", urls=["x"], name_field="set"))
    assert sum(rows for rows, _, _ in batches) == ROWS
    assert max(names for _, _, names in batches) <= 2 * BATCH + len(LONG)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_column_of_nothing_but_nulls_is_rejects(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    nothing = {"text": pa.nulls(3), "meta": pa.nulls(3), "number": [1, 2, 3]}
    if suffix == ".arrow":
        nothing["coded"] = pa.nulls(3).dictionary_encode()
    write(path, pa.table(nothing))
    for field in ("text", "meta.body", "meta.body.more", *(["coded"] if suffix == ".arrow" else [])):
        source = SourceConfig(name="s", urls=["x"], text_field=field, name_field="meta.set")
        batches = list(ingest.read(str(path), source, IngestConfig()))
        rejects = [row for batch in batches for row in batch.rejects.to_pylist()]
        assert [(row["record"], row["reason"]) for row in rejects] == [
            (number, "missing_text") for number in range(3)
        ]
        assert sum(batch.documents.num_rows for batch in batches) == 0


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_text_that_has_a_type_of_its_own(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    column = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None]))
    write(path, pa.table({"text": column}))
    (batch,) = ingest.read(str(path), SOURCE, IngestConfig())
    assert batch.documents["text"].to_pylist() == ['{"a": 1}']


def test_a_null_column_of_the_field() -> None:
    path = Path("../shared/data/field/all_null_text.parquet")
    if not path.exists():
        pytest.skip("the small files of the field are not here")
    (batch,) = ingest.read(str(path), SOURCE, IngestConfig())
    assert set(batch.rejects["reason"].to_pylist()) == {"missing_text"}
