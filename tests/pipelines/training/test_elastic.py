"""Workers that come and go, on a cluster of several nodes on this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from model import journal
from pipelines.config import Config
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, SOURCES, SlowFirst, run_here, settings

if RUNNING:
    import ray
    from ray.cluster_utils import Cluster
    from ray.util.placement_group import placement_group

    from model import checkpoint
    from pipelines.training.launch import launch


ROOT = Path(__file__).parents[3]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One node with one core; tests add more."""
    ray.shutdown()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    variables = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "NUMBA_CACHE_DIR": os.environ["NUMBA_CACHE_DIR"],
        "OMP_NUM_THREADS": "1",
    }
    ray.init(address=nodes.address, runtime_env={"env_vars": variables}, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def _config(folder: Path, **train: object) -> Config:
    return Config.model_validate(
        {
            "name": "tiny",
            "storage": str(folder),
            "sources": [{"name": "a", "urls": ["unused"]}],
            "model": MODEL.model_dump(),
            "train": settings(**train).model_dump(),
        }
    )


@pytest.mark.slow
def test_a_node_that_joins_is_used(cluster: Cluster, tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, SOURCES)
    # Rounding grows with the rate.
    same: dict[str, Any] = {"steps": 60, "global_batch_size": 64, "optimizer": {"learning_rate": 1e-3}}
    same |= {"checkpoint": {"every": 10}}
    expected = run_here(manifest, str(tmp_path / "alone"), **same)
    run_url = str(tmp_path / "run")
    elastic = {"min_workers": 1, "workers": 2, "resize_seconds": 1.0}
    config, starts = _config(tmp_path, **same, **elastic), tmp_path / "starts"
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(launch, config, manifest, run_url, SlowFirst(str(starts)))
        while not checkpoint.steps(run_url) and not training.done():
            time.sleep(0.2)
        cluster.add_node(num_cpus=1)
        result = training.result()
    assert len(starts.read_text().splitlines()) == 2
    assert 10 <= result.resumed_from < 60
    lines, reference = journal.read(run_url), journal.read(expected.run_url)
    assert [line.step for line in lines] == list(range(1, 61))
    assert [line.loss for line in lines] == pytest.approx([line.loss for line in reference], abs=1e-5)
    assert [line.tokens for line in lines] == [line.tokens for line in reference]
    description = json.loads(Path(str(result.checkpoint_url), checkpoint.DESCRIPTION).read_text())
    assert description["world_size"] == 2


@pytest.mark.slow
def test_cores_that_others_hold_are_not_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    manifest = write_corpus(tmp_path, SOURCES)
    assert placement_group([{"CPU": 1}]).wait(60)
    config = _config(tmp_path, steps=4, min_workers=1, workers=2)
    result = launch(config, manifest, str(tmp_path / "run"))
    description = json.loads(Path(str(result.checkpoint_url), checkpoint.DESCRIPTION).read_text())
    assert description["world_size"] == 1 and result.step == 4
