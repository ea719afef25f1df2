"""Indexed datasets of Megatron-LM and GPT-NeoX, read back by a reader written after their format alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from base import files, manifest
from base.contents import ShardEntry
from base.errors import UserError
from pipelines.corpus.views.export import Export, ExportedPair, export, write_pair
from pipelines.runtime.executor import InProcess
from tests.helpers.corpus import write_corpus
from tests.helpers.indexed import read_indexed


def write_shards(folder: Path, shards: list[list[list[int]]], dtype: Any) -> list[ShardEntry]:
    """Shard files of these ids; returns what the manifest says of them."""
    entries = []
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
        entries.append(
            ShardEntry(
                path=path,
                source="books",
                split="train",
                documents=len(documents),
                tokens=sum(map(len, documents)),
                text_bytes=10,
                bytes=(folder / path).stat().st_size,
                digest=files.digest(str(folder / path)),
                version="v0001",
            )
        )
    return entries


def task_of(
    folder: Path, shards: list[ShardEntry], output: str, dtype: str = "uint16", digest: str = "hash"
) -> Export:
    return Export(versions=str(folder), manifest_hash=digest, dtype=dtype, shards=shards, output=output)


@pytest.mark.parametrize("chunk", [1, 7, 48, 49, 2**20])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_every_document_comes_back(
    tmp_path: Path, dtype: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.corpus.views.export.CHUNK", chunk)
    choose = np.random.default_rng(3)
    top = 2**16 if dtype == "uint16" else 2**31
    shards = [
        [choose.integers(0, top, length).tolist() for length in choose.integers(1, 50, count)]
        for count in (0, 7, 1, 40)
    ]
    entries = write_shards(tmp_path, shards, np.dtype(dtype))
    task = task_of(tmp_path, entries, str(tmp_path / "out" / "books-train"), dtype)
    pair = ExportedPair.from_json(write_pair(task), "")
    assert ExportedPair.read(f"{task.output}.json") == pair
    sequences, first = read_indexed(task.output)
    expected = [document for documents in shards for document in documents]
    assert [sequence.tolist() for sequence in sequences] == expected
    assert first.tolist() == list(range(len(expected) + 1))
    assert pair.documents == len(expected)
    assert (
        pair.tokens
        == sum(map(len, expected))
        == Path(f"{task.output}.bin").stat().st_size // (2 if dtype == "uint16" else 4)
    )
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_finished_pair_is_kept_and_another_version_replaces_it(tmp_path: Path) -> None:
    entries = write_shards(tmp_path, [[[1, 2], [3]]], np.uint16)
    task = task_of(tmp_path, entries, str(tmp_path / "books-train"))
    write_pair(task)
    before = Path(f"{task.output}.bin").stat().st_mtime_ns
    write_pair(task)
    assert Path(f"{task.output}.bin").stat().st_mtime_ns == before
    more = write_shards(tmp_path, [[[4, 5, 6]]], np.uint16)
    write_pair(task_of(tmp_path, more, task.output, digest="other"))
    assert [sequence.tolist() for sequence in read_indexed(task.output)[0]] == [[4, 5, 6]]


def test_a_damaged_shard_leaves_no_index(tmp_path: Path) -> None:
    entries = write_shards(tmp_path, [[[1, 2], [3]], [[4]]], np.uint16)
    shard = tmp_path / entries[1].path
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    task = task_of(tmp_path, entries, str(tmp_path / "out" / "books-train"))
    with pytest.raises(UserError, match=r"train-00001\.arrow: its digest is"):
        write_pair(task)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00001\.arrow: it is missing"):
        write_pair(task)
    assert list((tmp_path / "out").iterdir()) == []


def test_any_file_system(tmp_path: Path) -> None:
    entries = write_shards(tmp_path, [[[7, 8]]], np.uint16)
    write_pair(task_of(tmp_path, entries, "memory://megatron/books-train"))
    for suffix in ("bin", "idx"):
        content = files.read_bytes(f"memory://megatron/books-train.{suffix}")
        (tmp_path / f"books-train.{suffix}").write_bytes(content)
    assert [sequence.tolist() for sequence in read_indexed(str(tmp_path / "books-train"))[0]] == [[7, 8]]


def test_a_version_becomes_a_pair_for_each_source_and_split(tmp_path: Path) -> None:
    version = manifest.open_version(write_corpus(tmp_path, {"wiki.arrow": [[3, 4], [5]], "b": [[6, 7]]}))
    told: list[tuple[Any, ...]] = []

    def run(sources: list[str], splits: list[str]) -> list[ExportedPair]:
        return export(
            version,
            str(tmp_path / "out"),
            sources=sources,
            splits=splits,
            progress=lambda *counts: told.append(counts),
            executor=InProcess(),
        )

    pairs = run([], ["train", "heldout"])
    names = ["b-heldout", "b-train", "wiki.arrow-heldout", "wiki.arrow-train"]
    assert [Path(pair.path).name for pair in pairs] == names
    assert [(pair.documents, pair.tokens) for pair in pairs] == [(2, 13), (2, 13), (2, 7), (3, 12)]
    assert [counts[1:3] for counts in told] == [(done, 4) for done in range(5)]
    assert told[-1][3] == sum(pair.documents for pair in pairs)
    assert [sequence.size for sequence in read_indexed(pairs[-1].path)[0]] == [3, 4, 5]
    assert {pair.manifest_hash for pair in pairs} == {version.hash}
    assert run(["b"], ["train"]) == pairs[1:2]
    with pytest.raises(UserError, match="--split test: v0001 has heldout, train"):
        run([], ["test"])
    with pytest.raises(UserError, match="--source c: v0001 has b, wiki.arrow"):
        run(["c"], ["train"])
