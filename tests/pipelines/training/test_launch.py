import functools
import json
from pathlib import Path
from typing import Any

import pytest

from base.errors import UserError
from model import journal
from model.run import RUN, RunDescription
from pipelines.config import Config
from pipelines.runtime import tracking
from pipelines.training import shipping
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, SOURCES, KillOnce, Refuses, Sees, run_here, settings
from tests.helpers.values import known

if RUNNING:
    from mlflow import MlflowClient

    from model import checkpoint, restore
    from pipelines.training.launch import launch


pytestmark = pytest.mark.usefixtures("ray_cluster")


def _config(folder: Path, mixture: dict[str, float] | None = None, **train: object) -> Config:
    return Config.model_validate(
        {
            "name": "tiny",
            "storage": str(folder),
            "sources": [{"name": "a", "urls": ["unused"]}, {"name": "b", "urls": ["unused"]}],
            "mixture": mixture or {},
            "model": MODEL.model_dump(),
            "train": settings(**{"workers": 2, **train}).model_dump(),
        }
    )


def test_two_workers_survive_the_death_of_one_with_the_same_losses(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, SOURCES)
    same: dict[str, Any] = {"steps": 40, "checkpoint": {"every": 10}}
    expected = run_here(manifest, str(tmp_path / "alone"), **same)
    run_url = str(tmp_path / "run")
    place = tracking.Tracking(f"sqlite:///{tmp_path}/mlflow.db", "test", f"file://{tmp_path}/artifacts")
    told: list[dict[str, Any]] = []
    with tracking.run(place, "train", "key", {}) as tracked:
        ship = functools.partial(shipping.ship_journal, place, known(tracked.id), every=0.2)
        killing = KillOnce(tmp_path, 15, ship)
        result = launch(_config(tmp_path, **same), manifest, run_url, killing, told.append)
        tracked.follow()
    starts = (tmp_path / "starts").read_text().splitlines()
    assert len(starts) == 2 and starts[0].startswith(f"{run_url}/journal.jsonl ")
    # From the death of a worker until the next ones train: noticing it, and starting two processes.
    assert float(starts[1].split()[1]) - float((tmp_path / "killed").read_text()) < 30
    lines = journal.read(run_url)
    assert [line.step for line in lines] == list(range(1, 41))
    # The line that is written when the process dies may not be told; repeated steps are.
    assert len([line for line in lines if line.to_json() in told]) >= 39
    assert told[-1]["step"] == 40 and result.resumed_from + 1 in [line["step"] for line in told]
    curve = MlflowClient(place.uri).get_metric_history(str(tracked.id), "loss")
    assert [(point.step, point.value) for point in curve] == [(line.step, line.loss) for line in lines]
    reference = [line.loss for line in journal.read(str(tmp_path / "alone"))]
    assert [line.loss for line in lines] == pytest.approx(reference, abs=1e-4)
    assert result.step == 40 and result.resumed_from in (10, 20, 30) and result.run_url == run_url
    assert result.last_loss == pytest.approx(expected.last_loss, abs=1e-4)
    assert restore.latest(run_url) == result.checkpoint_url
    with pytest.raises(UserError, match="data.seed"):
        launch(_config(tmp_path, steps=50, seed=1), manifest, run_url)


def test_a_mistake_ends_the_run_at_once(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, SOURCES)
    starts = tmp_path / "starts"
    with pytest.raises(UserError, match="step 3 is refused"):
        launch(_config(tmp_path), manifest, str(tmp_path / "run"), Refuses(str(starts)))
    # No retry.
    assert len(starts.read_text().splitlines()) == 1


def test_a_cluster_too_small_is_named(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, SOURCES)
    with pytest.raises(UserError, match="need 2 times 3 CPU, the Ray cluster has room for 0"):
        launch(_config(tmp_path, cpus_per_worker=3), manifest, str(tmp_path / "run"))


def test_fewer_workers_train_on_a_smaller_cluster_and_their_warnings_are_heard_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = write_corpus(tmp_path, SOURCES)
    next((tmp_path / "corpus").rglob("train-00001.arrow")).write_bytes(b"nonsense")
    same: dict[str, Any] = {"steps": 6, "global_batch_size": 12, "damaged_shards": "skip"}
    same["mixture"] = {"a": 5.0, "b": 1.0}
    expected = run_here(manifest, str(tmp_path / "alone"), **same)
    caplog.clear()
    config = _config(tmp_path, min_workers=1, workers=3, **same)
    result = launch(config, manifest, str(tmp_path / "run"), Sees(str(tmp_path / "seen")))
    assert result.last_loss == pytest.approx(expected.last_loss, abs=1e-5)
    assert RunDescription.read(f"{tmp_path}/run/{RUN}").mixture == same["mixture"]
    description = json.loads((Path(str(result.checkpoint_url)) / checkpoint.DESCRIPTION).read_text())
    assert description["world_size"] == 2
    (heard,) = [message for message in caplog.messages if "is damaged" in message]
    assert "train-00001.arrow" in heard and "replaced by others of the source" in heard
    # Workers without a GPU see none.
    assert (tmp_path / "seen").read_text() == "''"
    with pytest.raises(ValueError, match="min_workers 3 must not be above workers 2"):
        _config(tmp_path, min_workers=3)
    same = {"min_workers": 2, "workers": 4}
    with pytest.raises(ValueError, match=" = 6, for every number of workers from min_workers 2 on"):
        _config(tmp_path, **same)
    warmup = {"start": 8, "increment": 8, "steps": 4}
    with pytest.raises(ValueError, match=r"batch_warmup.start 8 must be a multiple of .* = 6, for every"):
        _config(tmp_path, **same, global_batch_size=24, batch_warmup=warmup)
