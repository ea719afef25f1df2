import collections
import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
import yaml

from base import files, manifest
from base.claims import ClaimsConfig, held
from base.errors import UserError
from base.layout import Layout
from base.manifest import Version
from model.config import ModelConfig, TrainConfig
from model.journal import Journal
from model.run import Summary
from pipelines.config import Config, load
from pipelines.runtime import tracking
from pipelines.training import results
from pipelines.training.results import RunResult
from pipelines.training.run import (
    RECORDED,
    check_fits,
    claimed,
    mixture,
    run_name,
    train,
    unigram_entropy,
)
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, run_here, settings, step_record

if RUNNING:
    from mlflow import MlflowClient

    from pipelines.training import launch, shipping


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
    check_fits(_config(tmp_path, tokenize={"vocab_size": 400}), version, "run")
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


CURVE: dict[str, Any] = {
    "steps": 7,
    "global_batch_size": 32,
    "batch_warmup": {"start": 8, "increment": 8, "steps": 3},
    "seed": 5,
    "precision": "fp32",
    "optimizer": {"epsilon": 1e-6},
    "loss_scale": {"hysteresis": 3},
    "guard": {"sigmas": 5.0},
    "deepspeed": {"zero_optimization": {"sub_group_size": 1000}},
}
"""Another value of each training setting that decides the curve."""


def test_a_run_is_named_by_what_decides_its_curve(tmp_path: Path) -> None:
    version = manifest.open_version(write_corpus(tmp_path, {"a": [[50] * 4], "b": [[50] * 4]}))
    config = _config(tmp_path)
    name = run_name(config, version)
    assert name.startswith("v0001-") and len(name) == len("v0001-") + 8
    for field in TrainConfig.model_fields:
        value = TrainConfig.model_validate({field: CURVE[field]}) if field in CURVE else None
        changed = getattr(value, field) if value is not None else "another"
        train_section = config.train.model_copy(update={field: changed})
        found = run_name(config.model_copy(update={"train": train_section}), version)
        assert (found != name) == (field in CURVE), field
    others: dict[str, Any] = {"num_layers": 5, "attention_reset": True, "rotary_base": 5000.0}
    others |= {"vocab_multiple": 64, "init_method": "normal", "max_sequence_length": 128}
    for field, changed in others.items():
        model = ModelConfig.model_validate({field: changed})
        assert run_name(config.model_copy(update={"model": model}), version) != name, field
    assert run_name(_config(tmp_path, mixture={"a": 1, "b": 2}), version) != name
    assert run_name(config, replace(version, hash="0" * 32)) != name
    assert run_name(_config(tmp_path / "elsewhere"), version) == name


def _tokens(manifest_url: str, source: str) -> list[int]:
    """The tokens of a source's train shards."""
    paths = sorted(Path(manifest_url).parent.glob(f"shards/{source}/train-*.arrow"))
    rows = [row for path in paths for row in pa.ipc.open_file(path).read_all()["input_ids"].to_pylist()]
    return [token for row in rows for token in row]


def _entropy(manifest_url: str, weights: dict[str, float]) -> float:
    """Nats a token of the tokens of sources, which are drawn by weight."""
    shares: dict[int, float] = collections.defaultdict(float)
    for source, weight in weights.items():
        tokens = _tokens(manifest_url, source)
        for token, count in collections.Counter(tokens).items():
            shares[token] += weight / sum(weights.values()) * count / len(tokens)
    return -sum(share * math.log(share) for share in shares.values() if share)


def test_the_unigram_entropy_is_that_of_the_mixture(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, {"a": [[50] * 4, [7] * 9], "b": [[60] * 5], "c": [[9]]})
    version = manifest.open_version(url)
    by_tokens = {source: float(len(_tokens(url, source))) for source in "abc"}
    assert by_tokens == {"a": 263, "b": 300, "c": 9}
    for weights in ({}, {"a": 1.0, "b": 1.0, "c": 8.0}, {"a": 3.0, "b": 0.0, "c": 0.0}):
        wanted = _entropy(url, weights or by_tokens)
        assert unigram_entropy(version, weights) == pytest.approx(wanted)


def _stand_in(told: list[Config], **changes: Any) -> Any:
    """What trains in this process in the place of a Ray cluster."""

    def train_here(config: Config, manifest_url: str, run_url: str, *rest: Any) -> Summary:
        told.append(config)
        same = config.train.model_dump(mode="json", exclude_unset=True)
        summary = run_here(manifest_url, run_url, mixture=config.mixture, **same)
        return summary.model_copy(update=changes)

    return train_here


def _train(config: Config, version: Version, run: str) -> tuple[RunResult, bool]:
    """Train as the command does, under a claim."""
    with claimed(config, run) as claim:
        return train(config, version, run, claim=claim)


def _small(folder: Path, **changes: Any) -> Config:
    """A project whose training takes a moment."""
    train_section = settings(steps=3, evaluate_batches=1, samples={"tokens": 0}).model_dump(mode="json")
    return _config(folder, model=MODEL.model_dump(), train=train_section, **changes)


def test_a_run_is_trained_on_its_mixture_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: Path
) -> None:
    shutil.copy(mlflow_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    url = write_corpus(tmp_path, {"a": [[50] * 9], "b": [[60] * 9, [10]]})
    version, told = manifest.open_version(url), list[Config]()
    config = _small(tmp_path, mixture_epochs={"a": 1.5, "b": 2})
    weights = {"a": 675.0, "b": 1100.0}
    monkeypatch.setattr(launch, "launch", _stand_in(told))
    run = run_name(config, version)
    check_fits(config, version, run)
    result, new = _train(config, version, run)
    assert new and results.newest(config.storage) == run
    assert [(given.mixture, given.mixture_epochs) for given in told] == [(weights, {})]
    assert result.unigram_entropy == pytest.approx(_entropy(url, weights))
    assert (result.step, result.version, result.manifest_hash) == (3, "v0001", version.hash)
    assert result.model == f"{tmp_path}/training/{run}/hf" and Path(result.model, "config.json").exists()
    found = tracking.find(tracking.Tracking.of(config), "train", key=run)
    assert found is not None and found.info.status == "FINISHED"
    tags = {"training_run": run, "corpus": version.hash, "version": "v0001"}
    assert {name: found.data.tags[f"piledriver.{name}"] for name in tags} == tags
    wanted = {"model.hidden_size": "32", "train.steps": "3", "train.optimizer.warmup_steps": "2"}
    assert {name: found.data.params[name] for name in wanted} == wanted
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("tiny", version.hash)
    assert json.loads(dataset.dataset.source) == {"uri": f"file://{url}"}
    assert json.loads(dataset.dataset.profile) == {
        "tokens": {"a": 450, "b": 550},
        "heldout_tokens": {"a": 100, "b": 120},
        "documents": {"a": 9, "b": 10},
        "text_bytes": {"a": 2250, "b": 2750},
    }
    client = MlflowClient(tracking.Tracking.of(config).uri)
    (entropy,) = client.get_metric_history(found.info.run_id, "unigram_entropy")
    assert (entropy.step, entropy.value) == (3, result.unigram_entropy)
    bits = [values["bits_per_byte"] for values in result.evaluation.values()]
    best = client.get_model_version_by_alias("tiny", "best")
    assert float(best.tags["piledriver.heldout_bits_per_byte"]) == pytest.approx(sum(bits) / 2)
    mark = Path(result.run_url, RECORDED)
    assert mark.read_text() == tracking.Tracking.of(config).uri
    assert _train(config, version, run) == (result, False) and len(told) == 1
    with pytest.raises(UserError, match="data.weights = .*, this run has"):
        check_fits(_small(tmp_path, mixture_epochs={"a": 1, "b": 2}), version, run)


def test_a_run_without_a_model_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = manifest.open_version(write_corpus(tmp_path, {"a": [[50] * 9]}))
    config = _small(tmp_path, tracking={"uri": "sqlite:////proc/none/mlflow.db"})
    monkeypatch.setattr(launch, "launch", _stand_in([], hf_url=None))
    with pytest.raises(UserError, match="run x is at its last step, but the checkpoint there could not be"):
        _train(config, version, "x")
    assert results.finished(config.storage, "x") is None
    monkeypatch.setattr(launch, "launch", _stand_in([]))
    result, new = _train(config, version, "x")
    assert new and result.resumed_from == 3
    # MLflow is away: what it has not got is not marked as recorded.
    assert not Path(result.run_url, RECORDED).exists()
    assert Path(result.run_url, "training.png").exists()


@pytest.mark.parametrize(("delivered", "fails"), [(True, False), (False, False), (True, True)])
def test_a_password_reaches_no_call_of_mlflow_and_only_what_it_has_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivered: bool, fails: bool
) -> None:
    version = manifest.open_version(write_corpus(tmp_path, {"a": [[50] * 4]}))
    version = replace(version, url=f"s3://user:secret@bucket{version.url}")
    config = _config(tmp_path, tracking={"uri": "http://user:secret@mlflow.example"})
    url = Layout(config.storage).run("run")
    Journal(url).append(step_record(1))
    result = _result(f"s3://user:secret@bucket{url}", version)
    with claimed(config, "run") as claim:
        results.record(config.storage, "run", result, claim)
    client = mock.MagicMock()
    if fails:
        client.log_artifact.side_effect = OSError

    @contextlib.contextmanager
    def opened(
        place: tracking.Tracking, command: str, key: str, tags: dict[str, str], again: bool = False
    ) -> Iterator[tracking.TrackedRun]:
        run = tracking.TrackedRun(client, "id")
        run.tags(tags)
        yield run

    monkeypatch.setattr(tracking, "run", opened)
    monkeypatch.setattr(tracking, "find", lambda *_, **__: None)
    monkeypatch.setattr(shipping, "deliver", lambda *_: delivered)
    assert _train(config, version, "run") == (result, False)
    made = [name for name, *_ in client.mock_calls]
    assert {"set_tag", "log_batch", "log_inputs", "log_artifact"} <= set(made)
    assert "secret" not in repr([call for call in client.mock_calls if call[0] != "create_model_version"])
    mark = files.join(url, RECORDED)
    assert files.exists(mark) == (delivered and not fails)
    if files.exists(mark):
        assert b"secret" not in files.read_bytes(mark)
