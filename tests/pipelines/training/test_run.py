import hashlib
import shutil
from pathlib import Path

import pytest
import yaml

from base import manifest
from base.errors import UserError
from model.journal import Journal
from pipelines.config import Config, load
from pipelines.inference import trained
from pipelines.runtime import tracking
from pipelines.training import run as pretrain
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING

if RUNNING:
    from mlflow import MlflowClient


def test_a_finished_run_delivers_what_mlflow_has_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: Path
) -> None:
    for name in ("mlflow.db", "elsewhere.db"):
        shutil.copy(mlflow_store, tmp_path / name)
    monkeypatch.chdir(tmp_path)  # where a store of one's own puts artifacts
    version = manifest.open_version(write_corpus(tmp_path, {"a": [[50] * 4]}))
    config = _config(tmp_path)
    url = trained.run_url(config.storage, "run")
    journal = Journal(url)
    for step in (1, 2):
        line = {"step": step, "time": 1e9 + step, "loss": 3.0 - step, "loss_scale": 1.0, "tokens": 64 * step}
        line |= {"learning_rate": 0.1, "gradient_norm": 1.0, "tokens_per_second": 100.0}
        journal.append({**line, "evaluation": {"a": {"loss": 2.5}}})
    journal.close()
    result = {"manifest_hash": version.hash, "version": "v0001", "step": 2, "unigram_entropy": 4.0}
    result |= {"model": f"{url}/hf", "evaluation": {"a": {"loss": 2.5, "bits_per_byte": 1.2}}}
    trained.record(config.storage, "run", result)
    place = tracking.Tracking.of(config)
    assert tracking.find(place, "train", key="run") is None
    elsewhere = _config(tmp_path, tracking={"uri": f"sqlite:///{tmp_path}/elsewhere.db"})
    for chosen in (config, config, elsewhere):
        assert pretrain.pretrain(chosen, version, "run")["new"] is False
    moved = tracking.find(tracking.Tracking.of(elsewhere), "train", key="run")
    assert moved is not None and moved.data.metrics["loss"] == 1.0
    client = MlflowClient(place.uri)
    found = tracking.find(place, "train", key="run")
    assert found is not None and found.info.status == "FINISHED"
    curve = client.get_metric_history(found.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 2.0), (2, 1.0)]
    artifacts = [item.path for item in client.list_artifacts(found.info.run_id)]
    assert artifacts == ["result.json", "training.png"]
    assert found.data.params["train.steps"] == "200" and found.inputs.dataset_inputs
    assert client.get_model_version_by_alias("tiny", "best").run_id == found.info.run_id
    assert len(client.search_runs([found.info.experiment_id])) == 1
    trained.record(config.storage, "run", {"manifest_hash": "other", "version": "v0000"})
    with pytest.raises(UserError, match="trained on another corpus version"):
        pretrain.pretrain(config, version, "run")


def _config(folder: Path, **changes: object) -> Config:
    sources = [{"name": "a", "urls": ["unused"]}]
    return Config.model_validate({"name": "tiny", "storage": str(folder), "sources": sources, **changes})


def test_a_mixture_by_epochs(tmp_path: Path) -> None:
    version = manifest.open_version(write_corpus(tmp_path, {"a": [[50] * 4], "b": [[60] * 5, [10]]}))
    both = _config(tmp_path, mixture_epochs={"a": 1.5, "b": 2})
    assert pretrain.mixture(both, version) == {"a": 300.0, "b": 620.0}
    weights = _config(tmp_path, mixture={"a": 300, "b": 620})
    assert pretrain.mixture(weights, version) == weights.mixture
    assert pretrain.run_name(both, version) == pretrain.run_name(weights, version)
    with pytest.raises(UserError, match="mixture_epochs.c: there is no such source"):
        pretrain.mixture(_config(tmp_path, mixture_epochs={"a": 1, "b": 1, "c": 1}), version)
    with pytest.raises(UserError, match="no epochs for source b"):
        pretrain.mixture(_config(tmp_path, mixture_epochs={"a": 1}), version)
    with pytest.raises(ValueError, match="cannot both be given"):
        _config(tmp_path, mixture={"a": 1}, mixture_epochs={"a": 1})
    with pytest.raises(ValueError, match="mixture_epochs.a = -1"):
        _config(tmp_path, mixture_epochs={"a": -1})


def test_the_piles_table_as_weights_and_as_epochs() -> None:
    url = Path(__file__).parents[3] / "configs" / "pile.yaml"
    config = load(str(url))
    _, _, comment = url.read_text().partition("# mixture_epochs:")
    epochs = yaml.safe_load("\n".join(line.lstrip("# ") for line in comment.splitlines()))
    assert len(config.mixture) == 22 and set(epochs) == set(config.mixture)
    # Gao et al. 2020, table 1: the printed weights add up to 100 % but for rounding.
    assert sum(config.mixture.values()) == pytest.approx(100, abs=0.05)
    assert (epochs["wikipedia-en"], epochs["gutenberg-pg-19"], epochs["pile-cc"]) == (3.0, 2.5, 1.0)


def test_another_tokenizer_than_the_corpus_has_is_named(tmp_path: Path) -> None:
    version = manifest.open_version(write_corpus(tmp_path, {"a": [[400] * 40]}, vocab_size=400))
    small = _config(tmp_path, tokenize={"vocab_size": 300})
    with pytest.raises(UserError, match="v0001 has a vocabulary of 400 tokens, tokenize.vocab_size is 300"):
        pretrain.check_fits(small, version, "run")
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    config = _config(tmp_path, tokenize={"tokenizer": str(file)})
    version.raw["tokenizer"]["sha256"] = digest
    pretrain.check_fits(config, version, "run")
    file.write_text("{ }")
    with pytest.raises(UserError, match="was not tokenized by tokenize.tokenizer = "):
        pretrain.check_fits(config, version, "run")
