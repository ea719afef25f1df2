"""Clusters that grow: Ray's own autoscaler starts nodes, which are processes on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.errors import UserError
from pipelines.runtime import cluster, growth
from tests.helpers.late import RUNNING

if RUNNING:
    import ray

ROOT = Path(__file__).parents[3]
NODE = {"node_config": {}, "min_workers": 0, "max_workers": 2}
TYPES = {
    "ray.head.default": {"node_config": {}, "resources": {"CPU": 0}, "max_workers": 0},
    "corpus": {**NODE, "resources": {"CPU": 1, "object_store_memory": 10**8}},
    "gpu": {**NODE, "resources": {"CPU": 2, "GPU": 2, "object_store_memory": 10**8}},
}


@pytest.fixture
def growing(ray_cluster: None, tmp_path: Path) -> Iterator[None]:
    """A head without CPUs, and an autoscaler that can start two nodes of either type.

    Ray decides once a process whether it asks for tokens: as for the clusters of other tests.
    """
    ray.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    empty = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config = {
        "cluster_name": "growing",
        "max_workers": 4,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {"type": "fake_multinode", "launch_multiple": True, "gcs_address": address},
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "available_node_types": TYPES,
        "head_node_type": "ray.head.default",
        **{f"{name}_commands": [] for name in empty},
    }
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps(config))
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=0"]
    command += [f"--port={address.partition(':')[2]}", "--include-dashboard=false"]
    environment = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    head = subprocess.Popen(
        [*command, f"--autoscaling-config={path}"],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(120):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(address.partition(":")[2]))) == 0:
                    break
            time.sleep(0.5)
        ray.init(address, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}, log_to_driver=False)
        for _ in range(60):
            if growth.grows():
                break
            time.sleep(0.5)
        yield
    finally:
        ray.shutdown()
        head.send_signal(signal.SIGTERM)
        head.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)  # the nodes that it has started


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is waited for, as it is said, whatever earlier tests of this process did to logging."""
    lines: list[str] = []
    monkeypatch.setattr(growth.log, "warning", lambda text, *values: lines.append(text % values))
    return lines


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_that_starts_no_nodes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "_waited", lambda *_: pytest.fail("it waits"))
    assert not growth.grows()
    with growth.asked({"CPU": 1.0, "GPU": 1.0}, 1, 1) as fit:
        assert not fit
    with growth.asked({"CPU": 1.0}, 2, 2) as fit:
        assert fit


@pytest.mark.usefixtures("ray_cluster")
def test_how_many_tasks_a_cluster_gets(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    assert growth.Room(7)() == 7
    assert growth.Room(None)() == 2 * 2 + growth.AHEAD
    monkeypatch.setattr(growth, "TASK_MEMORY", 2**50)  # more than there is
    assert growth.Room(None)() == 1
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"memory": 1.0})
    with pytest.raises(UserError, match="has no CPU and starts no nodes"):
        growth.Room(None)()
    monkeypatch.setattr(growth, "LOOK", 0.0)
    monkeypatch.setattr(growth, "grows", lambda: True)
    room = growth.Room(None)
    assert room() == room() == growth.AHEAD
    assert said == ["waits for nodes: none that is up has a CPU"]


@pytest.mark.slow
def test_nodes_are_started_for_tasks(growing: None, said: list[str]) -> None:
    def where(number: int) -> str:
        end = time.monotonic() + 90
        while sum("CPU" in node["Resources"] for node in ray.nodes()) < 2 and time.monotonic() < end:
            time.sleep(0.5)
        time.sleep(1)
        return str(ray.get_runtime_context().get_node_id())

    assert ray.cluster_resources().get("CPU", 0) == 0
    found = cluster.run_tasks(where, list(range(24)), None)
    assert len(set(found)) >= 2
    assert said == ["waits for nodes: none that is up has a CPU"]


@pytest.mark.slow
def test_gpus_are_asked_for_and_waited_for(
    growing: None, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "PATIENCE", 8.0)
    with growth.asked({"CPU": 1.0, "GPU": 4.0}, 1, 1) as fit:
        assert not fit  # no type of node has four
    bundle = {"CPU": 1.0, "GPU": 1.0}
    with growth.asked(bundle, 4, 3) as fit:
        assert fit and growth.fitting(bundle) >= 3
    waits = "waits for nodes: 0 of 3 workers of 1 CPU and 1 GPU have room; nodes that start: 2 of gpu"
    assert any(waits in line for line in said)
