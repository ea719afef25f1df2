from pathlib import Path

import pyarrow as pa
import pytest

from base import arrow, files
from base.errors import UserError


@pytest.fixture(params=["local", "remote"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = str(tmp_path / "a.arrow") if request.param == "local" else "memory://arrow/a.arrow"
    table = pa.table({"id": [1, 2, 3], "text": ["a", "b", "c"]})
    with files.atomic_writer(url) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return url


def test_batches_are_read_and_outlive_their_reader(url: str) -> None:
    reader = arrow.open_file(url)
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    del reader
    assert [batch.to_pydict() for batch in batches] == [
        {"id": [1, 2], "text": ["a", "b"]},
        {"id": [3], "text": ["c"]},
    ]


def test_readers_of_columns_hold_these_alone(url: str) -> None:
    texts, ids = arrow.open_columns(url, ["text", "id"])
    assert [texts.get_batch(i).to_pydict() for i in range(2)] == [{"text": ["a", "b"]}, {"text": ["c"]}]
    assert ids.get_batch(1).to_pydict() == {"id": [3]}


def test_a_file_with_other_columns_than_wanted_is_named(url: str) -> None:
    assert arrow.open_file(url, pa.schema([("id", pa.int64())])).num_record_batches == 2
    for field, problem in (("id", "its column id is int64"), ("ids", "it has no column ids")):
        columns = pa.schema([(field, pa.string())])
        with pytest.raises(UserError, match=problem):
            arrow.open_file(url, columns)
        with pytest.raises(UserError, match=problem):
            arrow.open_columns(url, columns)
    with pytest.raises(UserError, match="it has no column ids"):
        arrow.open_columns(url, ["ids"])


def test_what_is_local_is_mapped(tmp_path: Path) -> None:
    files.write_bytes(str(tmp_path / "a"), b"abc")
    with arrow.open_bytes(str(tmp_path / "a")) as file:
        assert isinstance(file, pa.MemoryMappedFile)
        assert file.read() == b"abc"


def test_nulls_in_a_column_that_has_none_are_damage(url: str) -> None:
    nothing = pa.table({"id": pa.array([1, None], pa.int64())})
    with files.atomic_writer(url) as stream, pa.ipc.new_file(stream, nothing.schema) as writer:
        writer.write_table(nothing)
    schema = pa.schema([("id", pa.int64())])
    for reader in (arrow.open_file(url, schema), *arrow.open_columns(url, schema)):
        with pytest.raises(UserError, match="its column id has nulls"):
            reader.get_batch(0)
    assert arrow.open_file(url).get_batch(0).num_rows == 2
