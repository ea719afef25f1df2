"""The cluster that commands run on, and how maps over files are dealt out."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import UserError
from pipelines.runtime import cluster
from pipelines.runtime.progress import Counter, tick
from pipelines.runtime.settings import RayConfig
from tests.helpers.late import RUNNING

if RUNNING:
    import ray.data
    from ray.data.exceptions import SystemException


@pytest.mark.usefixtures("ray_cluster")
def test_a_map_is_run_again_where_ray_data_itself_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ray.data.Dataset.iter_rows
    failures: list[Exception] = [Exception("an actor of Ray Data is gone")]

    def iter_rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(whole(dataset)):
            if number == 2 and failures:
                raise failures.pop() from SystemException()
            yield row

    monkeypatch.setattr(ray.data.Dataset, "iter_rows", iter_rows)
    seen: list[int] = []
    result = cluster.map_files(lambda number: number**2, list(range(5)), [1] * 5, 2, seen.append)
    assert result == [0, 1, 4, 9, 16] and sorted(seen) == result and not failures

    failures += [Exception(f"failure {number}") for number in range(3)]
    with pytest.raises(Exception, match="failure 0"):
        cluster.map_files(lambda number: number, list(range(9)), [1] * 9, 2, seen.append)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60), st.integers(1, 7))
def test_every_file_is_dealt_once_and_the_large_ones_first(sizes: list[int], workers: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "BLOCK_BYTES", 10**5)
        parts = cluster._blocks(sizes, workers)
    assert sorted(index for part in parts for index in part) == list(range(len(sizes)))
    assert all(len(part) == 1 or (part and sum(sizes[index] for index in part) <= 10**5) for part in parts)
    blocks = cluster._blocks(sizes, workers)
    assert sorted(index for block in blocks for index in block) == list(range(len(sizes)))
    assert all(blocks) and len(blocks) <= cluster.ROUNDS * workers
    smallest_of_first = min(sizes[block[0]] for block in blocks[: min(workers, len(sizes))])
    assert sum(size > smallest_of_first for size in sizes) < workers
    if len(sizes) >= workers:
        # A round has half of what is left, or one file a worker: nobody gets over what is fair and a file.
        loads = [sum(sizes[index] for index in block) for block in blocks[:workers]]
        assert max(loads) <= (sum(sizes) / 2 + max(sizes)) / workers + max(sizes)


def test_rounds_become_smaller() -> None:
    blocks = cluster._blocks([100] * 64, 2)
    assert [len(block) for block in blocks] == [16, 16, 8, 8, 4, 4, 2, 2, 1, 1, 1, 1]


@pytest.mark.usefixtures("ray_cluster")
def test_only_the_task_of_a_lost_worker_is_run_again(tmp_path: Path) -> None:
    def task(number: int) -> int:
        with Path(tmp_path, str(number)).open("a") as file:
            file.write("begun\n")
        if number == 3 and len(Path(tmp_path, "3").read_text().splitlines()) < 3:
            os._exit(1)
        return number

    items, seen = list(range(8)), list[int]()
    assert cluster.run_tasks(task, items, None, seen.append) == sorted(seen) == items
    assert [len(Path(tmp_path, str(n)).read_text().splitlines()) for n in items] == [1, 1, 1, 3, 1, 1, 1, 1]


@pytest.mark.usefixtures("ray_cluster")
def test_a_task_that_kills_each_worker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "TRIES", 2)
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        cluster.run_tasks(lambda _: os._exit(1), [0], 2)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("workers", [1, None])
def test_a_map_over_files_takes_what_the_cluster_has(workers: int | None) -> None:
    def task(number: int) -> int:
        if number == 9:
            raise UserError("nine is too many")
        return -number

    seen: list[int] = []
    assert cluster.map_files(task, [1, 2, 3, 4], [20, 40, 10, 30], workers, seen.append) == [-1, -2, -3, -4]
    assert sorted(seen) == [-4, -3, -2, -1]
    with pytest.raises(UserError, match="nine is too many"):
        cluster.map_files(task, [9, 9], [1, 1], workers, seen.append)
    assert cluster.map_files(task, [], [], workers, seen.append) == []


def test_what_workers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/kernels")
    told = cluster.worker_environment()
    assert told["NUMBA_CACHE_DIR"] == "/kernels" and told["TOKENIZERS_PARALLELISM"] == "false"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("HOME", "/home/anna")
    assert cluster.worker_environment()["NUMBA_CACHE_DIR"] == "/home/anna/.cache/piledriver/numba"


def test_which_cluster_a_command_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configured one, else that of the environment, else the one that runs here, else one of its own."""
    asked: list[str] = []
    told: list[dict[str, str]] = []

    def init(address: str, runtime_env: dict[str, Any], **_: Any) -> None:
        asked.append(address)
        told.append(runtime_env["env_vars"])
        if address == "ray://gone":
            raise ConnectionError("nobody")

    def took(address: str | None) -> str:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
            cluster.start(RayConfig(address=address), verbose=True)
        return asked.pop()

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert took(None) == "local"
    with socket.create_server(("127.0.0.1", 0)) as head:
        running = f"127.0.0.1:{head.getsockname()[1]}"
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"{running}\n")
        assert took(None) == running
        monkeypatch.setenv("RAY_ADDRESS", "auto")
        assert took(None) == "auto"
        assert took(f"ray://{running}") == f"ray://{running}"
    monkeypatch.delenv("RAY_ADDRESS")
    assert took(None) == "local"  # the note is of a cluster that is gone
    assert told[-1] == cluster.worker_environment()
    given = {"runtime_env": {"env_vars": {"NUMBA_CACHE_DIR": "/elsewhere"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(given))
    took(None)  # the job says where kernels are
    assert told[-1].keys() == cluster.worker_environment().keys() - {"NUMBA_CACHE_DIR"}
    for address in (running, f"ray://{running}", "ray://gone"):
        with pytest.raises(UserError, match=rf"ray.address = '{address}': no Ray cluster answers there"):
            took(address)


@pytest.mark.usefixtures("ray_cluster")
def test_a_long_task_over_a_file_tells_how_far_it_is() -> None:
    def task(number: int) -> dict[str, int]:
        cluster.FIRST_TICK = 0.05  # in the worker, for the second task
        for _ in range(8):
            tick(1, 100)
            time.sleep(0.1)
        return {"documents": 8, "bytes": 800}

    seen: list[tuple[Any, ...]] = []
    count = Counter(lambda *values: seen.append(values), "measure", 0, 2)
    cluster.map_files(task, [0, 1], [1, 1], 1, count, count.within)
    assert seen[0] == ("measure", 0, 2, 0, 0) and seen[-1] == ("measure", 2, 2, 16, 1600)
    within = [values for values in seen if values[1] == 1 and values[3] != 8]
    assert within and all(8 < values[3] <= 16 and values[4] == 100 * values[3] for values in within)


@pytest.mark.slow
def test_a_variable_of_the_submitted_job_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray job submit --runtime-env` may set what every worker gets here, as Ray tells its driver."""
    given = {"env_vars": {"NUMBA_CACHE_DIR": "/elsewhere", "TOKENIZERS_PARALLELISM": "true"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": given, "metadata": {}}))
    ray.shutdown()
    cluster.start(RayConfig(address="local"))
    try:
        names = ("NUMBA_CACHE_DIR", "TOKENIZERS_PARALLELISM", "RAY_TRAIN_ENABLE_V2")
        task = ray.remote(lambda: [os.environ[name] for name in names])
        assert ray.get(task.remote()) == ["/elsewhere", "true", "1"]
    finally:
        ray.shutdown()


def test_a_cluster_of_another_user_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    note = tmp_path / "ray" / "ray_current_cluster"
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        note.write_text(address)
        assert cluster._running_cluster() == address
        monkeypatch.setattr(os, "getuid", lambda: note.stat().st_uid + 1)
        assert cluster._running_cluster() is None
