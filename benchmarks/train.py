"""Training steps of model.neox against Hugging Face GPTNeoX on DeepSpeed, and what Ray Train adds.

    python -m benchmarks.train                      two small shapes on this machine
    python -m benchmarks.train --recipe configs/stablelm-base-alpha-3b.yaml --layers 4

Both models get the same shape, batch, optimizer and DeepSpeed settings. Each measurement has a process of its
own, and the two models take turns. On a CPU, speed is in tokens per second of CPU time of one thread, which
other work on the machine changes little; on a GPU it is in wall-clock time, with MFU. Results go to
benchmarks/results/train.json.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.dedup_inputs import ROOT, circumstances, record
from model.config import ModelConfig, TrainConfig
from model.plan import flops_per_token, memory
from pipelines.config import load

SHAPES: dict[str, dict[str, Any]] = {
    "quickstart": {
        "vocab_size": 8192,
        "model": {"hidden_size": 192, "num_layers": 6, "num_heads": 6, "max_sequence_length": 256},
        "train": {"micro_batch_size": 8},
    },
    "large vocabulary": {
        "vocab_size": 50277,
        "model": {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "max_sequence_length": 512},
        "train": {"micro_batch_size": 2},
    },
}


def settings(shape: dict[str, Any], precision: str) -> tuple[ModelConfig, TrainConfig, int]:
    """Model and training settings of one step of one micro batch, and the vocabulary's size."""
    size = shape["train"]["micro_batch_size"]
    train = {**shape["train"], "global_batch_size": size, "precision": precision, "zero_stage": 1}
    model = ModelConfig.model_validate(shape["model"])
    return model, TrainConfig.model_validate(train), shape["vocab_size"]


def ours(model: ModelConfig, train: TrainConfig, vocab_size: int) -> Callable[[Any], float]:
    """One training step of model.neox: from tokens (batch, length + 1) to the loss."""
    from model.engine import apply_step, backward, build_engine

    engine = build_engine(model, train, vocab_size, 0, 1)

    def step(tokens: Any) -> float:
        tokens = tokens.to(engine.device)
        loss = engine(tokens[:, :-1], tokens[:, 1:])
        backward(engine, loss)
        apply_step(engine, 1e-4, lambda norm: False)
        return float(loss)

    return step


def hugging_face(model: ModelConfig, train: TrainConfig, vocab_size: int) -> Callable[[Any], float]:
    """The same of transformers' GPTNeoXForCausalLM."""
    import deepspeed
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from model.engine import deepspeed_config
    from model.neox import weight_decay_groups

    config = GPTNeoXConfig(
        vocab_size=model.padded_vocab_size(vocab_size),
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        intermediate_size=model.mlp_size,
        max_position_embeddings=model.max_sequence_length,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": model.rotary_base,
            "partial_rotary_factor": model.rotary_fraction,
        },
        use_cache=False,
        attn_implementation="sdpa",
    )
    network = GPTNeoXForCausalLM(config)
    if train.activation_checkpointing:
        network.gradient_checkpointing_enable()
    count = sum(parameter.numel() for parameter in network.parameters())
    optimizer = torch.optim.AdamW(
        weight_decay_groups(network, train.optimizer.weight_decay),  # type: ignore[arg-type]
        lr=1e-4,
        betas=train.optimizer.betas,
        fused=torch.cuda.is_available(),
    )
    engine, *_ = deepspeed.initialize(
        model=network,
        optimizer=optimizer,
        config=deepspeed_config(train, 1, count),
        dist_init_required=False,
    )

    def step(tokens: Any) -> float:
        tokens = tokens.to(engine.device)
        loss = engine(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss
        engine.backward(loss)
        engine.step()
        return float(loss)

    return step


def measure(which: str, shape: dict[str, Any], precision: str, steps: int) -> dict[str, float]:
    """Speed and peak memory of one model in this process."""
    import torch

    from model.engine import initialize_distributed

    model, train, vocab_size = settings(shape, precision)
    cuda = torch.cuda.is_available()
    if not cuda:
        torch.set_num_threads(1)
    initialize_distributed()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    step = (ours if which == "piledriver" else hugging_face)(model, train, vocab_size)
    tokens = torch.randint(0, vocab_size, (train.micro_batch_size, model.max_sequence_length + 1))
    loss = 0.0
    for _ in range(2):
        loss = step(tokens)
    clock = time.perf_counter if cuda else time.process_time
    seconds = []
    for _ in range(steps):
        begin = clock()
        loss = step(tokens)
        seconds.append(clock() - begin)
    if cuda:
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    speed = train.micro_batch_size * model.max_sequence_length / statistics.median(seconds)
    return {"tokens_per_second": speed, "peak_bytes": peak, "loss": loss}


def alone(*arguments: str) -> dict[str, Any]:
    """What this module prints when it is run with `arguments` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train", "--part", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DEEPSPEED_LOG_LEVEL": "error"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(shape: dict[str, Any], precision: str, steps: int, rounds: int) -> dict[str, Any]:
    """Both models, turn by turn, the best round of each."""
    import torch

    model, train, vocab_size = settings(shape, precision)
    found: dict[str, list[dict[str, float]]] = {"piledriver": [], "hugging_face": []}
    for _ in range(rounds):
        for name, results in found.items():
            results.append(alone("measure", name, json.dumps(shape), precision, str(steps)))
    result: dict[str, Any] = {"shape": shape, "precision": precision}
    for name, results in found.items():
        fastest = max(results, key=lambda one: one["tokens_per_second"])
        result[name] = {
            "tokens_per_second": round(fastest["tokens_per_second"], 1),
            "peak_mib": round(min(one["peak_bytes"] for one in results) / 2**20, 1),
        }
    result["speed_ratio"] = round(
        result["piledriver"]["tokens_per_second"] / result["hugging_face"]["tokens_per_second"], 3
    )
    result["memory_ratio"] = round(result["piledriver"]["peak_mib"] / result["hugging_face"]["peak_mib"], 3)
    planned = memory(model, train, vocab_size).total / 2**20
    result["planned_mib"] = round(planned, 1)
    result["planned_over_measured"] = round(planned / result["piledriver"]["peak_mib"], 3)
    if torch.cuda.is_available():
        flops = flops_per_token(model, vocab_size, model.max_sequence_length)
        result["mfu_of_989_tflops"] = result["piledriver"]["tokens_per_second"] * flops / 989e12
    return result


def loop(launcher: str, folder: str, steps: int) -> dict[str, float]:
    """The whole loop on one worker, by itself or below Ray Train: medians over the journal's lines."""
    from model.job import TrainJob
    from model.journal import read
    from pipelines.config import Config

    sys.path.insert(0, str(ROOT / "tests"))
    from synthetic_corpus import write_corpus

    shape = SHAPES["quickstart"]
    manifest = write_corpus(Path(folder), {"a": [[500] * 2000], "b": [[200] * 1000]}, 8192)
    train = {
        "steps": steps,
        "global_batch_size": 8,
        "micro_batch_size": 8,
        "precision": "fp32",
        "log_every": 5,
        "evaluate_batches": 0,
        "checkpoint": {"every": 1000},
        "use_gpu": "auto",
    }
    run_url = str(Path(folder) / launcher)
    if launcher == "bare":
        import torch

        from model.train import train as run

        if not torch.cuda.is_available():
            torch.set_num_threads(1)
        job = TrainJob(
            ModelConfig.model_validate(shape["model"]), TrainConfig.model_validate(train), manifest, run_url
        )
        run(job)
    else:
        import ray

        from pipelines.cluster import worker_environment
        from pipelines.training import run_training

        variables = {**worker_environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        ray.init(
            num_cpus=2, include_dashboard=False, runtime_env={"env_vars": variables}, log_to_driver=False
        )
        sources = [{"name": "a", "urls": ["unused"]}]
        content = {"name": "bench", "storage": folder, "sources": sources, "train": train}
        run_training(Config.model_validate({**content, "model": shape["model"]}), manifest, run_url)
        ray.shutdown()
    lines = read(run_url)[2:]
    return {
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in lines),
        "best_tokens_per_second": max(line["tokens_per_second"] for line in lines),
        "loader_wait": statistics.median(line["loader_wait"] for line in lines),
    }


def overhead(steps: int, rounds: int) -> dict[str, Any]:
    """Ray Train's loop against the bare one, turn by turn."""
    found: dict[str, list[dict[str, float]]] = {"bare": [], "ray": []}
    for _ in range(rounds):
        for name, results in found.items():
            with tempfile.TemporaryDirectory() as folder:
                results.append(alone("loop", name, folder, str(steps)))
    best = {name: max(one["best_tokens_per_second"] for one in results) for name, results in found.items()}
    return {
        "bare": found["bare"],
        "ray": found["ray"],
        "overhead_of_best": round(1 - best["ray"] / best["bare"], 4),
        "loader_wait": round(statistics.median(one["loader_wait"] for one in found["bare"]), 5),
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", nargs="+", help="one measurement in this process, for this module itself")
    parser.add_argument("--recipe", help="shape of a configuration instead of the small ones")
    parser.add_argument("--layers", type=int, help="layers of the recipe's shape")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.part:
        what, *rest = options.part
        if what == "measure":
            print(json.dumps(measure(rest[0], json.loads(rest[1]), rest[2], int(rest[3]))))
        else:
            print(json.dumps(loop(rest[0], rest[1], int(rest[2]))))
        return
    shapes = SHAPES
    if options.recipe:
        config = load(options.recipe)
        model = config.model.model_dump()
        if options.layers:
            model["num_layers"] = options.layers
        train = {
            "micro_batch_size": config.train.micro_batch_size,
            "activation_checkpointing": config.train.activation_checkpointing,
        }
        name = f"{config.name}, {model['num_layers']} layers"
        shapes = {name: {"vocab_size": config.tokenize.vocab_size, "model": model, "train": train}}
    result = {
        **circumstances(),
        "unit": "tokens a second of wall-clock time on a GPU, of CPU time of one thread else",
        "steps": {
            f"{name}, {precision}": compare(shape, precision, options.steps, options.rounds)
            for name, shape in shapes.items()
            for precision in options.precision
        },
    }
    if not options.recipe:
        result["ray"] = overhead(60, options.rounds)
    record("train" if not options.recipe else "train_recipe", result)


if __name__ == "__main__":
    main()
