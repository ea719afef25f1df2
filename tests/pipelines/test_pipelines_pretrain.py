from pathlib import Path

import pytest
from mlflow import MlflowClient
from synthetic_corpus import write_corpus

from base.errors import UserError
from model.journal import Journal
from pipelines import manifest, pretrain, tracking, trained
from pipelines.config import Config


def test_a_finished_run_delivers_what_mlflow_has_missed(tmp_path: Path) -> None:
    version = manifest.open_version(write_corpus(tmp_path, {"a": [[50] * 4]}))
    sources = [{"name": "a", "urls": ["unused"]}]
    config = Config.model_validate({"name": "tiny", "storage": str(tmp_path), "sources": sources})
    url = trained.run_url(config.storage, "run")
    journal = Journal(url)
    for step in (1, 2):
        journal.append({"step": step, "time": 1e9 + step, "loss": 3.0 - step})
    journal.close()
    trained.record(config.storage, "run", {"manifest_hash": version.hash, "version": "v0001"})
    place = tracking.Tracking.of(config)
    assert tracking.find(place, "train", key="run") is None
    for _ in range(2):
        assert pretrain.pretrain(config, version, "run")["new"] is False
    client = MlflowClient(place.uri)
    found = tracking.find(place, "train", key="run")
    assert found is not None and found.info.status == "FINISHED"
    curve = client.get_metric_history(found.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 2.0), (2, 1.0)]
    assert len(client.search_runs([found.info.experiment_id])) == 1
    trained.record(config.storage, "run", {"manifest_hash": "other", "version": "v0000"})
    with pytest.raises(UserError, match="trained on another corpus version"):
        pretrain.pretrain(config, version, "run")
