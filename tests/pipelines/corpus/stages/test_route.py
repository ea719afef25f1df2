"""Routes: a shard gets the same documents however many runs there are, and no task sees all of them."""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base import arrow
from pipelines.corpus.stages import route, tokenize
from pipelines.corpus.stages.route import Group, PartRuns, Route, routes_of, share
from pipelines.corpus.stages.tokenize import RunRange, bits_of
from pipelines.runtime.executor import InProcess
from tests.helpers.shards import TEXTS, build, contents, survivors_of, tokenizer_in


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tokenizer_in(tmp_path_factory.mktemp("tokenizer"))


def group_of(
    count: int, chunks: tuple[int, ...] = (0,), runs: int = 1, parts: Any = None, most: int = 1
) -> Group:
    return Group(
        source="web",
        split="train",
        count=count,
        chunks=chunks,
        most=most,
        runs=runs,
        parts=parts,
        folder="/routes",
    )


@settings(deadline=None)
@given(count=st.integers(1, 2**15), runs=st.integers(65, 40_000))
def test_a_route_fits_into_memory_and_routes_are_not_too_many(count: int, runs: int) -> None:
    """A chunk of parts of a run each holds up to 64 or the square root of all runs of 2^26 tokens."""
    most = max(64, math.isqrt(runs)) * 2**26
    group = group_of(count, most=most)
    assert most / 2**group.bits <= 2**26
    assert 2**group.bits <= max(2 * math.isqrt(count) + 2, 2 * max(64, math.isqrt(runs)))


@settings(deadline=None)
@given(count=st.integers(1, 100_000), key=st.integers(0, 2**64 - 1))
def test_every_key_is_of_one_shard_and_in_its_buckets(count: int, key: int) -> None:
    group = group_of(count)
    number = group.shard_of(key)
    assert group.first_key(number) <= key < group.first_key(number + 1)
    bucket = key >> (64 - group.bits)
    assert bucket in group.buckets(number)
    low, high = Route(group=group, bucket=bucket, chunk=0).keys
    assert low <= key <= high
    assert number in Route(group=group, bucket=bucket, chunk=0).shards
    assert group.first_key(0) == 0 and group.first_key(count) == 2**64


@pytest.mark.parametrize("count", [1, 2, 3, 64, 1000, 22_400])
def test_buckets_and_shards_name_each_other(count: int) -> None:
    group = group_of(count)
    routes = [Route(group=group, bucket=bucket, chunk=0) for bucket in range(2**group.bits)]
    shards = {bucket: set(one.shards) for bucket, one in enumerate(routes)}
    for number in range(count):
        assert {bucket for bucket, held in shards.items() if number in held} == set(group.buckets(number))
    assert len(routes) ** 2 <= 4 * count + 1 or count > 2**16


@pytest.mark.parametrize(("direct", "batch"), [(1, 1), (1, 2**12), (3, 8)])
def test_shards_are_the_same_by_routes_and_without(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch, direct: int, batch: int
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = contents(tmp_path / "a" / "v0001", build(tmp_path / "a", tokenizer, [25, 40])[0])
    assert not (tmp_path / "a" / "facts" / "one" / "routes").exists()
    monkeypatch.setattr(route, "DIRECT_RUNS", direct)
    monkeypatch.setattr(tokenize, "BATCH_TOKENS", batch)
    divisions = list(range(3, len(TEXTS), 4))
    shards, version = build(tmp_path / "b", tokenizer, divisions)
    assert contents(version, shards) == expected
    written = sorted((tmp_path / "b" / "facts" / "one" / "routes").iterdir())
    assert written
    # What is written is not written again, and a damaged file is.
    for path in (tmp_path / "b" / "facts" / "one").glob("*.json"):
        path.unlink()
    broken = next(path for path in written if path.suffix == ".arrow")
    before, stamps = broken.read_bytes(), {path: path.stat().st_mtime_ns for path in written}
    broken.write_bytes(before[:-4])
    assert contents(version, build(tmp_path / "b", tokenizer, divisions)[0]) == expected
    assert broken.read_bytes() == before
    assert {path for path in written if path.stat().st_mtime_ns != stamps[path]} == {
        broken,
        broken.with_suffix(".json"),
    }


def test_a_task_opens_few_files_and_reads_its_share(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "DIRECT_RUNS", 4)
    monkeypatch.setattr(tokenize, "BATCH_TOKENS", 1)
    opened: list[str] = []
    rows: list[int] = []
    open_file, get_rows = arrow.open_file, arrow.Reader.get_rows

    def counted(url: str, *arguments: Any) -> arrow.Reader:
        opened.append(url)
        return open_file(url, *arguments)

    def read(reader: arrow.Reader, number: int, *arguments: Any) -> Any:
        batch = get_rows(reader, number, *arguments)
        rows.append(batch.num_rows)
        return batch

    monkeypatch.setattr(arrow, "open_file", counted)
    monkeypatch.setattr(arrow.Reader, "get_rows", read)
    per_task: list[int] = []
    run_tasks = InProcess.run_tasks

    def watched(executor: InProcess, function: Any, items: Any, on_done: Any = None) -> Any:
        def one(item: Any) -> Any:
            before = len(opened)
            result = function(item)
            per_task.append(len(opened) - before)
            return result

        return run_tasks(executor, one, items, on_done)

    monkeypatch.setattr(InProcess, "run_tasks", watched)
    shards, _ = build(tmp_path, tokenizer, list(range(2, len(TEXTS), 2)))
    assert sum(shard.documents for shard in shards) == len(TEXTS)
    parts = len(TEXTS) // 2
    # A chunk and another bucket of each, and the documents whose ids are compared.
    assert max(per_task) <= 2 * int(np.ceil(np.sqrt(parts))) + 3 < parts
    # Once from the runs and once from the routes; a batch of a run may lie in two buckets.
    assert sum(rows) <= 2.2 * len(TEXTS)


def test_descriptions_do_not_grow_with_the_corpus() -> None:
    ranges = tuple(
        RunRange(
            source=f"source-{number}",
            split="train",
            batch=0,
            bits=8,
            documents=90_000,
            tokens=2**26 // 20,
            bytes=4 * 2**26 // 20,
        )
        for number in range(20)
    )
    survivors = survivors_of("0" * 16, "s3://bucket/file.jsonl.zst", "/documents", "/entries", None)
    parts = [
        PartRuns(survivors=survivors, tokens=f"s3://bucket/tokens/{number:016x}.arrow", ranges=ranges)
        for number in range(25_000)
    ]

    class Handles(InProcess):
        """An executor whose handles are as small as those of Ray's."""

        def share(self, value: Any) -> Any:
            return "handle"

    chunks = share(parts, Handles())
    held = chunks.held["source-0", "train"]
    assert held.runs == 25_000 and held.tokens == 25_000 * (2**26 // 20)
    group = group_of(held.tokens // 2**26, tuple(sorted(held.chunks)), held.runs, chunks.parts)
    routes = routes_of((group, number) for number in range(group.count))
    assert max(len(pickle.dumps(one)) for one in routes) < 10_000
    assert len(routes) == 2**group.bits * len(held.chunks)
    assert len(held.chunks) < 200 and 25_000 / len(held.chunks) < 200


@pytest.mark.parametrize(
    ("tokens", "bits"), [(0, 0), (2**12, 0), (2**13 - 1, 0), (2**13, 1), (2**20, 8), (2**26, 8)]
)
def test_batches_of_a_run_are_neither_tiny_nor_many(tokens: int, bits: int) -> None:
    assert bits_of(tokens) == bits
