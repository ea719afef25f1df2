import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from base import manifest
from base.claims import ClaimsConfig, held
from base.errors import UserError
from base.layout import Layout
from base.manifest import Version
from model.journal import Journal
from pipelines.config import Config, load
from pipelines.runtime import tracking
from pipelines.training import results
from pipelines.training.results import RunResult
from pipelines.training.run import check_fits, claimed, mixture, run_name, train
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import step_record

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
    url = Layout(config.storage).run("run")
    journal = Journal(url)
    for step in (1, 2):
        journal.append(step_record(step, loss=3.0 - step, evaluation={"a": {"loss": 2.5}}))
    journal.close()
    result = _result(url, version)
    with claimed(config, "run") as claim:
        results.record(config.storage, "run", result, claim)
    place = tracking.Tracking.of(config)
    assert tracking.find(place, "train", key="run") is None
    elsewhere = _config(tmp_path, tracking={"uri": f"sqlite:///{tmp_path}/elsewhere.db"})
    for chosen in (config, config, elsewhere):
        with claimed(chosen, "run") as claim:
            assert train(chosen, version, "run", claim=claim) == (result, False)
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
    other = result.model_copy(update={"manifest_hash": "other"})
    with claimed(config, "run") as claim:
        with pytest.raises(UserError, match="result.json is there already, and is another one"):
            results.record(config.storage, "run", other, claim)
        other.write(Layout(config.storage).result("run"))
        with pytest.raises(UserError, match="trained on another corpus version"):
            train(config, version, "run", claim=claim)


def _result(url: str, version: Version) -> RunResult:
    return RunResult(
        run_url=url,
        step=2,
        tokens=128,
        first_loss=2.0,
        last_loss=1.0,
        tokens_per_second=None,
        mfu=None,
        skipped_steps=0,
        rollbacks=0,
        resumed_from=2,
        evaluation={"a": {"loss": 2.5, "bits_per_byte": 1.2}},
        checkpoint_url=None,
        best_checkpoint_url=None,
        checkpoint_stalls=[0.25],
        hf_url=f"{url}/hf",
        version=version.name,
        manifest_hash=version.hash,
        model=f"{url}/hf",
        unigram_entropy=4.0,
    )


def test_a_result_has_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    version = manifest.open_version(write_corpus(tmp_path, {"a": [[50] * 4]}))
    written = _result("/run", version)
    with held(f"{tmp_path}/training/run", "train", ClaimsConfig()) as claim:
        results.record(str(tmp_path), "run", written, claim)
    assert results.newest(str(tmp_path)) == "run" and results.finished(str(tmp_path), "run") == written
    assert results.finished(str(tmp_path), "other") is None
    assert (tmp_path / "training" / "latest.json").read_text() == '{\n "run": "run"\n}\n'
    content = (tmp_path / "training" / "run" / "result.json").read_text()
    assert content == json.dumps(json.loads(content), indent=1) + "\n"
    names = list(json.loads(content))
    assert names[:4] == ["run_url", "step", "tokens", "first_loss"] and names[-5:] == [
        "hf_url",
        "version",
        "manifest_hash",
        "model",
        "unigram_entropy",
    ]
    assert json.loads(content)["mfu"] is None


def _config(folder: Path, **changes: object) -> Config:
    sources = [{"name": "a", "urls": ["unused"]}]
    return Config.model_validate({"name": "tiny", "storage": str(folder), "sources": sources, **changes})


def test_a_mixture_by_epochs(tmp_path: Path) -> None:
    version = manifest.open_version(write_corpus(tmp_path, {"a": [[50] * 4], "b": [[60] * 5, [10]]}))
    both = _config(tmp_path, mixture_epochs={"a": 1.5, "b": 2})
    assert mixture(both, version) == {"a": 300.0, "b": 620.0}
    weights = _config(tmp_path, mixture={"a": 300, "b": 620})
    assert mixture(weights, version) == weights.mixture
    assert run_name(both, version) == run_name(weights, version)
    with pytest.raises(UserError, match="mixture_epochs.c: there is no such source"):
        mixture(_config(tmp_path, mixture_epochs={"a": 1, "b": 1, "c": 1}), version)
    with pytest.raises(UserError, match="no epochs for source b"):
        mixture(_config(tmp_path, mixture_epochs={"a": 1}), version)
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
        check_fits(small, version, "run")
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    config = _config(tmp_path, tokenize={"tokenizer": str(file)})
    facts = version.manifest.tokenizer.model_copy(update={"sha256": digest})
    version = replace(version, manifest=version.manifest.model_copy(update={"tokenizer": facts}))
    check_fits(config, version, "run")
    file.write_text("{ }")
    with pytest.raises(UserError, match="was not tokenized by tokenize.tokenizer = "):
        check_fits(config, version, "run")
