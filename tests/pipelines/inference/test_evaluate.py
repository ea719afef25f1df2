"""Evaluation in this process: against sums made token by token, resumed, and of sources with odd names."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from base import files, manifest
from base.errors import UserError
from base.manifest import Version
from pipelines.config import Config
from pipelines.inference.evaluate import UNIT_DOCUMENTS, EvaluationResult, evaluate
from pipelines.inference.models import ModelFolder
from pipelines.runtime import tracking
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.models import LENGTH, VOCAB, Asked, StoppedError, Told, config_of, write_model

if RUNNING:
    import torch

    from model.neox import NeoX


CHOSEN = UNIT_DOCUMENTS + 3
LENGTHS = [1 + number % 4 for number in range(CHOSEN + 2)]
LENGTHS[::9] = [LENGTH - 1, LENGTH, LENGTH + 1, 2 * LENGTH, 2 * LENGTH + 5]
"""Of held-out documents: some have more than a window, one has three; the last ones are not chosen."""
SOURCES = {"wiki.arrow": [LENGTHS], "b": [[LENGTH, 2, 40, 5]]}


@pytest.fixture(scope="module", params=[False, True], ids=["", "attention_reset"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[NeoX, ModelFolder, Version]:
    folder = tmp_path_factory.mktemp("evaluate")
    url = write_corpus(folder, SOURCES, vocab_size=VOCAB, heldout=len(LENGTHS))
    return *write_model(folder, attention_reset=request.param), manifest.open_version(url)


def _config(storage: Path, **sections: Any) -> Config:
    settings = {"max_documents": CHOSEN, "micro_batch_size": 3}
    return config_of(storage, evaluate=settings, **sections)


def _heldout(version: Version, source: str) -> list[list[int]]:
    """The held-out documents of a source that are chosen."""
    (shard,) = [entry for entry in version.shards if (entry.source, entry.split) == (source, "heldout")]
    table = pa.ipc.open_file(version.below_versions(shard.path)).read_all()
    documents: list[list[int]] = table["input_ids"].to_pylist()
    return documents[:CHOSEN]


def _nats(model: NeoX, document: list[int]) -> float:
    """Minus the log-probability of a document, a token at a time, given those before it in its window."""
    nats = 0.0
    for place, token in enumerate(document):
        begin = place - place % LENGTH
        given = [document[begin - 1] if begin else 0, *document[begin:place]]
        with torch.no_grad():
            logits = model(torch.tensor([given]))[0, -1, :VOCAB].double()
        nats -= float(logits.log_softmax(0)[token])
    return nats


def test_losses_equal_a_direct_computation(
    made: tuple[NeoX, ModelFolder, Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder, version = made
    place = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)  # where a store of one's own puts artifacts
    config, told, asked = _config(tmp_path, tracking={"uri": place}), Told(), Asked()
    with tracking.run(tracking.Tracking.of(config), "train", "key", {"training_run": "tiny"}) as trained:
        pass
    result, new = evaluate(config, version, folder, told, executor=asked)
    assert new and told.counts == [(done, 3) for done in range(4)] and asked.calls == [(3, None)]
    table = files.read_parquet(f"{result.url}/documents.parquet")
    totals = np.zeros(3)
    for source in SOURCES:
        mine = table.filter(pa.compute.equal(table["source"], source))
        documents = _heldout(version, source)
        assert mine["tokens"].to_pylist() == [len(document) for document in documents]
        assert mine["bytes"].to_pylist() == [5 * len(document) for document in documents]
        expected = [_nats(model, document) for document in documents]
        assert mine["nats"].to_pylist() == pytest.approx(expected, rel=1e-5)
        tokens, nats, found = sum(map(len, documents)), sum(expected), result.sources[source]
        assert (found.documents, found.tokens, found.bytes) == (len(documents), tokens, 5 * tokens)
        assert found.loss == pytest.approx(nats / tokens, rel=1e-5)
        assert found.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)
        assert found.bits_per_byte == pytest.approx(nats / math.log(2) / (5 * tokens), rel=1e-5)
        totals += [len(documents), tokens, nats]
    assert list(result.sources) == ["b", "wiki.arrow"]
    assert (result.all.documents, result.all.tokens) == (totals[0], totals[1])
    assert result.all.loss == pytest.approx(totals[2] / totals[1], rel=1e-5)
    written = json.loads(Path(result.url, "result.json").read_text())
    assert (
        list(written) == ["sources", "all", "url", "seal"]
        and EvaluationResult.read(f"{result.url}/result.json") == result
    )
    assert Path(result.url, "evaluation.png").read_bytes().startswith(b"\x89PNG")
    run = tracking.find(tracking.Tracking.of(config), "evaluate", corpus=version.hash)
    assert run is not None and run.data.metrics["loss/wiki.arrow"] == result.sources["wiki.arrow"].loss
    assert run.data.metrics["perplexity/all"] == result.all.perplexity
    assert run.data.params == {"micro_batch_size": "3", "max_documents": str(CHOSEN)}
    assert {name: run.data.tags[f"piledriver.{name}"] for name in ("model", "version", "upstream")} == {
        "model": "tiny",
        "version": "v0001",
        "upstream": trained.id,
    }
    artifacts = tracking.client_of(tracking.Tracking.of(config)).list_artifacts(run.info.run_id)
    assert {item.path for item in artifacts} == {"documents.parquet", "evaluation.png", "result.json"}
    assert evaluate(config, version, folder, Told(stop_after=0), executor=asked) == (result, False)
    assert len(asked.calls) == 1


def test_a_killed_evaluation_repeats_no_finished_unit(
    made: tuple[NeoX, ModelFolder, Version], tmp_path: Path
) -> None:
    _, folder, version = made
    config, asked, told = _config(tmp_path / "killed"), Asked(), Told()
    with pytest.raises(StoppedError):
        evaluate(config, version, folder, Told(stop_after=2), executor=asked)
    units = sorted((tmp_path / "killed").rglob("units/*"))
    assert len(units) == 2 and not list((tmp_path / "killed").rglob("result.json"))
    before = [unit.stat().st_mtime_ns for unit in units]
    result, new = evaluate(config, version, folder, told, executor=asked)
    assert new and told.counts == [(2, 3), (3, 3)] and [items for items, _ in asked.calls] == [3, 1]
    assert [unit.stat().st_mtime_ns for unit in units] == before
    whole, _ = evaluate(_config(tmp_path / "whole"), version, folder, Told(), executor=Asked())
    assert (result.sources, result.all) == (whole.sources, whole.all)
    for unit in units:
        assert unit.read_bytes() == next((tmp_path / "whole").rglob(unit.name)).read_bytes()


def test_fewer_documents_are_another_evaluation(
    made: tuple[NeoX, ModelFolder, Version], tmp_path: Path
) -> None:
    _, folder, version = made
    few = config_of(tmp_path, evaluate={"max_documents": 2})
    result, _ = evaluate(few, version, folder, Told(), executor=Asked())
    assert [measures.documents for measures in result.sources.values()] == [2, 2]
    fewer = config_of(tmp_path, evaluate={"max_documents": 1})
    other, new = evaluate(fewer, version, folder, Told(), executor=Asked())
    assert new and other.url != result.url and other.all.documents == 2


def test_other_weights_in_the_same_folder_are_another_evaluation(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, SOURCES, vocab_size=VOCAB, heldout=len(LENGTHS))
    version, (_, folder) = manifest.open_version(url), write_model(tmp_path)
    config = config_of(tmp_path, evaluate={"max_documents": 2})
    first, _ = evaluate(config, version, folder, Told(), executor=Asked())
    weights = tmp_path / "hf" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    other, new = evaluate(config, version, folder, Told(), executor=Asked())
    assert new and other.url != first.url and other.all.loss != first.all.loss


def test_a_version_without_held_out_documents_is_named(
    made: tuple[NeoX, ModelFolder, Version], tmp_path: Path
) -> None:
    version = manifest.open_version(write_corpus(tmp_path, {"a": [[4, 5]]}, vocab_size=VOCAB, heldout=0))
    with pytest.raises(UserError, match="v0001 has no held-out documents; raise shard.heldout_fraction"):
        evaluate(_config(tmp_path), version, made[1], Told(), executor=Asked())


def test_another_corpus_model_or_setting_is_another_evaluation(
    made: tuple[NeoX, ModelFolder, Version], tmp_path: Path
) -> None:
    _, folder, version = made
    other = write_corpus(tmp_path / "other", SOURCES, vocab_size=VOCAB, heldout=len(LENGTHS), seed=3)
    config = _config(tmp_path)
    first, _ = evaluate(config, version, folder, Told(), executor=Asked())
    urls = {first.url}
    for chosen, corpus, model in (
        (config, manifest.open_version(other), folder),
        (config, version, replace(folder, name="huge")),
        (config_of(tmp_path, evaluate={"max_documents": CHOSEN}), version, folder),
    ):
        result, new = evaluate(chosen, corpus, model, Told(), executor=Asked())
        assert new
        urls.add(result.url)
    assert len(urls) == 4
    # The same content is the same model, wherever it lies.
    elsewhere = replace(folder, url=folder.url + "/.")
    assert evaluate(config, version, elsewhere, Told(), executor=Asked()) == (first, False)


def test_the_documents_of_a_source_are_the_first_of_all_its_shards(
    made: tuple[NeoX, ModelFolder, Version], tmp_path: Path
) -> None:
    model, folder, _ = made
    url = Path(write_corpus(tmp_path, {"a": [[9, 4, 7]], "b": [[5, 6]]}, vocab_size=VOCAB, heldout=3))
    content = json.loads(url.read_text())
    (shard,) = [entry for entry in content["shards"] if (entry["source"], entry["split"]) == ("a", "heldout")]
    for number in (1, 2):
        twin = shard["path"].replace("00000", f"0000{number}")
        for kind, suffix in (("shards", "arrow"), ("origins", "parquet")):
            place = url.parents[1] / twin.replace("shards", kind)
            place.with_suffix(f".{suffix}").write_bytes(
                place.with_name("heldout-00000").with_suffix(f".{suffix}").read_bytes()
            )
        content["shards"].append({**shard, "path": twin})
    url.write_text(json.dumps(content))
    remote = fsspec.filesystem("memory")
    remote.put(str(tmp_path / "corpus"), "/evaluated/corpus", recursive=True)
    for place in (str(url), "memory://evaluated/corpus/versions/v0001/manifest.json"):
        version = manifest.open_version(place)
        config = config_of(tmp_path / place[:6], evaluate={"max_documents": 5})
        result, _ = evaluate(config, version, folder, Told(), executor=Asked())
        table = files.read_parquet(f"{result.url}/documents.parquet").to_pylist()
        expected = [9, 4, 7, 9, 4, 5, 6]
        assert sorted(row["tokens"] for row in table) == sorted(expected)
        assert {source: found.documents for source, found in result.sources.items()} == {"a": 5, "b": 2}
        assert result.all.bytes == 5 * sum(expected)


def test_the_picture_and_the_batches_are_those_of_the_settings(
    made: tuple[NeoX, ModelFolder, Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model import score
    from pipelines.runtime import charts

    _, folder, version = made
    drawn, sizes, nats = [], set(), score.document_nats

    def draw(*arguments: Any) -> bytes:
        drawn.append(arguments)
        return b""

    def spy(*arguments: Any) -> Any:
        sizes.add(arguments[-1])
        return nats(*arguments)

    monkeypatch.setattr(charts, "evaluation", draw)
    monkeypatch.setattr(score, "document_nats", spy)
    result, _ = evaluate(_config(tmp_path), version, folder, Told(), executor=Asked())
    density = {name: found.bits_per_byte for name, found in result.sources.items()}
    perplexity = {name: found.perplexity for name, found in result.sources.items()}
    assert drawn == [(density, perplexity, "tiny on v0001")] and sizes == {3}
