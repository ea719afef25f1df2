from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.runtime import cluster
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
