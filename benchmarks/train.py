"""Training on this machine: steps, what Ray Train adds, waiting for the loader, stalls of checkpoints.

    python -m benchmarks.train                        everything, small shapes
    python -m benchmarks.train --quick                one round, not two: about six minutes on two cores
    python -m benchmarks.train --parts steps ray      only these, of steps, ray and checkpoint
    python -m benchmarks.train --parts recipe --layers 4 --precision fp16 bf16 --trace step
    python -m benchmarks.train --parts recipe --precision fp16
    python -m benchmarks.train --parts saving --layers 4

The last three are for a GPU: four layers of the recipe, the whole recipe where it fits, and its checkpoints.

steps: model.neox against Hugging Face GPTNeoX, both on DeepSpeed with the same shape, batch, optimizer and
settings. Each measurement has a process of its own, and the two models take turns. Speed is in tokens a
second of CPU time of one thread, which other work on the machine changes little, and memory in bytes that
torch has allocated at the peak of a step.

ray: the whole loop below Ray Train against the bare one. Both are there at the same time and take turns of
five steps, so that the machine's drift meets both. And how long they wait for samples.

checkpoint: seconds that a checkpoint stops the loop, written behind it and not.

recipe (a GPU): steps of the shape of --recipe, by default StableLM's 3B, in tokens a second of wall-clock
time, MFU and peak memory. --cases says whose model with which micro batch and settings, as
MODEL:SEQUENCES:SETTING, and the fastest case of each model is compared. --trace writes Chrome traces of a
step of the first case.

saving (a GPU): the whole loop on that shape, and how long each of its checkpoints stops it.

Results go to benchmarks/results/train.json, those of parts to train_<part>.json, with the layers of a recipe.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.dedup_inputs import ROOT, circumstances, record
from benchmarks.plan import peaks
from model.config import ModelConfig, TrainConfig
from model.memory import checkpoint_bytes, memory
from model.parameters import flops_per_token
from model.roofline import GPUS
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

LOOP: dict[str, Any] = {
    "vocab_size": 4096,
    "model": {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "max_sequence_length": 128},
    "train": {"micro_batch_size": 8},
}
"""A step of a few tenths of a second, in which what is added to it shows."""
STATE = {
    "vocab_size": 4096,
    "model": {"hidden_size": 512, "num_layers": 6, "num_heads": 8, "max_sequence_length": 128},
    "train": {"micro_batch_size": 4},
}
"""23 million parameters: checkpoints of 300 MB."""


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

    from model.deepspeed_settings import deepspeed_config
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
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        network = GPTNeoXForCausalLM(config)
    if train.activation_checkpointing:
        network.gradient_checkpointing_enable()
    if train.compile:
        network.compile()
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


def measure(which: str, shape: dict[str, Any], precision: str, steps: int, trace: str) -> dict[str, float]:
    """Speed and peak memory of one model in this process; with `trace`, a Chrome trace of one step there."""
    import torch

    from model.engine import initialize_distributed

    model, train, vocab_size = settings(shape, precision)
    cuda = torch.cuda.is_available()
    if not cuda:
        torch.set_num_threads(1)
    initialize_distributed()
    step = (ours if which == "piledriver" else hugging_face)(model, train, vocab_size)
    tokens = torch.randint(0, vocab_size, (train.micro_batch_size, model.max_sequence_length + 1))
    loss = 0.0
    for _ in range(2):
        loss = step(tokens)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    clock = time.perf_counter if cuda else time.process_time
    seconds = []
    for _ in range(steps):
        begin = clock()
        loss = step(tokens)
        seconds.append(clock() - begin)
    if cuda:
        peak = torch.cuda.max_memory_allocated()
    else:

        def work(begin: Callable[[str], None]) -> None:
            begin("step")
            step(tokens)

        peak = peaks(work)["step"]
    if trace:
        with torch.profiler.profile() as profiler:
            step(tokens)
        profiler.export_chrome_trace(trace)
    speed = train.micro_batch_size * model.max_sequence_length / statistics.median(seconds)
    return {"tokens_per_second": speed, "peak_bytes": peak, "loss": loss}


def alone(*arguments: str) -> dict[str, Any]:
    """What this module prints when it is run with `arguments` in a process of its own."""
    import torch

    command = [sys.executable, "-m", "benchmarks.train", "--part", *arguments]
    environment = {**os.environ, "DEEPSPEED_LOG_LEVEL": "error"}
    if not torch.cuda.is_available():
        environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(shape: dict[str, Any], precision: str, steps: int, rounds: int) -> dict[str, Any]:
    """Both models, turn by turn, the best round of each."""
    model, train, vocab_size = settings(shape, precision)
    found: dict[str, list[dict[str, float]]] = {"piledriver": [], "hugging_face": []}
    for _ in range(rounds):
        for name, results in found.items():
            results.append(alone("measure", name, json.dumps(shape), precision, str(steps), ""))
    result: dict[str, Any] = {"shape": shape, "precision": precision}
    for name, results in found.items():
        speed = max(one["tokens_per_second"] for one in results)
        peak = min(one["peak_bytes"] for one in results) / 2**20
        result[name] = {"tokens_per_second": round(speed, 1), "peak_mib": round(peak, 1)}
    planned = memory(model, train, vocab_size, cuda=False).total / 2**20
    result["planned_over_measured"] = round(planned / result["piledriver"]["peak_mib"], 3)
    for ratio, field in (("speed_ratio", "tokens_per_second"), ("memory_ratio", "peak_mib")):
        result[ratio] = round(result["piledriver"][field] / result["hugging_face"][field], 3)
    return result


CASES = [
    "piledriver:8:compile",
    "hugging_face:8:activation_checkpointing",
    "hugging_face:4",
    "piledriver:8:activation_checkpointing",
]
"""The whole 3B recipe on an H200: eight sequences without recomputation have room in piledriver's model; of
Hugging Face's, four layers alone took 53 GiB, so it has four sequences, or recomputes."""


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """The shape of a configuration, with its micro batch's length and its chunk of the loss."""
    config = load(options.recipe)
    model = config.model.model_dump()
    model["num_layers"] = options.layers or model["num_layers"]
    train = {"micro_batch_size": 8, "loss_chunk": config.train.loss_chunk}
    return {"vocab_size": config.tokenize.vocab_size, "model": model, "train": train}


def cases(shape: dict[str, Any], precision: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The cases of --cases so far, after each; one that does not fit has no numbers."""
    import torch

    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "cases": rows}
    best: dict[str, float] = {}
    for case in options.cases:
        name, sequences, *names = case.split(":")
        train = {**shape["train"], "micro_batch_size": int(sequences), **dict.fromkeys(names, True)}
        own = {**shape, "train": train}
        row: dict[str, Any] = {"case": case, "precision": precision}
        rows.append(row)
        model, training, vocab_size = settings(own, precision)
        trace = f"{options.trace}-{precision}.json" if options.trace and case == options.cases[0] else ""
        try:
            found = alone("measure", name, json.dumps(own), precision, str(options.steps), trace)
        except RuntimeError as error:
            if "OutOfMemoryError" not in str(error):
                raise
            row["error"] = "out of memory"
            yield result
            continue
        speed, peak = found["tokens_per_second"], found["peak_bytes"] / 2**30
        row |= {"tokens_per_second": round(speed), "peak_gib": round(peak, 2)}
        flops = flops_per_token(model, vocab_size, model.max_sequence_length)
        row["mfu"] = round(speed * flops / (GPUS["h200"].tflops * 1e12), 4)
        if name == "piledriver":
            planned = memory(model, training, vocab_size).total / 2**30
            row["planned_over_measured"] = round(planned / peak, 3)
        best[name] = max(best.get(name, 0.0), speed)
        if len(best) == 2:
            result["best_over_best"] = round(best["piledriver"] / best["hugging_face"], 3)
        yield result


class Turns:
    """Lets two loops go in turns, from one journal line to the next; each has one, in its own process."""

    def __init__(self, folder: str, name: str, other: str) -> None:
        """Files in `folder` tell whose turn it is."""
        self.folder, self.name, self.other = folder, name, other

    @contextmanager
    def __call__(self, journal_url: str) -> Iterator[None]:
        """Wait after each line until the other one has written its next."""
        from model.journal import Journal, StepRecord

        append, turn = Journal.append, Path(self.folder, "turn")

        def append_and_wait(journal: Journal, record: StepRecord) -> bool:
            written = append(journal, record)
            if record.step == 1:
                Path(self.folder, f"{self.name} is here").touch()
            else:
                turn.write_text(self.other)
            while not Path(self.folder, f"{self.other} has gone").exists():
                if Path(self.folder, f"{self.other} is here").exists() and turn.read_text() == self.name:
                    break
                time.sleep(0.002)
            return written

        with mock.patch.object(Journal, "append", append_and_wait):
            yield
        Path(self.folder, f"{self.name} has gone").touch()


def launch(
    launcher: str, shape: dict[str, Any], folder: str, turns: Turns | None = None, **changes: Any
) -> tuple[str, dict[str, Any]]:
    """The whole loop on one worker, by itself ("bare") or below Ray Train: the run's folder and summary."""
    import torch

    from model.job import TrainJob
    from pipelines.config import Config
    from tests.helpers.corpus import write_corpus

    manifest = write_corpus(Path(folder), {"a": [[500] * 2000], "b": [[200] * 1000]}, shape["vocab_size"])
    size = shape["train"]["micro_batch_size"]
    precision = "auto" if torch.cuda.is_available() else "fp32"
    train = {**shape["train"], "global_batch_size": size, "precision": precision, "evaluate_batches": 0}
    train |= {"log_every": 5, "checkpoint": {"every": 1000}, **changes}
    run_url = str(Path(folder) / launcher)
    if launcher == "bare":
        from model.train import train as run

        if not torch.cuda.is_available():
            torch.set_num_threads(1)
        model = ModelConfig.model_validate(shape["model"])
        with turns(run_url) if turns else nullcontext():
            alone = run(TrainJob(model, TrainConfig.model_validate(train), manifest, run_url))
            assert alone is not None
            return run_url, alone.to_json()
    import ray

    from pipelines.runtime.cluster import start_local
    from pipelines.training.launch import launch as launch_on_ray

    start_local(2, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    sources = [{"name": "a", "urls": ["unused"]}]
    content = {"name": "bench", "storage": folder, "sources": sources, "train": train}
    config = Config.model_validate({**content, "model": shape["model"]})
    summary = launch_on_ray(config, manifest, run_url, turns).to_json()
    ray.shutdown()
    return run_url, summary


PARTS = ["steps", "ray", "checkpoint"]


def loop(launcher: str, steps: int, folder: str) -> dict[str, Any]:
    """Milliseconds a step of a loop, of wall-clock and of CPU time, and its waiting for samples, by line.

    Without the first two lines, and the last, when the other loop may already be saving.
    """
    from model.journal import read

    turns = Turns(folder, launcher, "ray" if launcher == "bare" else "bare")
    with tempfile.TemporaryDirectory() as place:
        lines = read(launch(launcher, LOOP, place, turns, steps=steps)[0])[2:-1]
    size = LOOP["train"]["micro_batch_size"] * LOOP["model"]["max_sequence_length"]
    used = [line.system["process_cpu_seconds"] for line in lines]
    return {
        "milliseconds": [1000 * size / line.tokens_per_second for line in lines],
        "cpu_milliseconds": [1000 * (after - before) / 5 for before, after in itertools.pairwise(used)],
        "loader_wait": [line.loader_wait for line in lines],
    }


def overhead(steps: int) -> dict[str, Any]:
    """Ray Train's loop against the bare one: medians of both, and of the ratios of neighbouring turns."""
    names = ("bare", "ray")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        Path(folder, "turn").write_text("bare")
        found = dict(
            zip(names, pool.map(lambda name: alone("loop", name, str(steps), folder), names), strict=True)
        )
    result: dict[str, Any] = {"turns": len(found["bare"]["milliseconds"])}
    for field in ("milliseconds", "cpu_milliseconds"):
        bare, ray = found["bare"][field], found["ray"][field]
        ratios = sorted(after / before for before, after in zip(bare, ray, strict=True))
        quarters = statistics.quantiles(ratios)
        result[field] = {
            **{name: round(statistics.median(found[name][field]), 2) for name in names},
            "overhead": round(statistics.median(ratios) - 1, 4),
            "overhead_quartiles": [round(quarters[0] - 1, 4), round(quarters[2] - 1, 4)],
        }
    waits = [wait for one in found.values() for wait in one["loader_wait"]]
    result["loader_wait"] = round(statistics.median(waits), 6)
    return result


def stall(asynchronous: bool, shape: dict[str, Any], saves: int) -> dict[str, Any]:
    """Seconds that each of some checkpoints stops the loop, and the speed between them."""
    from model.journal import read

    saving = {"every": 5, "asynchronous": asynchronous, "keep_last": 1}
    with tempfile.TemporaryDirectory() as folder:
        url, summary = launch("bare", shape, folder, steps=5 * saves, checkpoint=saving)
        size = sum(
            file.stat().st_size for file in Path(summary["checkpoint_url"]).rglob("*") if file.is_file()
        )
        last = read(url)[-1]
    speed = {name: getattr(last, name) for name in ("tokens_per_second", "loader_wait")}
    return {"seconds": summary["checkpoint_stalls"], "mb": size / 1e6, **speed}


def checkpoints(
    rounds: int, shape: dict[str, Any], saves: int, kinds: tuple[str, ...] = ("asynchronous", "synchronous")
) -> dict[str, Any]:
    """Stalls of checkpoints that are written behind training, and of those that are not; the best rounds."""
    # The old one goes when the new one is whole.
    needed = 2 * checkpoint_bytes(*settings(shape, "fp16"))
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if needed > free:
        return {"not_measured": f"two checkpoints need {needed / 1e9:.0f} GB, there are {free / 1e9:.0f}"}
    result: dict[str, Any] = {}
    for name in kinds:
        found = [alone("stall", name, json.dumps(shape), str(saves)) for _ in range(rounds)]
        best = min(found, key=lambda one: sum(one["seconds"]))
        result |= {"checkpoint_mb": round(best["mb"], 1), f"{name}_stall_seconds": best["seconds"]}
        result[f"{name}_last_tokens_per_second"] = round(best["tokens_per_second"])
        result["loader_wait"] = best["loader_wait"]
    return result


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", nargs="+", help="one measurement in this process, for this module itself")
    parser.add_argument("--parts", nargs="+", default=PARTS, help="some alone go to a result of their name")
    parser.add_argument("--recipe", default="configs/stablelm-base-alpha-3b.yaml")
    parser.add_argument("--layers", type=int, help="layers of the recipe's shape; all of them when absent")
    parser.add_argument("--cases", nargs="+", default=CASES, help="of the recipe")
    parser.add_argument("--trace", default="", help="where Chrome traces of one step go, without suffix")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="one round instead of two")
    options = parser.parse_args()
    if options.part:
        what, *rest = options.part
        if what == "measure":
            which, shape, precision, steps, trace = rest
            print(json.dumps(measure(which, json.loads(shape), precision, int(steps), trace)))
        elif what == "loop":
            print(json.dumps(loop(rest[0], int(rest[1]), rest[2])))
        else:
            print(json.dumps(stall(rest[0] == "asynchronous", json.loads(rest[1]), int(rest[2]))))
        return
    rounds = 1 if options.quick else 2
    result = circumstances()
    result["packages"] = {
        name: package_version(name) for name in ("torch", "deepspeed", "transformers", "ray")
    }
    if "recipe" in options.parts or "saving" in options.parts:
        shape = recipe(options)
        name = f"{options.parts[0]}_{shape['model']['num_layers']}"
        result["shape"] = shape
        if "recipe" in options.parts:
            for precision in options.precision:
                for found in cases(shape, precision, options):
                    record(f"train_{name}", {**result, precision: found})
                result[precision] = found
        else:
            shape["train"]["compile"] = True
            record(f"train_{name}", {**result, "checkpoint": checkpoints(1, shape, 2, ("asynchronous",))})
        return
    result["unit"] = "tokens a second of CPU time of one thread"
    if "steps" in options.parts:
        result["steps"] = {
            f"{name}, {precision}": compare(shape, precision, options.steps, rounds)
            for name, shape in SHAPES.items()
            for precision in options.precision
        }
    if "ray" in options.parts:
        result["ray"] = overhead(200 if options.quick else 400)
    if "checkpoint" in options.parts:
        result["checkpoint"] = checkpoints(rounds, STATE, 3)
    record("train" if set(PARTS) <= set(options.parts) else "_".join(["train", *options.parts]), result)


def package_version(name: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
