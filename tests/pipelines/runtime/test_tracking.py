"""Runs in a real MLflow store: found again after a failure, shipped once, never a reason to stop."""

import contextlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from base import files
from base.errors import UserError
from pipelines.config import load
from pipelines.runtime import tracking
from tests.helpers.late import RUNNING

if RUNNING:
    from mlflow import MlflowClient

SPAWN = multiprocessing.get_context("spawn")


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


def first(folder: str, key: str, start: Barrier) -> None:
    """What a first command does with a new store, when all are about to."""
    place = tracking.Tracking(f"sqlite:///{folder}/new/mlflow.db", "test", f"file://{folder}/artifacts")
    start.wait()
    with tracking.run(place, "prepare", key, {}) as run:
        run.metrics({"x": 1.0})
        assert run.id is not None and not run.warned


@pytest.mark.slow
def test_every_one_of_the_first_commands_has_its_run(tmp_path: Path) -> None:
    start = SPAWN.Barrier(3)
    commands = [SPAWN.Process(target=first, args=(str(tmp_path), f"k{number}", start)) for number in range(3)]
    for command in commands:
        command.start()
    for command in commands:
        command.join()
    assert [command.exitcode for command in commands] == [0, 0, 0]
    client = MlflowClient(f"sqlite:///{tmp_path}/new/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "test"]
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["piledriver.key"] for run in runs) == ["k0", "k1", "k2"]
    assert all(run.info.status == "FINISHED" and run.data.metrics == {"x": 1.0} for run in runs)


def test_artifacts_are_on_the_disk_before_a_run_is_finished_and_then_that_it_is(
    place: tracking.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").write_text("<p>")
    told: list[str] = []
    sync = files.sync

    def synced(path: str) -> None:
        status = MlflowClient(place.uri).get_run(run.id).info.status
        told.append(f"{Path(path).name} {status}")
        sync(path)

    with tracking.run(place, "prepare", "synced", {}) as run:
        run.artifact(str(tmp_path / "report.html"), "pages")
        monkeypatch.setattr(files, "sync", synced)
    folders = ["artifacts", "pages", str(run.id), "artifacts", Path(place.uri).parent.name]
    assert sorted(told[:-1]) == sorted(f"{name} RUNNING" for name in ["report.html", *folders])
    assert told[-1] == f"{Path(place.uri).parent.name} FINISHED"
    assert told.index("report.html RUNNING") < told.index(f"{run.id} RUNNING")


URL = "https://anna:pa55word@host/x?token=t0k3n"
HIDDEN = "https://***@host/x?token=***"


def test_no_call_of_mlflow_has_credentials(place: tracking.Tracking, tmp_path: Path) -> None:
    with tracking.run(place, "prepare", "k9", {"version": "v0001", "storage": URL}) as run:
        run.tags({"merged_url": f"merged from {URL}"})
        run.params({"storage": URL, "sources": [{"urls": [URL]}], "nested": {"url": URL}})
        run.params({"storage": f"{URL}&part=2", "nested": {"url": f"{URL}&part=2"}})
        run.dataset("secret", "1" * 32, URL, {"files": [URL]}, "training")
        run.model("secret", URL, 1.0)
    client = MlflowClient(place.uri)
    found = client.get_run(str(run.id))
    tags, params = found.data.tags, found.data.params
    assert tags["piledriver.storage"] == HIDDEN
    assert tags["piledriver.merged_url"] == f"merged from {HIDDEN}"
    assert params["storage"] == params["nested.url"] == HIDDEN and HIDDEN in params["sources"]
    assert tags["piledriver.now.storage"] == tags["piledriver.now.nested.url"] == f"{HIDDEN}&part=2"
    (dataset,) = (entry.dataset for entry in found.inputs.dataset_inputs)
    assert (json.loads(dataset.source), json.loads(dataset.profile)) == ({"uri": HIDDEN}, {"files": [HIDDEN]})
    assert client.get_model_version_by_alias("secret", "latest").source == HIDDEN
    for path in Path(place.uri.removeprefix("sqlite:///")).parent.rglob("*"):
        if path.is_file():
            assert b"pa55word" not in path.read_bytes() and b"t0k3n" not in path.read_bytes(), path


class Failing:
    """A client whose every call fails with the address, as MLflow's do."""

    def __getattr__(self, name: str) -> Any:
        def call(*_: object, **__: object) -> None:
            raise ConnectionError(f"API request to {URL} failed")

        return call


def test_no_message_of_mlflow_has_credentials(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "piledriver.tracking")
    run = tracking.TrackedRun(Failing(), "0" * 32)
    calls = [
        lambda: run.tags({"a": "b"}),
        lambda: run.params({"a": "b"}),
        lambda: run.metrics({"a": 1.0}),
        lambda: run.artifact(__file__),
        lambda: run.dataset("corpus", "0" * 32, URL, {}, "training"),
        lambda: run.model("pile", URL, None),
        lambda: tracking.find(tracking.Tracking(URL, "test", None), "prepare"),
        lambda: tracking.run(tracking.Tracking(URL, "test", None), "prepare", "k", {}).__enter__(),
    ]
    monkeypatch.setattr(tracking, "client_of", lambda _: Failing())
    for call in calls:
        caplog.clear()
        run.warned.clear()
        call()
        assert f"API request to {HIDDEN} failed" in caplog.text
        assert "pa55word" not in caplog.text and "t0k3n" not in caplog.text


def test_a_call_that_fails_again_is_no_second_warning(caplog: pytest.LogCaptureFixture) -> None:
    run = tracking.TrackedRun(Failing(), "0" * 32)
    for _ in range(3):
        run.metrics({"a": 1.0})
    run.artifact(__file__)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "MLflow did not record log_batch",
        "MLflow did not record log_artifact",
    ]


def test_the_state_of_a_run_and_which_one_is_found(place: tracking.Tracking) -> None:
    client = MlflowClient(place.uri)

    def status(run: tracking.TrackedRun) -> str:
        found: str = client.get_run(str(run.id)).info.status
        return found

    with pytest.raises(KeyError), tracking.run(place, "infer", "a", {"corpus": "c1"}) as failed:
        assert status(failed) == "RUNNING"
        raise KeyError
    assert status(failed) == "FAILED"
    with tracking.run(place, "infer", "a", {}) as same:
        assert same.id == failed.id and status(same) == "RUNNING"
    assert status(same) == "FINISHED"
    with tracking.run(place, "infer", "a", {}, again=True) as reopened:
        assert reopened.id == same.id
    with tracking.run(place, "infer", "b", {"version": "v0007", "corpus": "c1"}) as newer:
        assert newer.id != same.id
    with tracking.run(place, "evaluate", "a", {"corpus": "c1"}) as other:
        assert other.id not in (same.id, newer.id)
    assert client.get_run(str(newer.id)).info.run_name == "infer v0007"
    assert tracking.upstream(place, "infer", corpus="c1") == {"upstream": newer.id}
    assert tracking.upstream(place, "infer", corpus="c1", key="a") == {"upstream": same.id}
    assert tracking.upstream(place, "evaluate", corpus="c1") == {"upstream": other.id}


def test_what_changed_in_a_continued_run_is_a_tag(place: tracking.Tracking) -> None:
    values = {f"field{number:03}": number for number in range(230)}
    with tracking.run(place, "prepare", "k10", {}) as run:
        run.params({"a": {"b": 1, "c": "x" * 600}, "d": None})
        run.params({"a": {"b": 2, "c": "x" * 600}, **values})
    data = MlflowClient(place.uri).get_run(str(run.id)).data
    expected = {"a.b": "1", "a.c": "x" * 500, "d": "None"}
    assert data.params == expected | {name: str(value) for name, value in values.items()}
    assert {name: value for name, value in data.tags.items() if ".now." in name} == {
        "piledriver.now.a.b": "2"
    }


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
        client = MlflowClient(place.uri)
        while "measure/documents" not in client.get_run(run.id).data.metrics:
            time.sleep(0.05)
        progress("measure", 2, 2, 900, 2_000_000)
        progress("dedup edges", 3, 3)
    assert seen[1] == ("measure", 1, 2, 500, 1_000_000)
    assert len(seen) == 4
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
    remote = tracking.Tracking.of(load(str(file), ["tracking.uri=http://mlflow:5000"]))
    assert remote == tracking.Tracking("http://mlflow:5000", "x", None)
    local = tracking.Tracking.of(load(str(file), [f"storage={tmp_path}/s", "tracking.experiment=y"]))
    folder = f"{tmp_path}/s"
    assert local == tracking.Tracking(f"sqlite:///{folder}/mlflow.db", "y", f"file://{folder}/mlartifacts")
