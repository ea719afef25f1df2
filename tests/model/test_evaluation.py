"""Held-out losses against logits and sums by hand, whole and shared among ranks."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.corpus import Corpus
from model.job import TrainJob
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, settings

if RUNNING:
    import torch

    from model import evaluation, ranks
    from model.neox import NeoX


LENGTH = MODEL.max_sequence_length
LENGTHS = {"a": [70, 40, 5], "b": [33], "c": [30]}
"""Of held-out documents: more than three windows, exactly one, less than one."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    sources = {source: [lengths] for source, lengths in LENGTHS.items()}
    return write_corpus(tmp_path_factory.mktemp("corpus"), sources, heldout=3)


@pytest.fixture(scope="module")
def model() -> NeoX:
    made = NeoX(MODEL, 128)
    with torch.no_grad():
        made.embed_out.weight.mul_(5)
    return made


def _nats(model: NeoX, manifest: str, source: str, rows: int) -> tuple[float, int]:
    """Sum and number of the losses of a source's first windows, each token after the first predicted once."""
    path = Path(manifest).parent / f"shards/{source}/heldout-00000.arrow"
    documents = pa.ipc.open_file(path).read_all()["input_ids"].to_pylist()
    stream = [token for document in documents for token in document][: rows * LENGTH + 1]
    nats = 0.0
    for start in range(0, len(stream) - 1, LENGTH):
        window = torch.tensor([stream[start : start + LENGTH + 1]])
        with torch.no_grad():
            logits = model(window[:, :-1])[0, :, :128].double()
        nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
    return nats, len(stream) - 1


def _evaluate(
    model: NeoX, manifest: str, *, share: int = 0, shares: int = 1, **train: Any
) -> dict[str, dict[str, float]]:
    job = TrainJob(MODEL, settings(**train), manifest, "unused")
    engine = SimpleNamespace(module=model, device="cpu")
    return evaluation.evaluate(engine, job, Corpus.open(manifest), share=share, shares=shares)


@pytest.mark.parametrize("batches", [1, 2, 50])
def test_losses_are_the_means_over_the_first_windows(model: NeoX, manifest: str, batches: int) -> None:
    found = _evaluate(model, manifest, evaluate_batches=batches, micro_batch_size=2)
    assert set(found) == set(LENGTHS)
    for source, lengths in LENGTHS.items():
        nats, count = _nats(model, manifest, source, 2 * batches)
        assert found[source]["loss"] == pytest.approx(nats / count, rel=1e-5)
        bits = found[source]["loss"] * sum(lengths) / (1000 * math.log(2))
        assert found[source]["bits_per_byte"] == pytest.approx(bits)


def test_ranks_share_the_windows(model: NeoX, manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[np.ndarray] = []

    def total(values: torch.Tensor, device: Any) -> torch.Tensor:
        told.append(values.numpy().copy())
        return values

    monkeypatch.setattr(ranks, "total", total)
    for share in (0, 1):
        _evaluate(model, manifest, share=share, shares=2, evaluate_batches=2, micro_batch_size=1)
    sums = [values for values in told if len(values) == 2]
    for number, source in enumerate(LENGTHS):
        one, other = sums[number], sums[number + len(LENGTHS)]
        assert one + other == pytest.approx(np.array(_nats(model, manifest, source, 2)), rel=1e-5)
        assert source != "a" or (one[1] == other[1] == LENGTH)


def test_a_source_that_another_rank_could_not_read_is_left_out(
    model: NeoX, manifest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "total", lambda values, device: values + (len(values) == 1))
    assert _evaluate(model, manifest, evaluate_batches=1) == {}


def test_without_the_bytes_of_the_text_there_are_no_bits_per_byte(model: NeoX, tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, {"a": [[70]]}, heldout_text_bytes=0)
    assert set(_evaluate(model, manifest, evaluate_batches=1)["a"]) == {"loss"}
