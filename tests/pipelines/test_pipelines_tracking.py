"""Runs in a real MLflow store: found again after a failure, shipped once, never a reason to stop."""

import json
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from base.errors import UserError
from pipelines import tracking
from pipelines.config import load


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tracking.Tracking:
    folder = tmp_path_factory.mktemp("mlflow")
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
    with tracking.run(place, "prepare", "k1", {}) as run:
        assert run.id != first
    client = MlflowClient(place.uri)
    found = client.get_run(first)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"dedup.threshold": "0.8", "name": "x"}
    assert found.data.metrics == {"tokens": 5.0}
    assert found.data.tags["piledriver.corpus"] == "abc"
    assert [item.path for item in client.list_artifacts(first)] == ["report.html"]
    assert tracking.upstream(place, "prepare", corpus="abc") == {"upstream": first}
    assert tracking.upstream(place, "prepare", corpus="none") == {}


def test_an_unreachable_store_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = tracking.Tracking("sqlite:////proc/none/mlflow.db", "test", None)
    with tracking.run(nowhere, "prepare", "k", {"a": "b"}) as run:
        run.metrics({"x": 1.0})
        run.artifact("/tmp/none")
    assert "not recorded" in caplog.text
    assert tracking.find(nowhere, "prepare") is None


def test_journal_lines_arrive_once_each_also_after_an_outage(
    place: tracking.Tracking, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"

    def write(step: int, text: str = "\n") -> None:
        line = {"step": step, "time": 1e9 + step, "loss": 5.0 - step, "evaluation": {"books": {"loss": 1.0}}}
        with journal.open("a") as file:
            file.write(json.dumps(line) + text)

    with tracking.run(place, "train", "k2", {}) as run:
        assert run.id
        write(1)
        gone = tracking.Tracking("sqlite:////proc/none/mlflow.db", "test", None)
        with tracking.ship_journal(gone, run.id, str(journal), every=0.05):
            write(2)
            time.sleep(0.2)
        with tracking.ship_journal(place, run.id, str(journal), every=0.05):
            time.sleep(0.5)
            write(3)
            write(4, text="")
        journal.with_name(journal.name + ".shipped").unlink()
        with journal.open("a") as file:
            file.write("\n")
        with tracking.ship_journal(place, run.id, str(journal), every=0.05):
            pass
    client = MlflowClient(place.uri)
    history = client.get_metric_history(run.id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    assert len(client.get_metric_history(run.id, "evaluation/books/loss")) == 4


def test_remote_storage_needs_a_tracking_uri(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nstorage: memory://x\nsources: [{name: a, urls: [b]}]\n")
    with pytest.raises(UserError, match=r"tracking\.uri"):
        tracking.Tracking.of(load(str(file)))
    uri = tracking.Tracking.of(load(str(file), ["tracking.uri=http://mlflow:5000"])).uri
    assert uri == "http://mlflow:5000"
