"""A journal in a real MLflow store: every line once, whatever outage lies between."""

import json
import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.runtime import tracking
from pipelines.training import shipping
from tests.helpers.late import RUNNING

if RUNNING:
    from mlflow import MlflowClient


def test_journal_lines_arrive_once_each_also_after_an_outage(tmp_path: Path, mlflow_store: Path) -> None:
    for name in ("mlflow.db", "other.db"):
        shutil.copy(mlflow_store, tmp_path / name)
    place = tracking.Tracking(f"sqlite:///{tmp_path}/mlflow.db", "test", f"file://{tmp_path}/artifacts")
    gone = tracking.Tracking("sqlite:////proc/none/mlflow.db", "test", None)
    journal = tmp_path / "journal.jsonl"

    def write(step: int, text: str = "\n") -> None:
        line = {"step": step, "time": 1e9 + step, "loss": 5.0 - step, "evaluation": {"books": {"loss": 1.0}}}
        line |= {"samples": [4, 8]}
        line["texts"] = [{"prompt": "One", "text": f" and\n{step}"}]
        with journal.open("a") as file:
            file.write(json.dumps(line) + text)

    def delivered() -> bool:
        mark = json.loads(journal.with_name(journal.name + shipping.MARK).read_text())
        return int(mark["bytes"]) == journal.stat().st_size

    with tracking.run(place, "train", "k2", {}) as run:
        assert run.id and shipping.deliver(place, run.id, str(journal))
        with shipping.ship_journal(place, run.id, str(journal), every=0.05):
            write(1)
        assert delivered()
        with shipping.ship_journal(gone, run.id, str(journal), every=0.05):
            write(2)
            time.sleep(0.2)
        assert not delivered() and not shipping.deliver(gone, run.id, str(journal))
        with shipping.ship_journal(place, run.id, str(journal), every=0.05):
            time.sleep(0.5)
            write(3)
            write(4, text="")
        journal.with_name(journal.name + shipping.MARK).unlink()
        with journal.open("a") as file:
            file.write("\n")
        assert shipping.deliver(place, run.id, str(journal))
        assert delivered()
    # Another store, a lost one, another run, and back: each has the whole curve, once.
    other = tracking.Tracking(f"sqlite:///{tmp_path}/other.db", "test", f"file://{tmp_path}/artifacts")
    runs = [(place, run.id)]
    for store, key in ((other, "k2"), (other, "k3")):
        with tracking.run(store, "train", key, {}) as again:
            assert again.id and shipping.deliver(store, again.id, str(journal))
        runs.append((store, again.id))
    assert shipping.deliver(place, run.id, str(journal))
    for store, identifier in runs:
        client = MlflowClient(store.uri)
        history = client.get_metric_history(identifier, "loss")
        assert [(point.step, point.value) for point in history] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
        assert len(client.get_metric_history(identifier, "evaluation/books/loss")) == 4
        path = Path(f"{tmp_path}/artifacts") / identifier / "artifacts" / shipping.SAMPLES
        table = json.loads(path.read_text())
        assert table["columns"] == ["step", "prompt", "text"]
        assert table["data"] == [[step, "One", f" and\n{step}"] for step in (1, 2, 3, 4)]


class _Client:
    """Takes metrics as MLflow does: at most 1,000 in one call, unless it is away."""

    def __init__(self, away: int = 0) -> None:
        self.away, self.calls = away, 0
        self.tried = threading.Event()
        self.points: list[tuple[str, float, int, int]] = []

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.calls += 1
        if self.calls <= self.away:
            raise OSError("no route to http://user:secret@mlflow.example")
        self.tried.set()
        assert run_id == "run" and len(metrics) <= 1000
        self.points += [(metric.key, metric.value, metric.timestamp, metric.step) for metric in metrics]


PLACE = tracking.Tracking("http://user:secret@mlflow.example", "test", None)


def test_every_number_of_many_lines_arrives_with_its_time_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal.jsonl"
    expected = []
    with journal.open("w") as file:
        for step in range(1, 701):
            line: dict[str, Any] = {"step": step, "time": 1e9 + step / 8, "loss": step / 2, "mfu": None}
            line |= {"system": {"memory": {"used": 3.0}}, "skipped": True, "reason": "overflow"}
            file.write(json.dumps(line) + "\n")
            moment = (10**9 * 8 + step) * 1000 // 8
            expected += [("loss", step / 2, moment, step), ("system/memory/used", 3.0, moment, step)]
    client = _Client()
    monkeypatch.setattr(shipping, "client_of", lambda place: client)
    assert shipping.deliver(PLACE, "run", str(journal))
    assert client.points == expected
    mark = journal.with_name(journal.name + shipping.MARK).read_text()
    assert "secret" not in mark and json.loads(mark)["bytes"] == journal.stat().st_size
    with journal.open("a") as file:
        file.write(json.dumps({"step": 701, "time": 1.0, "loss": 9}) + "\n")
    assert shipping.deliver(PLACE, "run", str(journal)) and client.points[-1] == ("loss", 9.0, 1000, 701)
    assert len(client.points) == len(expected) + 1
    assert json.loads(journal.with_name(journal.name + shipping.MARK).read_text())["bytes"] == (
        journal.stat().st_size
    )


def test_an_outage_is_one_warning_without_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text(json.dumps({"step": 1, "time": 1.0, "loss": 2.0}) + "\n")
    client = _Client(away=3)
    monkeypatch.setattr(shipping, "client_of", lambda place: client)
    with caplog.at_level(logging.WARNING), shipping.ship_journal(PLACE, "run", str(journal), every=0.01):
        assert client.tried.wait(30)
    assert client.points == [("loss", 2.0, 1000, 1)]
    assert caplog.text.count("does not answer; metrics wait") == 1 and "secret" not in caplog.text


def test_what_is_written_last_is_sent_when_training_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, client = tmp_path / "journal.jsonl", _Client()
    monkeypatch.setattr(shipping, "client_of", lambda place: client)
    journal.write_text(json.dumps({"step": 1, "time": 1.0, "loss": 2.0}) + "\n")
    with shipping.ship_journal(PLACE, "run", str(journal), every=1000):
        assert client.tried.wait(30)
        with journal.open("a") as file:
            file.write(json.dumps({"step": 2, "time": 1.0, "loss": 1.0}) + "\n")
    assert [step for *_, step in client.points] == [1, 2]
