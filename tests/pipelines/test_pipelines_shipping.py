"""A journal in a real MLflow store: every line once, whatever outage lies between."""

import json
import time
from pathlib import Path

from mlflow import MlflowClient

from pipelines import shipping, tracking


def test_journal_lines_arrive_once_each_also_after_an_outage(tmp_path: Path) -> None:
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
        return int(journal.with_name(journal.name + shipping.MARK).read_text()) == journal.stat().st_size

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
    client = MlflowClient(place.uri)
    history = client.get_metric_history(run.id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    assert len(client.get_metric_history(run.id, "evaluation/books/loss")) == 4
    table = json.loads((Path(f"{tmp_path}/artifacts") / run.id / "artifacts" / shipping.SAMPLES).read_text())
    assert table["columns"] == ["step", "prompt", "text"]
    assert table["data"] == [[step, "One", f" and\n{step}"] for step in (1, 2, 3, 4)]
