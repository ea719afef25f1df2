"""Memory as jobs.plan predicts it against what real steps allocate on this machine.

    python -m benchmarks.plan

Each case builds the engine of model.engine in a process of its own and takes three steps; the peak is that
of the last one, counted from torch's allocations (torch.profiler), which neither other processes nor the C
allocator's habits change. The chunked cross-entropy is measured against the plain one in the same way.
Results go to benchmarks/results/plan.json.
"""

import argparse
import bisect
import functools
import gc
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.dedup_inputs import ROOT, circumstances, record
from model.config import ModelConfig, TrainConfig
from model.memory import logits_bytes, memory

SHAPES: dict[str, dict[str, Any]] = {
    "wide": {
        "vocab_size": 4096,
        "model": {"hidden_size": 512, "num_layers": 6, "num_heads": 8, "max_sequence_length": 128},
        "micro_batch_size": 2,
    },
    "large batch": {
        "vocab_size": 8192,
        "model": {"hidden_size": 192, "num_layers": 6, "num_heads": 6, "max_sequence_length": 256},
        "micro_batch_size": 8,
    },
    "large vocabulary": {
        "vocab_size": 50277,
        "model": {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "max_sequence_length": 512},
        "micro_batch_size": 2,
    },
    "long": {
        "vocab_size": 4096,
        "model": {"hidden_size": 384, "num_layers": 8, "num_heads": 6, "max_sequence_length": 1024},
        "micro_batch_size": 1,
    },
}
LOSSES = [(1024, 256, 8192, 256), (2048, 256, 50432, 256), (4096, 512, 50432, 1024)]
"""Positions, hidden size, padded vocabulary, chunk."""


def cases() -> list[dict[str, Any]]:
    """Every shape, with and without checkpointing, in two precisions; ZeRO stages, accumulation, workers."""
    common = {"zero_stage": 1, "activation_checkpointing": False, "passes": 1, "workers": 1}
    found = [
        {**common, "shape": shape, "precision": precision, "activation_checkpointing": checkpointing}
        for shape in SHAPES
        for precision in ("fp32", "bf16")
        for checkpointing in (False, True)
    ]
    for precision in ("fp32", "bf16"):
        more = [{"zero_stage": stage} for stage in (0, 2, 3)]
        more += [{"zero_stage": stage, "passes": 2} for stage in (0, 1, 2, 3)]
        more += [{"zero_stage": stage, "workers": 2} for stage in (1, 2)]
        found += [{**common, "shape": "wide", "precision": precision, **changes} for changes in more]
    return found


def settings(case: dict[str, Any]) -> tuple[ModelConfig, TrainConfig, int]:
    """Model and training settings of a case, and the vocabulary's size."""
    shape = SHAPES[case["shape"]]
    train = {name: case[name] for name in ("zero_stage", "activation_checkpointing", "precision", "workers")}
    train["micro_batch_size"] = shape["micro_batch_size"]
    train["global_batch_size"] = shape["micro_batch_size"] * case["passes"] * case["workers"]
    return ModelConfig.model_validate(shape["model"]), TrainConfig.model_validate(train), shape["vocab_size"]


def alive() -> int:
    """Bytes of the tensors of this process."""
    import torch

    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    tensors = [tensor for tensor in tensors if tensor.device.type == "cpu"]  # not those on meta
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    return sum(
        {part.data_ptr(): part.nbytes() for part in map(torch.Tensor.untyped_storage, tensors)}.values()
    )


def peaks(work: Callable[[Callable[[str], None]], None]) -> dict[str, int]:
    """Peak bytes of torch's allocations on the CPU while `work` runs, by phase; before it, `alive` counts.

    work gets a function that begins a phase.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    def begin(phase: str) -> None:
        with record_function(f"phase {phase}"):
            torch.empty(1)

    now = alive()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work(begin)
    changes, phases = [], []

    def walk(nodes: list[Any]) -> None:
        for node in nodes:
            if node.name.startswith("phase "):
                phases.append((node.start_time_ns, node.name.removeprefix("phase ")))
            if node.tag.name == "Allocation":
                changes.append((node.start_time_ns, node.extra_fields.alloc_size))
            walk(node.children)

    walk(profiler.profiler.kineto_results.experimental_event_tree())
    phases.sort()
    moments = [moment for moment, _ in phases]
    found: dict[str, int] = {}
    for moment, change in sorted(changes, key=lambda item: item[0]):
        now += change
        place = bisect.bisect_right(moments, moment) - 1
        if place >= 0:
            found[phases[place][1]] = max(found.get(phases[place][1], 0), now)
    return found


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Peak MiB of a step of this process, by phase."""
    import torch

    from model.engine import apply_step, backward, build_engine, initialize_distributed

    torch.set_num_threads(1)
    model, train, vocab_size = settings(case)
    rank, world = initialize_distributed()

    engine = build_engine(model, train, vocab_size, 0, world)
    shape = (train.micro_batch_size, model.max_sequence_length + 1)
    tokens = torch.randint(0, vocab_size, shape, generator=torch.Generator().manual_seed(rank))

    def step(begin: Callable[[str], None]) -> None:
        for number in range(case["passes"]):
            begin("forward")
            loss = engine(tokens[:, :-1], tokens[:, 1:])
            begin("backward")
            backward(engine, loss)
            if number + 1 < case["passes"]:
                engine.step()
        begin("update")
        apply_step(engine, 1e-4, lambda norm: False)

    for _ in range(2):
        step(lambda phase: None)
    found = peaks(step)
    result = {name: found[name] / 2**20 for name in ("forward", "backward", "update")}
    return {**result, "peak": max(result.values())}


def alone(case: dict[str, Any]) -> dict[str, Any]:
    """What `measure` gives in as many processes of its own as the case has workers, of rank 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DEEPSPEED_LOG_LEVEL": "error"}
    environment |= {"WORLD_SIZE": str(case["workers"]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "benchmarks.plan", "--case", json.dumps(case)]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(case["workers"])
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"{case}: {errors[-2000:]}")
    result: dict[str, Any] = json.loads(outputs[0][0].splitlines()[-1])
    return result


def compare(case: dict[str, Any], fresh: bool = False) -> dict[str, Any]:
    """A case with planned and measured numbers in MiB; fresh: this process has built no engine."""
    plan = memory(*settings(case), cuda=False)
    measured = measure(case) if fresh and case["workers"] == 1 else alone(case)
    planned = {name: getattr(plan, name) / 2**20 for name in ("forward", "backward", "update")}
    return {
        **case,
        "planned_mib": {name: round(value, 1) for name, value in planned.items()},
        "measured_mib": {name: round(value, 1) for name, value in measured.items()},
        "planned_over_measured": round(max(planned.values()) / measured["peak"], 4),
    }


def losses(precision: str) -> list[dict[str, Any]]:
    """Peak MiB of the loss and its gradients, chunked, plain and planned."""
    import torch

    from model.engine import DTYPES
    from model.loss import chunked_cross_entropy

    dtype, found = DTYPES[precision], []
    for positions, hidden_size, rows, chunk in LOSSES:
        targets = torch.randint(0, rows, (positions,))
        hidden = torch.randn(positions, hidden_size).to(dtype).requires_grad_()
        weight = (torch.randn(rows, hidden_size) / hidden_size).to(dtype).requires_grad_()

        def run(
            chunk: int | None, hidden: Any = hidden, weight: Any = weight, targets: Any = targets
        ) -> float:
            def work(begin: Callable[[str], None]) -> None:
                begin("all")
                if chunk is None:
                    loss = torch.nn.functional.cross_entropy((hidden @ weight.t()).float(), targets)
                else:
                    loss = chunked_cross_entropy(hidden, weight, targets, len(weight), chunk)
                torch.autograd.grad(loss, (hidden, weight))

            before = alive()
            return (peaks(work)["all"] - before) / 2**20

        chunked, plain = run(chunk), run(None)
        config = ModelConfig(hidden_size=hidden_size, num_heads=4, vocab_multiple=1)
        sizes = {"positions": positions, "chunk": chunk, "bytes_per_value": dtype.itemsize}
        planned = logits_bytes(config, rows, **sizes, cuda=False) / 2**20
        found.append(
            {
                "precision": precision,
                "positions": positions,
                "hidden_size": hidden_size,
                "vocabulary": rows,
                "chunk": chunk,
                "chunked_mib": round(chunked, 1),
                "plain_mib": round(plain, 1),
                "plain_over_chunked": round(plain / chunked, 2),
                "planned_over_measured": round(planned / chunked, 4),
            }
        )
    return found


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", help="one case in this process, for this module itself")
    parser.add_argument("--jobs", type=int, default=2, help="cases measured at a time")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(json.loads(options.case))))
        return
    import model.engine  # noqa: F401 - once, before the forks that measure

    fork = multiprocessing.get_context("fork")
    with fork.Pool(options.jobs, maxtasksperchild=1) as pool:
        found = pool.map(functools.partial(compare, fresh=True), cases(), chunksize=1)
    errors = [abs(case["planned_over_measured"] - 1) for case in found]
    result = {
        **circumstances(),
        "unit": "MiB of torch's allocations at the peak of a step",
        "largest_error": round(max(errors), 4),
        "cases": found,
        "cross_entropy": [line for precision in ("fp32", "bf16") for line in losses(precision)],
    }
    record("plan", result)


if __name__ == "__main__":
    main()
