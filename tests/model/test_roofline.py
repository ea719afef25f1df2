import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config import ModelConfig, TrainConfig
from model.parameters import flops_per_token, owned_parameters
from model.plan import plan
from model.roofline import (
    ATTENTION_SHARE,
    BANDWIDTH_SHARE,
    EAGER,
    GPUS,
    MATRIX_SHARE,
    UPDATE_SHARE,
    Step,
    step,
)

MODEL = ModelConfig(hidden_size=4096, num_layers=16, num_heads=32, max_sequence_length=4096)
VOCAB = 50277
GPU = GPUS["h200"]


def predict(gpus: int = 1, model: ModelConfig = MODEL, gpu=GPU, **settings) -> Step:
    train = TrainConfig(**{"global_batch_size": 64, "micro_batch_size": 4, "precision": "bf16", **settings})
    owned = owned_parameters(model, VOCAB, train.tensor_parallel)
    return step(model, train, model.padded_vocab_size(VOCAB), owned, gpus, gpu)


def test_a_step_of_one_gpu_by_hand():
    found = predict(activation_checkpointing=False)
    tokens = 64 * 4096
    all_flops = flops_per_token(MODEL, VOCAB, 4096) * tokens
    causal = 3 * 16 * 2 * 4096 * 4096 * tokens
    assert found.attention == pytest.approx(causal / (989e12 * ATTENTION_SHARE))
    assert found.matrices == pytest.approx((all_flops - 2 * causal) / (989e12 * MATRIX_SHARE))
    layers = 16 * 3 * 23 * 4096 * 2
    loss = MODEL.padded_vocab_size(VOCAB) * 22
    assert found.elementwise == pytest.approx(EAGER * tokens * (layers + loss) / (4.8e12 * BANDWIDTH_SHARE))
    assert found.communication == 0


@pytest.mark.parametrize("layers", [4, 16])
def test_steps_measured_on_an_h200_are_given(layers):
    record = Path(__file__).parents[2] / "benchmarks" / "results" / f"train_recipe_{layers}.json"
    content = json.loads(record.read_text())
    measured = next(row for row in content["fp16"]["cases"] if row["case"] == "piledriver:8:compile")
    model = ModelConfig.model_validate(content["shape"]["model"])
    settings: dict[str, Any] = {
        "global_batch_size": 8,
        "micro_batch_size": 8,
        "precision": "fp16",
        "compile": True,
    }
    seconds = predict(model=model, **settings).total
    assert seconds == pytest.approx(8 * 4096 / measured["tokens_per_second"], rel=0.01)


def test_communication_by_hand():
    hidden, layers, tokens, width = 4096, 16, 64 * 4096, 2
    link, across = 450e9 * BANDWIDTH_SHARE, 50e9 * BANDWIDTH_SHARE
    split = predict(2, workers=2, tensor_parallel=2)
    owned = owned_parameters(MODEL, VOCAB, 2)
    reduced_sums = 2 * 2 * (1 / 2) * tokens * layers * hidden * width / link
    assert split.communication == pytest.approx(reduced_sums)
    again = predict(2, workers=2, tensor_parallel=2, activation_checkpointing=True)
    assert again.communication == pytest.approx(1.5 * reduced_sums)
    wide = predict(16, workers=16, tensor_parallel=16)
    assert wide.communication == pytest.approx(2 * 2 * (15 / 16) * tokens * layers * hidden * width / across)
    # What a data-parallel step sends once: of 8 replicas within a machine, of 16 between two.
    owned = owned_parameters(MODEL, VOCAB, 1)
    once, far = owned * width * (7 / 8) / link, owned * width * (15 / 16) / across
    assert predict(8, zero_stage=1).communication == pytest.approx(once)
    found = predict(16, zero_stage=1)
    behind = (found.matrices + found.attention) * 2 / 3
    assert found.communication == pytest.approx(far + max(0.0, far - behind))
    slow = replace(GPU, network_gigabytes_per_second=1)
    far *= 50
    for stage, reduced, gathered in ((0, 1, 1), (1, 1, 1), (2, 4, 1)):
        found = predict(16, gpu=slow, zero_stage=stage, micro_batch_size=1)
        behind = (found.matrices + found.attention) * 2 / 3
        assert found.communication == pytest.approx(reduced * far - behind + gathered * far), stage
    found = predict(16, gpu=slow, zero_stage=3, micro_batch_size=1)
    behind = found.matrices + found.attention
    assert found.communication == pytest.approx(4 * far + 2 * 4 * far - behind)


def test_parts_of_a_step_by_setting():
    plain, count = predict(zero_stage=0), owned_parameters(MODEL, VOCAB, 1)
    assert plain.optimizer == pytest.approx(count * (10 * 2 + 4 + 8 + 28 + 2) / (4.8e12 * UPDATE_SHARE))
    assert predict(8, zero_stage=1).optimizer == pytest.approx(plain.optimizer / 8)
    fused = predict(compile=True)
    assert fused.elementwise * EAGER == pytest.approx(plain.elementwise)
    assert predict(8).elementwise == pytest.approx(plain.elementwise / 8)
    assert plain.total == sum(
        (plain.matrices, plain.attention, plain.elementwise, plain.optimizer, plain.communication)
    )
    again = predict(activation_checkpointing=True)
    assert again.attention == pytest.approx(plain.attention * 4 / 3)
    output = 64 * 4096 * 3 * 2 * 4096 * MODEL.padded_vocab_size(VOCAB) / (989e12 * MATRIX_SHARE)
    assert again.matrices - output == pytest.approx((plain.matrices - output) * 4 / 3)
    single = predict(precision="fp32")
    assert single.attention == pytest.approx(2 * plain.attention)
    loss = 64 * 4096 * MODEL.padded_vocab_size(VOCAB) * EAGER / (4.8e12 * BANDWIDTH_SHARE)
    assert single.elementwise - loss * 28 == pytest.approx(2 * (plain.elementwise - loss * 22))


def test_what_costs_more():
    plain = predict(8, activation_checkpointing=False, zero_stage=1)
    again = predict(8, activation_checkpointing=True, zero_stage=1)
    assert again.matrices / plain.matrices == pytest.approx(4 / 3, rel=0.05)
    assert predict(8, zero_stage=2).communication > 0
    slow = replace(GPU, network_gigabytes_per_second=1)
    assert predict(16, gpu=slow).communication > predict(16).communication > 0
    stages = [predict(16, gpu=slow, zero_stage=stage).communication for stage in (1, 2, 3)]
    assert stages == sorted(stages) and stages[2] > stages[1]
    assert predict(2, precision="fp32").matrices == 2 * predict(2).matrices
    assert predict(2, workers=2, tensor_parallel=2).communication > 0
    assert predict(8, zero_stage=1).optimizer < predict(8, zero_stage=0).optimizer


@pytest.mark.parametrize("workers", [1, 8, 64])
def test_utilisation_stays_below_that_of_the_products(workers):
    train = TrainConfig(global_batch_size=512, micro_batch_size=8, activation_checkpointing=True)
    found = plan(MODEL, train, VOCAB, workers=workers)
    assert found.step is not None and found.step_seconds == pytest.approx(found.step.total)
    assert 0.2 < found.mfu < MATRIX_SHARE and found.mfu * found.recomputation < 0.9
    assert found.mfu == pytest.approx(
        found.tokens_per_second * found.flops_per_token / (workers * GPU.tflops * 1e12)
    )
