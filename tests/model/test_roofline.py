import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config import ModelConfig, TrainConfig
from model.parameters import flops_per_token, owned_parameters
from model.plan import plan
from model.roofline import ATTENTION_SHARE, BANDWIDTH_SHARE, EAGER, GPUS, MATRIX_SHARE, Step, step

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
