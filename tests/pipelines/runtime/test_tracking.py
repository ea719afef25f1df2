"""Runs in a real MLflow store: found again after a failure, shipped once, never a reason to stop."""

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from base import files
from base.errors import UserError
from pipelines.config import load
from pipelines.runtime import tracking
from tests.helpers.late import RUNNING

if RUNNING:
    from mlflow import MlflowClient


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Path) -> tracking.Tracking:
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(mlflow_store, folder / "mlflow.db")
    return tracking.Tracking(f"sqlite:///{folder}/mlflow.db", "test", f"file://{folder}/artifacts")


def test_a_run_records_and_is_continued_until_it_finishes(place: tracking.Tracking, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>")
    with pytest.raises(KeyError), tracking.run(place, "prepare", "k1", {"version": "v0001"}) as run:
        first = run.id
        raise KeyError
    with tracking.run(place, "prepare", "k1", {"version": "v0001"}) as run:
        assert run.id == first
        run.params({"dedup": {"threshold": 0.8}, "name": "x"})
        run.metrics({"tokens": 5.0})
        run.tags({"corpus": "abc"})
        run.artifact(str(report))
        files.write_bytes("memory://tracking/picture.png", b"\x89PNG")
        run.artifact("memory://tracking/picture.png")
    with tracking.run(place, "prepare", "k1", {}) as run:
        assert run.id != first
    client = MlflowClient(place.uri)
    found = client.get_run(first)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"dedup.threshold": "0.8", "name": "x"}
    assert found.data.metrics == {"tokens": 5.0}
    assert found.data.tags["piledriver.corpus"] == "abc"
    assert [item.path for item in client.list_artifacts(first)] == ["picture.png", "report.html"]
    assert tracking.upstream(place, "prepare", corpus="abc") == {"upstream": first}
    assert tracking.upstream(place, "prepare", corpus="none") == {}


def test_an_unreachable_store_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = tracking.Tracking("sqlite:////proc/none/mlflow.db", "test", None)
    with tracking.run(nowhere, "prepare", "k", {"a": "b"}) as run:
        run.metrics({"x": 1.0})
        run.artifact("/tmp/none")
    assert "not recorded" in caplog.text
    assert tracking.find(nowhere, "prepare") is None


def test_a_dataset_is_an_input_of_the_run(place: tracking.Tracking) -> None:
    with tracking.run(place, "train", "k3", {}) as run:
        run.dataset("corpus", "0" * 32, "s3://bucket/manifest.json", {"tokens": {"books": 7}}, "training")
        run.dataset("corpus", "0" * 32, "s3://bucket/manifest.json", {"tokens": {"books": 7}}, "training")
    (found,) = MlflowClient(place.uri).get_run(str(run.id)).inputs.dataset_inputs
    dataset = found.dataset
    assert (dataset.name, dataset.digest, dataset.source_type) == ("corpus", "0" * 32, "s3")
    assert json.loads(dataset.source) == {"uri": "s3://bucket/manifest.json"}
    assert json.loads(dataset.profile) == {"tokens": {"books": 7}}
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_the_newest_and_the_best_model_have_an_alias(place: tracking.Tracking) -> None:
    client = MlflowClient(place.uri)
    for number, bits in enumerate([math.nan, 2.0, 2.5, None]):
        with tracking.run(place, "train", f"model {number}", {}) as run:
            run.model("pile", f"/runs/{number}/hf", bits)
            run.model("pile", f"/runs/{number}/hf", bits)
        latest = client.get_model_version_by_alias("pile", "latest")
        assert (latest.source, latest.run_id) == (f"/runs/{number}/hf", run.id)
    assert client.get_model_version_by_alias("pile", "best").source == "/runs/1/hf"
    assert len(client.search_model_versions("name = 'pile'")) == 4


def test_progress_becomes_metrics_of_each_stage(place: tracking.Tracking) -> None:
    seen: list[tuple[object, ...]] = []
    with (
        tracking.run(place, "prepare", "k3", {}) as run,
        tracking.ship_progress(run, lambda *counts: seen.append(counts), every=0.1) as progress,
    ):
        progress("measure", 0, 2)
        progress("measure", 1, 2, 500, 1_000_000)
        time.sleep(0.3)
        progress("measure", 2, 2, 900, 2_000_000)
        progress("dedup edges", 3, 3)
    assert seen[1] == ("measure", 1, 2, 500, 1_000_000)
    assert len(seen) == 4
    client = MlflowClient(place.uri)
    values = client.get_run(run.id).data.metrics
    assert (values["measure/documents"], values["measure/bytes"], values["measure/tasks"]) == (900, 2e6, 2)
    assert 900 / values["measure/documents_per_second"] == pytest.approx(values["measure/seconds"])
    assert 2 / values["measure/MB_per_second"] == pytest.approx(values["measure/seconds"])
    assert values["dedup_edges/tasks"] == 3
    assert "dedup_edges/documents" not in values
    history = [point.value for point in client.get_metric_history(run.id, "measure/documents")]
    assert 500 in history
    assert history[-1] == 900


def test_a_server_that_does_not_answer_delays_no_build(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def log_batch(*_: object, **__: object) -> None:
        asked.set()
        answer.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = tracking.TrackedRun(MlflowClient(uri), "0" * 32, uri)
        monkeypatch.setattr(run.client, "log_batch", log_batch)
        with tracking.ship_progress(run, lambda *_: None, every=0.01) as progress:
            progress("measure", 0, 2)
            assert asked.wait(60)
            progress("measure", 1, 2, 500, 1_000_000)  # comes back though the server is still silent
            assert not answer.is_set()
            answer.set()


def test_a_server_that_hangs_is_asked_once_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(tracking, "ANSWER_SECONDS", 0.2)
    report = tmp_path / "report.html"
    report.write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        place = tracking.Tracking(uri, "test", None)
        tags = tracking.upstream(place, "prepare", corpus="c")
        with tracking.run(place, "train", "key", tags) as run:
            run.params({"a": 1})
            run.metrics({"b": 2.0})
            run.artifact(str(report))
            run.model("m", str(tmp_path), None)
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # nobody connected twice
            silent.accept()
    assert "this run is not recorded" in caplog.text and run.id is None


def test_a_server_that_begins_to_hang_costs_one_call(
    place: tracking.Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a call has failed, a server is called again only if it answers."""
    monkeypatch.setattr(tracking, "ANSWER_SECONDS", 0.2)
    called = []

    class Hanging:
        def __getattr__(self, name: str) -> object:
            def call(*_: object, **__: object) -> None:
                called.append(name)
                raise TimeoutError

            return call

    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = tracking.TrackedRun(Hanging(), "0" * 32, f"http://127.0.0.1:{silent.getsockname()[1]}")
        for _ in range(5):
            run.tags({"a": "1"})
            run.metrics({"b": 2.0})
    assert called == ["set_tag"]


@pytest.mark.slow
def test_a_model_on_this_machine_is_registered_with_a_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        + ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
        + ["--artifacts-destination", str(tmp_path / "artifacts")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health") as answer:
                if answer.status == 200:
                    break
            assert server.poll() is None
            time.sleep(0.2)
        place = tracking.Tracking(uri, "test", None)
        (tmp_path / "hf").mkdir()
        for _ in range(2):
            with tracking.run(place, "train", "r", {"training_run": "r"}, again=True) as run:
                run.model("name", str(tmp_path / "hf"), 1.5)
            assert run.id is not None and not run.warned
        client = MlflowClient(uri)
        assert len(client.search_model_versions("name = 'name'")) == 1
        best = client.get_model_version_by_alias("name", "best")
        assert best.tags[tracking.PREFIX + "url"] == str(tmp_path / "hf")
        assert best.source.endswith(f"/{tracking.MODEL}")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def test_remote_storage_needs_a_tracking_uri(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nstorage: memory://x\nsources: [{name: a, urls: [b]}]\n")
    with pytest.raises(UserError, match=r"tracking\.uri"):
        tracking.Tracking.of(load(str(file)))
    uri = tracking.Tracking.of(load(str(file), ["tracking.uri=http://mlflow:5000"])).uri
    assert uri == "http://mlflow:5000"
