"""The tables beside a manifest: what they give back, and what they are refused for."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from base import contents, files
from base.contents import Contents, InputEntry, ShardEntry
from base.errors import UserError
from base.layout import INPUTS, SHARDS

SHARD = {
    "path": "v0001/shards/a/train-00000.arrow",
    "source": "a",
    "split": "train",
    "documents": 1,
    "tokens": 2,
    "text_bytes": 3,
    "bytes": 4,
    "digest": "0" * 32,
    "origins_digest": "1" * 32,
    "version": "v0001",
}
INPUT = {"source": "a", "file": "/a", "start": 0, "bytes": 1, "digest": "0", "part": "0" * 16}


def write(folder: Path, held: Contents) -> dict[str, str]:
    """Write the tables; their digests."""
    digests = {}
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in held.tables().items():
        (folder / path).write_bytes(content)
        digests[path] = xxhash.xxh3_128_hexdigest(content)
    return digests


@settings(deadline=None)
@given(
    tokens=st.lists(st.integers(0, 2**48), max_size=20),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20),
)
def test_what_is_read_is_what_was_written(
    tokens: list[int], names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    held = Contents(
        shards=[
            ShardEntry.from_json({**SHARD, "tokens": count, "origins_digest": str(count)}, "")
            for count in tokens
        ],
        inputs=[InputEntry.from_json({**INPUT, "file": name}, "") for name in names],
    )
    folder = tmp_path_factory.mktemp("storage") / "corpus" / "versions" / "v0001"
    digests = write(folder, held)
    assert contents.read_shards(str(folder), digests) == held.shards
    assert contents.read_inputs(str(folder), digests) == held.inputs
    assert held.tables() == held.tables()


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../../../x.arrow"},
        {"path": "/x.arrow"},
        {"source": "../a"},
        {"source": "a/b"},
        {"split": "../train"},
        {"version": "v0001/x"},
        {"tokens": -1},
    ],
)
def test_no_path_of_a_table_leaves_its_storage(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = tmp_path / "corpus" / "versions" / "v0001"
    digests = write(folder, Contents(shards=[], inputs=[]))
    table = pa.Table.from_pylist([{**SHARD, **change}], schema=pq.read_schema(folder / SHARDS))
    pq.write_table(table, folder / SHARDS)
    digests[SHARDS] = files.digest(str(folder / SHARDS))
    with pytest.raises(UserError, match="is no (path|name) below|is damaged or of another version: tokens"):
        contents.read_shards(str(folder), digests)


def test_no_part_of_a_table_leaves_its_storage(tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "versions" / "v0001"
    outside = InputEntry.from_json({**INPUT, "part": "../../x"}, "")
    digests = write(folder, Contents(shards=[], inputs=[outside]))
    with pytest.raises(UserError, match="is no path below"):
        contents.read_inputs(str(folder), digests)


def test_a_table_that_is_not_the_manifest_s_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "versions" / "v0001"
    digests = write(folder, Contents(shards=[ShardEntry.from_json(SHARD, "")], inputs=[]))
    before = (folder / SHARDS).read_bytes()
    (folder / SHARDS).write_bytes(before[:-1] + b"2")
    with pytest.raises(UserError, match=r"shards.parquet is damaged: its digest is .*; jobs.prepare makes"):
        contents.read_shards(str(folder), digests)
    pq.write_table(pa.table({"path": ["x"]}), folder / SHARDS)
    with pytest.raises(UserError, match=r"shards.parquet is damaged: its columns are not those"):
        contents.read_shards(str(folder), {SHARDS: files.digest(str(folder / SHARDS))})
    (folder / SHARDS).write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"shards.parquet is damaged: "):
        contents.read_shards(str(folder), {SHARDS: files.digest(str(folder / SHARDS))})
    (folder / INPUTS).unlink()
    with pytest.raises(UserError, match=r"inputs.parquet is missing"):
        contents.read_inputs(str(folder), digests)
