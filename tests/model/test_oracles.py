"""Training and sampling against other ways to compute the same, written as plainly as can be."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import journal
from model.corpus import Corpus
from model.loader import Loader
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, SOURCES, run_here, settings

if RUNNING:
    import torch

    from model.generate import generate
    from model.neox import NeoX


STEPS = 6
USUAL: dict[str, Any] = {
    "learning_rate": 1e-2,
    "min_learning_rate": 1e-3,
    "warmup_steps": 2,
    "betas": (0.9, 0.95),
    "epsilon": 1e-8,
    "weight_decay": 0.1,
    "gradient_clipping": 0.3,
}
OTHERS: list[dict[str, Any]] = [
    {},
    {"gradient_clipping": 0},
    {"betas": (0.5, 0.95)},
    {"betas": (0.9, 0.5)},
    {"weight_decay": 3.0},
    {"epsilon": 1e-2},
    {"warmup_steps": 4},
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"), SOURCES)


def _rate(given: dict[str, Any], step: int) -> float:
    warmup, high, low = given["warmup_steps"], given["learning_rate"], given["min_learning_rate"]
    if step < warmup:
        return float(high * (step + 1) / warmup)
    return float(low + (high - low) * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))) / 2)


def _plain(manifest: str, given: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of torch's own AdamW, on whole batches and all logits at once."""
    torch.set_num_threads(1)
    seed = settings().seed
    loader = Loader(Corpus.open(manifest), MODEL.max_sequence_length, seed=seed)
    model = NeoX(MODEL, 128, seed=seed)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": given["weight_decay"]}]
    groups.append({"params": vectors, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, betas=given["betas"], eps=given["epsilon"])
    losses, norms = [], []
    for step in range(STEPS):
        rows = torch.from_numpy(loader.batch(8 * step, 8))
        logits = model(rows[:, :-1])[..., :128]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        most = given["gradient_clipping"] or math.inf
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), most)))
        for group in optimizer.param_groups:
            group["lr"] = _rate(given, step)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, norms


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_the_loop_is_plain_adamw_with_clipping_and_schedule(
    manifest: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    given = {**USUAL, **changes}
    losses, norms = _plain(manifest, given)
    run_here(manifest, str(tmp_path / "run"), steps=STEPS, zero_stage=1, optimizer=given)
    records = journal.read(str(tmp_path / "run"))
    assert [record.loss for record in records] == pytest.approx(losses, abs=1e-5)
    assert [record.gradient_norm for record in records] == pytest.approx(norms, rel=1e-3)
    assert [record.learning_rate for record in records] == pytest.approx(
        [_rate(given, step) for step in range(STEPS)]
    )
    if changes:  # each setting has its effect, far above that bound
        usual, _ = _plain(manifest, USUAL)
        assert max(abs(a - b) for a, b in zip(losses, usual, strict=True)) > 1e-3


def _draw(probabilities: np.ndarray, top_p: float, uniform: float) -> int:
    """The most probable tokens up to the one that reaches top_p, and the one of them that `uniform` hits."""
    kept: list[int] = []
    for token in sorted(range(len(probabilities)), key=lambda token: -probabilities[token]):
        kept.append(token)
        if sum(probabilities[kept]) >= top_p:
            break
    place = uniform * sum(probabilities[kept])
    for token in kept:
        place -= probabilities[token]
        if place < 0:
            return token
    return kept[-1]


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_a_nucleus_holds_the_token_that_reaches_top_p(top_p: float) -> None:
    model = NeoX(MODEL, 120)
    with torch.no_grad():
        model.embed_out.weight.mul_(8)
        logits = model(torch.tensor([[5, 6, 7]]))[0, -1, :120].double()
    probabilities = (logits / 0.7).softmax(0).numpy()
    seeds = range(400)
    drawn = generate(model, [[5, 6, 7]] * len(seeds), 1, temperature=0.7, top_p=top_p, seeds=seeds)
    expected = [_draw(probabilities, top_p, np.random.default_rng(seed).random()) for seed in seeds]
    assert [row[0] for row in drawn] == expected
    reached, several = np.sort(probabilities)[::-1].cumsum(), len(set(expected))
    assert several == 1 if reached[0] >= top_p else several > 1
