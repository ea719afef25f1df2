import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.runtime import cluster
from pipelines.runtime.progress import counter, tick
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


@pytest.mark.usefixtures("ray_cluster")
def test_a_long_task_over_a_file_tells_how_far_it_is() -> None:
    def task(number: int) -> dict[str, int]:
        cluster.FIRST_TICK = 0.05  # in the worker, for the second task
        for _ in range(8):
            tick(1, 100)
            time.sleep(0.1)
        return {"documents": 8, "bytes": 800}

    seen: list[tuple[object, ...]] = []
    count = counter(lambda *values: seen.append(values), "measure", 0, 2)
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
