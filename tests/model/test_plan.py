from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import UserError
from model.config import ModelConfig, TrainConfig
from model.job import TrainJob
from model.memory import activation_bytes, logits_bytes, memory
from model.parameters import flops_per_token, parameters
from model.plan import plan, workers_for
from model.roofline import GPUS
from pipelines.config import load
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, SOURCES, settings
from tests.helpers.values import known

if RUNNING:
    import torch

    from benchmarks.plan import compare
    from benchmarks.plan import settings as settings_of
    from model.neox import NeoX
    from model.train import train


CONFIGS = Path(__file__).parents[2] / "configs"
NEOX_20B_VOCAB = 50277


@pytest.mark.parametrize(
    ("name", "unique", "neox", "vocab"),
    [("3b", 3_637_321_728, 3_638_525_952, 50_688), ("7b", 7_868_755_968, 7_869_358_080, 50_432)],
)
def test_stablelm_recipes_load_and_count_as_published(name, unique, neox, vocab):
    config = load(str(CONFIGS / f"stablelm-base-alpha-{name}.yaml"))
    counts = parameters(config.model, NEOX_20B_VOCAB)
    assert (counts.unique, counts.neox) == (unique, neox)
    run = plan(config.model, config.train, NEOX_20B_VOCAB)
    assert run.padded_vocab_size == vocab
    assert run.tokens == 180_000 * 2048 * 4096
    assert len(config.mixture) == len(config.sources) == 35
    assert sum(config.mixture.values()) == pytest.approx(100)
    assert set(config.mixture) == {source.name for source in config.sources}
    assert config.train.precision == "fp16" and config.train.zero_stage == 1
    assert config.train.loss_scale.initial_power == 12
    assert config.train.loss_scale.hysteresis == {"3b": 20, "7b": 2}[name]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mlp", [None, 48])
def test_unique_parameters_are_those_of_the_model(tied, bias, mlp):
    config = ModelConfig(tie_embeddings=tied, attention_bias=bias, intermediate_size=mlp, num_layers=2)
    with torch.device("meta"):
        model = NeoX(config, 1000, seed=None)
    counts = parameters(config, 1000)
    assert counts.unique == counts.neox == sum(parameter.numel() for parameter in model.parameters())


def test_flops_equal_those_that_torch_counts():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = ModelConfig(hidden_size=64, num_layers=3, num_heads=4, max_sequence_length=32, vocab_multiple=1)
    model, ids = NeoX(config, 300), torch.zeros(2, 33, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids[:, :-1]).sum().backward()
    assert counter.get_total_flops() == pytest.approx(flops_per_token(config, 300, 32) * 64, rel=1e-9)
    assert flops_per_token(config, 300, 32, recompute=True) > flops_per_token(config, 300, 32)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_activations_kept_are_those_predicted(checkpointing, parallel, name):
    dtype = getattr(torch, name)
    config = ModelConfig(num_layers=6, hidden_size=128, num_heads=4, parallel_residual=parallel)
    model = NeoX(config, 300, activation_checkpointing=checkpointing).to(dtype)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.hidden_states(torch.zeros(4, 128, dtype=torch.int64)).square()
    predicted = activation_bytes(config, 4, 128, dtype.itemsize, checkpointing)
    assert sum(kept.values()) == pytest.approx(predicted, rel=0.05)


def test_memory_shrinks_with_the_zero_stage_and_the_workers():
    config, train = ModelConfig(), TrainConfig(precision="fp16")
    count = parameters(config, 1000).unique
    totals = []
    for stage, expected in enumerate([(2, 12), (2, 3), (2, 3), (0.5, 3)]):
        found = memory(config, train.model_copy(update={"zero_stage": stage}), 1000, workers=4)
        parts = (found.weights, found.optimizer)
        assert parts == tuple(int(count * bytes_each) for bytes_each in expected)
        assert found.forward >= sum(parts) + found.activations + found.logits
        assert found.total == max(found.forward, found.backward, found.update)
        totals.append(found.total)
    assert totals[1] < totals[0] and totals[3] < totals[0]
    offloaded = memory(config, train.model_copy(update={"offload_optimizer": True}), 1000, workers=4)
    assert (offloaded.optimizer, offloaded.host) == (0, 3 * count)
    full = memory(config, TrainConfig(precision="fp32", zero_stage=0), 1000)
    assert (full.weights, full.optimizer) == (4 * count, 8 * count)
    bucket = {"zero_optimization": {"reduce_bucket_size": count // 4}}
    less = memory(config, train.model_copy(update={"deepspeed": bucket}), 1000, workers=4)
    assert less.gradients < memory(config, train, 1000, workers=4).gradients


RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "plan.json"


def test_memory_is_what_recorded_steps_allocated():
    cases = json.loads(RECORDED.read_text())["cases"]
    assert len(cases) > 30
    for case in cases:
        found = memory(*settings_of(case), cuda=False)
        assert found.total / 2**20 == pytest.approx(case["measured_mib"]["peak"], rel=0.01), case
        for moment, planned in case["planned_mib"].items():  # as it was when the steps were measured
            assert getattr(found, moment) / 2**20 == pytest.approx(planned, abs=0.06), (case, moment)


def test_the_loss_needs_what_recorded_losses_allocated():
    for line in json.loads(RECORDED.read_text())["cross_entropy"]:
        config = ModelConfig(hidden_size=line["hidden_size"], num_heads=4, vocab_multiple=1)
        width = {"fp32": 4, "bf16": 2}[line["precision"]]
        sizes = {"positions": line["positions"], "chunk": line["chunk"], "bytes_per_value": width}
        planned = logits_bytes(config, line["vocabulary"], **sizes, cuda=False) / 2**20
        assert planned == pytest.approx(line["chunked_mib"], rel=0.03), line


def test_what_a_gpu_needs_by_hand():
    config = ModelConfig(hidden_size=64, num_layers=2, num_heads=4, max_sequence_length=32, vocab_multiple=1)
    count = 2 * (4 * 64 + 4 * 64 * 64 + 4 * 64 + 2 * 64 * 256 + 256 + 64) + 2 * 64 + 2 * 100 * 64
    assert parameters(config, 100).unique == count
    train = TrainConfig(
        precision="fp16", zero_stage=1, micro_batch_size=2, global_batch_size=2, loss_chunk=16
    )
    found = memory(config, train, 100, workers=1)
    positions = 2 * 32
    layer = positions * ((3 * 64 + 6 * 64 + 2 * 256) * 2 + 4 * (4 + 4))
    assert found.activations == 2 * layer + positions * (2 * 64 * 2 + 8)
    embedding, states = 100 * 64, positions * 64 * 2
    chunk = 16 * 100 * 2
    most = max(chunk + 4 * 16 * 100, chunk + embedding * 2, states + embedding * 2)
    assert found.logits == states + 4 * embedding + most
    assert (found.weights, found.optimizer, found.host) == (2 * count, 12 * count, 0)
    assert found.forward == 14 * count + found.activations + found.logits
    assert found.gradients == 2 * (2 * count) + 2 * count  # two buckets, and a copy of what they reduce
    assert found.update == 14 * count + 2 * count + 4 * count
    reset = memory(config.model_copy(update={"attention_reset": True}), train, 100, workers=1)
    assert reset.activations == found.activations + positions * 32
    split = memory(config, train.model_copy(update={"tensor_parallel": 2}), 100, workers=2)
    halved = 2 * (4 * 64 * 64 + 3 * 64 + 2 * 64 * 256 + 256)
    assert split.weights == 2 * (count - halved + halved // 2)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_memory_is_what_a_step_allocates(stage):
    case = {"shape": "large batch", "zero_stage": stage, "activation_checkpointing": stage == 2}
    case |= {"passes": 1 + stage % 2, "workers": 1, "precision": "fp32" if stage == 1 else "bf16"}
    found = compare(case)
    assert found["planned_over_measured"] == pytest.approx(1, abs=0.05)


def test_chunked_logits_need_less_than_all_at_once():
    config = ModelConfig(hidden_size=4096, num_heads=32, max_sequence_length=4096)
    chunked = logits_bytes(config, NEOX_20B_VOCAB, positions=8 * 4096, chunk=1024, bytes_per_value=2)
    whole = logits_bytes(config, NEOX_20B_VOCAB, positions=8 * 4096, chunk=8 * 4096, bytes_per_value=2)
    assert chunked < whole / 4


def test_time_and_cost_follow_from_rate_and_price():
    config, train = ModelConfig(), TrainConfig(steps=1000)
    gpu = replace(GPUS["h200"], tflops=100)
    run = plan(config, train, 1000, workers=2, mfu=0.5, gpu=gpu, price_per_hour=3)
    assert run.tokens_per_second == pytest.approx(2 * 100e12 * 0.5 / run.flops_per_token)
    assert run.days * 86400 == pytest.approx(run.tokens / run.tokens_per_second)
    assert run.cost == pytest.approx(run.days * 24 * 2 * 3)
    assert plan(config, train, 1000, mfu=1.0, price_per_hour=0.0).cost == 0
    assert run.tokens_per_step == 16 * 256 and run.tokens == 1000 * 16 * 256
    assert run.total_flops == pytest.approx(run.flops_per_token * run.tokens)
    assert plan(config, train, 1000, mfu=0.5).workers == 1
    again = train.model_copy(update={"activation_checkpointing": True})
    layers = 2 * (4 * 192**2 + 2 * 192 * 768) + 4 * 192 * 256
    assert plan(config, again, 1000, mfu=0.5).recomputation == pytest.approx(
        1 + 4 * layers / run.flops_per_token
    )
    assert run.recomputation == 1
    found = plan(config, again, 1000, mfu=0.5)
    assert (found.memory.activations, run.memory.activations) == (
        found.activations_recomputed,
        found.activations_kept,
    )
    assert run.step_seconds * train.steps == pytest.approx(run.days * 86400)
    assert run.step is None
    assert replace(run, cost=None) == plan(config, train, 1000, workers=2, mfu=0.5, gpu=gpu)


def test_the_fewest_workers_for_a_number_of_days():
    train = TrainConfig(steps=10**6, global_batch_size=48, micro_batch_size=4)
    config = ModelConfig()
    one = plan(config, train, 1000, workers=1, mfu=0.5).days
    assert workers_for(config, train, 1000, one, mfu=0.5) == 1
    assert workers_for(config, train, 1000, one / 2.5, mfu=0.5) == 3
    assert workers_for(config, train, 1000, one / 5, mfu=0.5) == 6  # 48 / 4 passes do not divide among 5
    with pytest.raises(UserError, match="12 workers, the most for train.global_batch_size = 48 and"):
        workers_for(config, train, 1000, one / 13, mfu=0.5)


def test_a_warm_up_of_the_batch_counts_in_tokens_and_workers():
    warmup = {"start": 8, "increment": 8, "steps": 5}
    train = TrainConfig(steps=20, global_batch_size=48, micro_batch_size=4, batch_warmup=warmup)
    config = ModelConfig(max_sequence_length=32)
    same: dict[str, Any] = {"mfu": 0.5}
    found = plan(config, train, 1000, **same)
    assert found.tokens == (8 + 16 + 24 + 32 + 40 + 15 * 48) * 32
    assert found.tokens / found.tokens_per_second == pytest.approx(found.days * 86400)
    assert workers_for(config, train, 1000, found.days / 1.5, **same) == 2
    with pytest.raises(UserError, match="2 workers, the most for .* = 48, batch_warmup and micro_batch_size"):
        workers_for(config, train, 1000, found.days / 3, **same)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers 0 must be at least 1"),
        ({"workers": -8}, "workers -8 must be at least 1"),
        ({"workers": 48}, "global_batch_size 64 must be a multiple of .* = 4 × 48 = 192"),
        ({"mfu": 45.0}, "mfu 45 must be above 0 and at most 1"),
        ({"mfu": 0.0}, "mfu 0 must be above 0 and at most 1"),
        ({"price_per_hour": -1.0}, "price -1 must be 0 or more"),
    ],
)
def test_values_that_make_no_sense_are_named(arguments, message):
    train = TrainConfig(global_batch_size=64, micro_batch_size=4)
    with pytest.raises(UserError, match=message):
        plan(ModelConfig(), train, 1000, **arguments)
    with pytest.raises(UserError, match="workers 1 must be a multiple of tensor_par"):
        plan(ModelConfig(), TrainConfig(tensor_parallel=2, workers=2), 1000, workers=1)
    with pytest.raises(UserError, match="days 0 must be above 0"):
        workers_for(ModelConfig(), train, 1000, 0)


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        (0, "fp32"),
        (3, "bf16"),
        pytest.param(0, "bf16", marks=pytest.mark.slow),
        pytest.param(1, "fp32", marks=pytest.mark.slow),
    ],
)
def test_checkpoints_have_the_size_that_is_planned(stage, precision, tmp_path):
    manifest = write_corpus(tmp_path, SOURCES)
    changes = {"steps": 2, "zero_stage": stage, "precision": precision}
    wide = MODEL.model_copy(update={"hidden_size": 256})
    job = TrainJob(wide, settings(**changes), manifest, str(tmp_path / "run"))
    folder = Path(known(known(train(job)).checkpoint_url))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size == pytest.approx(plan(wide, job.train, 128).checkpoint_bytes, rel=0.03)
