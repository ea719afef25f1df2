import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from model import journal
from model.corpus import Corpus
from model.job import TrainJob
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, SOURCES, run_here, settings
from tests.helpers.values import known

if RUNNING:
    import torch

    from model.generate import generate
    from model.neox import NeoX
    from model.samples import sampler


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """A corpus of 128 tokens with a tokenizer whose tokens are their numbers."""
    url = Path(write_corpus(tmp_path, SOURCES))
    tokenizer = Tokenizer(models.WordLevel({str(number): number for number in range(128)}, unk_token="0"))
    tokenizer.save(str(url.with_name("tokenizer.json")))
    content = json.loads(url.read_text())
    content["tokenizer"] |= {"file": "tokenizer.json", "end_of_document": "0"}
    url.write_text(json.dumps(content))
    return str(url)


def test_samples_change_no_loss_and_stand_in_the_journal(manifest: str, tmp_path: Path) -> None:
    same: dict[str, Any] = {"evaluate_batches": 1, "evaluate_every": 2, "steps": 4}
    run_here(manifest, str(tmp_path / "with"), **same)
    run_here(manifest, str(tmp_path / "without"), **same, samples={"tokens": 0})
    lines, others = (journal.read(str(tmp_path / name)) for name in ("with", "without"))
    assert [line.loss for line in lines] == [line.loss for line in others]
    assert [line.step for line in lines if line.texts is not None] == [2, 4]
    assert not any(line.texts is not None for line in others)
    samples = known(lines[-1].texts)
    assert [len(sample.prompt.split()) for sample in samples] == [16, 16]  # one a source
    assert all(0 < len(sample.text.split()) <= 16 for sample in samples)  # half of 32 positions
    assert [sample.prompt for sample in known(lines[1].texts)] == [sample.prompt for sample in samples]


def test_prompts_of_the_configuration_are_continued(manifest: str) -> None:
    corpus = Corpus.open(manifest)
    job = TrainJob(MODEL, settings(evaluate_batches=1, samples={"prompts": ["7"], "tokens": 5}), manifest, "")
    found = sampler(job, corpus)
    assert found is not None
    before = torch.random.get_rng_state()
    model = NeoX(MODEL, 128)
    (first,), (second,) = found.sample(model), found.sample(model)
    assert first == second and first.prompt == "7" and 0 < len(first.text.split()) <= 5
    assert torch.equal(before, torch.random.get_rng_state())


def _texts(rows: list[list[int]]) -> list[str]:
    return [" ".join(f"w{token}" for token in row) for row in rows]


@pytest.mark.parametrize("prompts", [[], ["w7", " ".join(f"w{token}" for token in range(1, 41))]])
def test_a_sample_is_drawn_with_a_seed_of_its_own_as_generate_draws(
    tmp_path: Path, prompts: list[str]
) -> None:
    url = write_corpus(tmp_path, {name: [[20 + place]] for place, name in enumerate("abcdef")})
    corpus = Corpus.open(url)
    train = settings(evaluate_batches=1, seed=77, samples={"prompts": prompts, "tokens": 12})
    given = sampler(TrainJob(MODEL, train, url, ""), corpus)
    assert given is not None
    if prompts:  # cut at the left, so that 12 tokens fit into 32 positions
        wanted = [[7], list(range(21, 41))]
    else:  # 16 tokens of the first held-out document of four sources
        wanted = [corpus.heldout(source).input_ids[:16].tolist() for source in "abcd"]
    model = NeoX(MODEL, 128)
    with torch.no_grad():
        model.embed_out.weight.mul_(8)
    seeds = [77 + row for row in range(len(wanted))]
    drawn = generate(model, wanted, 12, temperature=0.8, top_p=0.95, seeds=seeds, end_id=0)
    found = given.sample(model)
    assert [sample.prompt for sample in found] == _texts(wanted)
    assert [sample.text for sample in found] == _texts(drawn)


def test_no_more_tokens_than_half_of_the_positions(manifest: str) -> None:
    corpus = Corpus.open(manifest)
    job = TrainJob(
        MODEL, settings(evaluate_batches=1, samples={"prompts": ["7"], "tokens": 99}), manifest, ""
    )
    found = sampler(job, corpus)
    assert found is not None and found.tokens == 16
    for changes in ({"evaluate_batches": 0}, {"evaluate_batches": 1, "samples": {"tokens": 0}}):
        assert sampler(TrainJob(MODEL, settings(**changes), manifest, ""), corpus) is None
    split = settings(evaluate_batches=1, tensor_parallel=2, workers=2)
    assert sampler(TrainJob(MODEL, split, manifest, ""), corpus) is None


def test_no_samples_with_a_message(manifest: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = Corpus.open(manifest)
    divided = TrainJob(MODEL, settings(evaluate_batches=1, zero_stage=3), manifest, "")
    with caplog.at_level(logging.WARNING):
        assert sampler(divided, corpus) is None
    assert "among the workers" in caplog.text
    bare = write_corpus(tmp_path / "bare", SOURCES)
    Path(bare).with_name("tokenizer.json").unlink()
    assert sampler(TrainJob(MODEL, settings(evaluate_batches=1), bare, ""), Corpus.open(bare)) is None
    assert "tokenizer.json does not exist" in caplog.text
