from __future__ import annotations

import numpy as np
import pytest

from base.errors import UserError
from model.config import ModelConfig
from tests.helpers.late import RUNNING

if RUNNING:
    import torch

    from model.generate import generate
    from model.neox import NeoX


VOCAB = 120
PROMPTS = [[5, 6, 7], [9], list(range(10, 31)), [44, 45], [1, 2, 3, 4, 5, 6, 7, 8]]


@pytest.fixture(scope="module")
def model() -> NeoX:
    config = ModelConfig(hidden_size=64, num_layers=2, num_heads=4, max_sequence_length=64)
    made = NeoX(config, VOCAB)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.15, generator=generator)
    with torch.no_grad():
        made.embed_out.weight[VOCAB:] = 10 * made.embed_out.weight[: made.padded_vocab_size - VOCAB]
    return made


def test_greedy_equals_the_most_probable_token_without_a_cache(model):
    for prompt, produced in zip(PROMPTS, generate(model, PROMPTS, 12), strict=True):
        row = list(prompt)
        for _ in range(12):
            with torch.no_grad():
                row.append(int(model(torch.tensor([row]))[0, -1, :VOCAB].argmax()))
        assert produced == row[len(prompt) :]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "top_p": 0.9}])
def test_a_row_does_not_depend_on_its_batch(model, options):
    seeds = [11, 12, 13, 14, 15]
    together = generate(model, PROMPTS, 16, seeds=seeds, end_id=3, **options)
    alone = [
        generate(model, [prompt], 16, seeds=[seed], end_id=3, **options)[0]
        for prompt, seed in zip(PROMPTS, seeds, strict=True)
    ]
    assert together == alone
    backwards = generate(model, PROMPTS[::-1], 16, seeds=seeds[::-1], end_id=3, **options)
    assert backwards[::-1] == together


def test_seeds_decide_and_shorter_runs_are_prefixes(model):
    prompts = [[5, 6, 7]] * 3
    first = generate(model, prompts, 20, temperature=1.0, seeds=[1, 1, 2])
    assert first[0] == first[1] != first[2]
    assert generate(model, prompts, 7, temperature=1.0, seeds=[1, 1, 2]) == [row[:7] for row in first]


def test_sampling_follows_the_truncated_distribution(model):
    count = 4000
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7]]))[0, -1, :VOCAB].double()
    probabilities = (logits / 0.7).softmax(0).numpy()
    order = np.argsort(-probabilities)
    kept = order[: int(np.searchsorted(probabilities[order].cumsum(), 0.8)) + 1]
    expected = np.zeros(VOCAB)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    drawn = generate(model, [[5, 6, 7]] * count, 1, temperature=0.7, top_p=0.8, seeds=range(count))
    found = np.bincount([row[0] for row in drawn], minlength=VOCAB) / count
    assert set(np.flatnonzero(found)) <= set(kept)
    assert np.abs(found - expected).max() < 4 * 0.5 / count**0.5


def test_rows_end_before_the_end_token(model):
    free = generate(model, PROMPTS, 12)
    end = free[0][4]
    for plain, ended in zip(free, generate(model, PROMPTS, 12, end_id=end), strict=True):
        assert ended == (plain[: plain.index(end)] if end in plain else plain)


def test_prompts_that_cannot_be_continued_are_named(model):
    assert generate(model, [], 5) == []
    with pytest.raises(UserError, match="prompt 1 is empty"):
        generate(model, [[1], []], 5)
    with pytest.raises(UserError, match="prompt 0 has 60 tokens; with 5 new ones"):
        generate(model, [[1] * 60], 5)
    assert len(generate(model, [[1] * 59], 5)[0]) == 5
    for seeds in (None, [1, 2]):
        with pytest.raises(ValueError, match="one seed per prompt"):
            generate(model, [[1]], 5, temperature=1.0, seeds=seeds)
    assert generate(model, [[1], [2]], 0) == [[], []]
