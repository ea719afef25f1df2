"""Indexed datasets of Megatron-LM and GPT-NeoX, read back by a reader written after their format alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from base import files
from base.errors import UserError
from pipelines.corpus.views.export import Export, write_pair
from tests.helpers.indexed import read_indexed


def write_shards(folder: Path, shards: list[list[list[int]]], dtype: Any) -> list[dict[str, Any]]:
    """Shard files of these ids; returns what the manifest says of them."""
    lines = []
    for number, documents in enumerate(shards):
        path = f"v0001/shards/books/train-{number:05d}.arrow"
        table = pa.table(
            {
                "input_ids": pa.array(documents, pa.large_list(pa.from_numpy_dtype(dtype))),
                "document_id": pa.array([bytes(16)] * len(documents), pa.binary(16)),
            }
        )
        with files.atomic_writer(str(folder / path)) as stream, pa.ipc.new_file(stream, table.schema) as out:
            if len(documents):
                out.write_table(table)
        lines.append(
            {
                "path": path,
                "documents": len(documents),
                "tokens": sum(map(len, documents)),
                "text_bytes": 10,
                "digest": files.digest(str(folder / path)),
            }
        )
    return lines


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_every_document_comes_back(tmp_path: Path, dtype: str) -> None:
    choose = np.random.default_rng(3)
    top = 2**16 if dtype == "uint16" else 2**31
    shards = [
        [choose.integers(0, top, length).tolist() for length in choose.integers(1, 50, count)]
        for count in (0, 7, 1, 40)
    ]
    lines = write_shards(tmp_path, shards, np.dtype(dtype))
    task = Export(str(tmp_path), "hash", dtype, lines, str(tmp_path / "out" / "books-train"))
    facts = write_pair(task)
    sequences, first = read_indexed(task.output)
    expected = [document for documents in shards for document in documents]
    assert [sequence.tolist() for sequence in sequences] == expected
    assert first.tolist() == list(range(len(expected) + 1))
    assert facts["documents"] == len(expected)
    assert (
        facts["tokens"]
        == sum(map(len, expected))
        == Path(f"{task.output}.bin").stat().st_size // (2 if dtype == "uint16" else 4)
    )
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_finished_pair_is_kept_and_another_version_replaces_it(tmp_path: Path) -> None:
    lines = write_shards(tmp_path, [[[1, 2], [3]]], np.uint16)
    task = Export(str(tmp_path), "hash", "uint16", lines, str(tmp_path / "books-train"))
    write_pair(task)
    before = Path(f"{task.output}.bin").stat().st_mtime_ns
    write_pair(task)
    assert Path(f"{task.output}.bin").stat().st_mtime_ns == before
    more = write_shards(tmp_path, [[[4, 5, 6]]], np.uint16)
    write_pair(Export(str(tmp_path), "other", "uint16", more, task.output))
    assert [sequence.tolist() for sequence in read_indexed(task.output)[0]] == [[4, 5, 6]]


def test_a_damaged_shard_leaves_no_index(tmp_path: Path) -> None:
    lines = write_shards(tmp_path, [[[1, 2], [3]], [[4]]], np.uint16)
    shard = tmp_path / lines[1]["path"]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    task = Export(str(tmp_path), "hash", "uint16", lines, str(tmp_path / "out" / "books-train"))
    with pytest.raises(UserError, match=r"train-00001\.arrow: its digest is"):
        write_pair(task)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00001\.arrow: it is missing"):
        write_pair(task)
    assert list((tmp_path / "out").iterdir()) == []


def test_any_file_system(tmp_path: Path) -> None:
    lines = write_shards(tmp_path, [[[7, 8]]], np.uint16)
    write_pair(Export(str(tmp_path), "hash", "uint16", lines, "memory://megatron/books-train"))
    for suffix in ("bin", "idx"):
        content = files.read_bytes(f"memory://megatron/books-train.{suffix}")
        (tmp_path / f"books-train.{suffix}").write_bytes(content)
    assert [sequence.tolist() for sequence in read_indexed(str(tmp_path / "books-train"))[0]] == [[7, 8]]
