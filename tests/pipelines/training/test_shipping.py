"""A journal in a real MLflow store: every line once, whatever outage lies between."""

import json
import shutil
import time
from pathlib import Path

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
