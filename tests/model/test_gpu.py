"""What only a GPU shows: fused optimizer, half-precision kernels, torch.compile there, copies to the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model import journal
from model.config import ModelConfig
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import ROOT, SOURCES, run_here

if RUNNING:
    import torch

    from model import checkpoint, restore
    from model.loss import IGNORE, chunked_cross_entropy
    from model.neox import NeoX


pytestmark = pytest.mark.usefixtures("gpu")

BOUNDS = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}
"""How far a curve may be from that of float32 on a CPU."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"), SOURCES)


@pytest.fixture(scope="module")
def expected(manifest: str, tmp_path_factory: pytest.TempPathFactory) -> list[float | None]:
    """The curve of a CPU, in a process that sees no GPU."""
    run = tmp_path_factory.mktemp("cpu") / "run"
    code = f"from tests.helpers.training import run_here; run_here({manifest!r}, {str(run)!r})"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
    return _losses(run)


def _losses(run_url: object) -> list[float | None]:
    return [line.loss for line in journal.read(str(run_url))]


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_curves_are_those_of_a_cpu(
    precision: str, compile: bool, manifest: str, expected: list[float | None], tmp_path: Path
) -> None:
    run_here(manifest, str(tmp_path / "run"), precision=precision, compile=compile)
    assert _losses(tmp_path / "run") == pytest.approx(expected, abs=BOUNDS[precision])


@pytest.mark.parametrize(
    "changes",
    [
        {"zero_stage": 0},
        {"zero_stage": 2},
        {"zero_stage": 3},
        {"zero_stage": 2, "offload_optimizer": True},
        {"activation_checkpointing": True, "compile": True},
    ],
)
def test_every_way_to_train_in_fp16_gives_the_curve(
    changes: dict[str, Any], manifest: str, expected: list[float], tmp_path: Path
) -> None:
    run_here(manifest, str(tmp_path / "run"), precision="fp16", **changes)
    assert _losses(tmp_path / "run") == pytest.approx(expected, abs=BOUNDS["fp16"])


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_checkpoint_holds_the_state_and_training_goes_on_from_it(
    asynchronous: bool, manifest: str, tmp_path: Path
) -> None:
    run: dict[str, Any] = {"precision": "fp16", "optimizer": {"learning_rate": 1e-2, "schedule": "constant"}}
    run["checkpoint"] = {"every": 2, "asynchronous": asynchronous, "keep_last": 9}
    whole = run_here(manifest, str(tmp_path / "whole"), **run)
    run_here(manifest, str(tmp_path / "parts"), **run, steps=4)
    parts = run_here(manifest, str(tmp_path / "parts"), **run)
    assert parts.resumed_from == 4
    assert _losses(tmp_path / "parts") == pytest.approx(_losses(tmp_path / "whole"), abs=1e-3)
    states = [restore.consolidated_state(checkpoint.folder(whole.run_url, step)) for step in (2, 4, 6, 8)]
    name = "layers.0.mlp.dense_h_to_4h.weight"
    assert all(not torch.equal(a[name], b[name]) for a, b in zip(states, states[1:], strict=False))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("compile", [False, True])
def test_the_loss_and_its_gradients_are_those_of_float64(name: str, compile: bool) -> None:
    dtype = getattr(torch, name)
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(700, 256, generator=generator, device="cuda").to(dtype).requires_grad_()
    weight = (torch.randn(1024, 256, generator=generator, device="cuda") / 16).to(dtype).requires_grad_()
    targets = torch.randint(0, 1000, (700,), generator=generator, device="cuda")
    targets[::7] = IGNORE
    loss = chunked_cross_entropy(hidden, weight, targets, 1000, 256, compile)
    found = torch.autograd.grad(4096 * loss, (hidden, weight))
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    logits = (exact[0] @ exact[1].t())[:, :1000]
    reference = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE)
    wanted = torch.autograd.grad(4096 * reference, exact)
    assert loss.item() == pytest.approx(reference.item(), abs=2e-3)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ((ours.double() - theirs).norm() / theirs.norm()).item() < 8 * torch.finfo(dtype).eps
    assert (found[1][1000:] == 0).all() and (found[0][::7] == 0).all()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_logits_are_those_of_float32_on_a_cpu(reset: bool, name: str) -> None:
    dtype = getattr(torch, name)
    settings = ModelConfig(
        hidden_size=256, num_layers=3, num_heads=2, max_sequence_length=256, attention_reset=reset
    )
    model = NeoX(settings, 300, end_of_document_id=0)
    ids = torch.randint(0, 300, (2, 256), generator=torch.Generator().manual_seed(0))
    ids[:, ::50] = 0
    wanted = model(ids).double()
    found = model.to("cuda", dtype)(ids.cuda()).double().cpu()
    assert ((found - wanted).norm() / wanted.norm()).item() < 8 * torch.finfo(dtype).eps
