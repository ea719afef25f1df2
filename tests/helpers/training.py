"""Tiny training runs, in this process or in processes of their own."""

import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest import mock

import psutil

from base.errors import UserError
from model import journal
from model.config import ModelConfig, TrainConfig
from model.run import Summary
from tests.helpers.far import LOG

ROOT = Path(__file__).parents[2]
SOURCES = {"a": [[200] * 20, [100] * 20], "b": [[333] * 10]}
MODEL = ModelConfig(hidden_size=32, num_layers=2, num_heads=4, max_sequence_length=32)


class StoppedError(Exception):
    """What ends a run in the middle, in place of a signal."""


def step_record(step: int, **changes: Any) -> journal.StepRecord:
    """What a journal may hold of a step."""
    values: dict[str, Any] = {"step": step, "time": 1e9 + step, "tokens": 64 * step, "loss": 3.0}
    values |= {"learning_rate": 0.1, "gradient_norm": 1.0, "loss_scale": 1.0, "tokens_per_second": 100.0}
    return journal.StepRecord(**{**values, "mfu": 0.5, "loader_wait": 0.0, "system": {}, **changes})


def settings(**changes: Any) -> TrainConfig:
    """Settings of a run that takes about a second."""
    defaults: dict[str, Any] = {
        "steps": 8,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "precision": "fp32",
        "log_every": 1,
        "evaluate_batches": 0,
        "peak_tflops": 0.1,
        "optimizer": {"learning_rate": 1e-2, "min_learning_rate": 1e-3, "warmup_steps": 2},
        "checkpoint": {"every": 100},
    }
    return TrainConfig.model_validate({**defaults, **changes})


def run_here(
    manifest_url: str,
    run_url: str,
    overflows: tuple[int, ...] = (),
    spikes: tuple[int, ...] = (),
    mixture: dict[str, float] | None = None,
    stop_at: int | None = None,
    **changes: Any,
) -> Summary:
    """One run in this process; its summary, on rank 0.

    mixture: weights of the sources, by tokens if there are none. The loss is made infinite in the 0-based
    steps `overflows`, and its gradient 1000 times as large in `spikes`. The run ends with StoppedError in
    step `stop_at`. One thread, as in the processes of `start`: sums are rounded otherwise with two.
    """
    import torch

    from model.job import TrainJob
    from model.train import train

    torch.set_num_threads(1)
    job = TrainJob(MODEL, settings(**changes), manifest_url, run_url, mixture or {})
    factors = dict.fromkeys(spikes, 1000.0) | dict.fromkeys(overflows, math.inf)

    def transform(step: int, loss: Any) -> Any:
        if step == stop_at:
            raise StoppedError
        return loss * factors.get(step, 1.0)

    return cast(Summary, train(job, transform_loss=transform))


def start(
    world: int, manifest_url: str, runs: list[dict[str, Any]], machines: Path | None = None
) -> list[subprocess.Popen[bytes]]:
    """Start `world` processes that do `runs` one after the other: run_here's arguments, kill_at, hang
    ([rank, step]), kill_in_save and fail ([rank, step]).

    machines: a folder with one for each process, which is as if it were alone on its machine. Its temporary
    files are there, and the names of files that it downloads (far.py) in the file `downloads`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        if machines is not None:
            own = machines / str(rank)
            (own / "tmp").mkdir(parents=True, exist_ok=True)
            environment |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "TMPDIR": str(own / "tmp")}
            environment |= {LOG: str(own / "downloads")}
        command = [sys.executable, __file__, manifest_url, json.dumps(runs)]
        processes.append(subprocess.Popen(command, env=environment, cwd=ROOT))
    return processes


def run_processes(
    world: int, manifest_url: str, runs: list[dict[str, Any]], machines: Path | None = None
) -> list[int]:
    """Do `runs` in `world` processes, on machines as `start` has them; their exit codes."""
    return [process.wait(timeout=240) for process in start(world, manifest_url, runs, machines)]


def _kill_in_save(step: int, point: str) -> None:
    """Let this process die of SIGKILL during the save at `step`, before or after DeepSpeed has written."""
    from base import files
    from model import checkpoint

    place, name = (files, "sync") if point == "files" else (checkpoint, "prune")
    original = getattr(place, name)

    def fatal(*arguments: Any) -> None:
        if f"step_{step:08d}" in str(arguments[0]) or (
            point == "prune" and step in checkpoint.steps(arguments[0])
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments)

    setattr(place, name, fatal)


def _fail(rank: int, step: int) -> None:
    """Let one rank's disk be full in the save at `step`, and let it alone not read held-out shards of `a`."""
    from base import files
    from model.corpus import Corpus, Heldout

    write, read = files.write_bytes, Corpus.heldout

    def full(url: str, content: bytes) -> None:
        if f"step_{step:08d}" in url:
            raise OSError(28, "No space left on device")
        write(url, content)

    def damaged(
        corpus: Corpus, source: str, max_documents: int | None = None, max_tokens: int | None = None
    ) -> Heldout:
        if source == "a":
            raise UserError("a shard is damaged")
        return read(corpus, source, max_documents, max_tokens)

    if os.environ["RANK"] == str(rank):
        files.write_bytes = full
        mock.patch.object(Corpus, "heldout", damaged).start()


def run_with_kills(manifest_url: str, run: dict[str, Any], kills: int, seed: int) -> int:
    """Do a run that is killed up to `kills` times at random moments and begun again; how often it was.

    Every other kill comes after the run has written a new line, however long its start takes. A process of
    its own imports what training needs and forks, so that a beginning takes no seconds.
    """
    arguments = [manifest_url, json.dumps({"kills": kills, "seed": seed, "run": run})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=500)
    return int(done.stdout.splitlines()[-1])


def _journal_size(run: dict[str, Any]) -> int:
    path = Path(run["run_url"]) / journal.NAME
    return path.stat().st_size if path.exists() else 0


def _is_zombie(child: int) -> bool:
    return bool(psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def _kill_and_begin_again(manifest_url: str, kills: int, seed: int, run: dict[str, Any]) -> int:
    import model.train  # noqa: F401

    generator = random.Random(seed)
    killed = 0
    while True:
        child = os.fork()
        if not child:
            try:
                run_here(manifest_url, **run)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        if killed == kills:
            assert os.waitpid(child, 0)[1] == 0
            return killed
        if killed % 2:
            time.sleep(generator.uniform(0.0, 1.5))
        else:
            size = _journal_size(run)
            while _journal_size(run) <= size and not _is_zombie(child):
                time.sleep(0.005)
            time.sleep(generator.uniform(0.0, 0.2))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return killed
        assert status == signal.SIGKILL, "training failed"
        killed += 1


class Starts:
    """Notes the time of every start of the workers; called on rank 0."""

    def __init__(self, path: str) -> None:
        self.path = path

    @contextmanager
    def __call__(self, journal_url: str) -> Iterator[None]:
        with open(self.path, "a") as file:
            file.write(f"{time.time()}\n")
        yield


class Sees:
    """Writes down which GPUs rank 0 may see."""

    def __init__(self, path: str) -> None:
        self.path = path

    @contextmanager
    def __call__(self, journal_url: str) -> Iterator[None]:
        Path(self.path).write_text(repr(os.environ.get("CUDA_VISIBLE_DEVICES")))
        yield


class Refuses(Starts):
    """Starts in which rank 0 finds a mistake at a step, when the other ranks wait for it in the next."""

    @contextmanager
    def __call__(self, journal_url: str) -> Iterator[None]:
        def refuse(_: journal.Journal, record: journal.StepRecord) -> bool:
            if record.step == 3:
                raise UserError("step 3 is refused")
            return True

        with super().__call__(journal_url), mock.patch.object(journal.Journal, "append", refuse):
            yield


class SlowFirst(Starts):
    """Starts, the first of which takes a second longer for every step: time to change what it runs on."""

    @contextmanager
    def __call__(self, journal_url: str) -> Iterator[None]:
        append = journal.Journal.append

        def wait_and_append(self: journal.Journal, record: journal.StepRecord) -> bool:
            time.sleep(1)
            return append(self, record)

        with super().__call__(journal_url):
            if len(Path(self.path).read_text().splitlines()) == 1:
                journal.Journal.append = wait_and_append  # type: ignore[method-assign]
            try:
                yield
            finally:
                journal.Journal.append = append  # type: ignore[method-assign]


class KillOnce:
    """Kills rank 0's process, once, when the journal reaches a step, and notes that it was started.

    Around that, it does what `inner` does.
    """

    def __init__(self, folder: Path, step: int, inner: Callable[[str], Any]) -> None:
        self.folder, self.step, self.inner = folder, step, inner

    @contextmanager
    def __call__(self, journal_url: str) -> Iterator[None]:
        marks = self.folder / "starts"
        with marks.open("a") as file:
            file.write(f"{journal_url} {time.time()}\n")
        if len(marks.read_text().splitlines()) == 1:
            threading.Thread(target=self.watch, args=(os.path.dirname(journal_url),), daemon=True).start()
        with self.inner(journal_url):
            yield

    def watch(self, run_url: str) -> None:
        while len(journal.read(run_url)) < self.step:
            time.sleep(0.01)
        (self.folder / "killed").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Do the runs of the command line; this is what `start` starts."""
    manifest_url, runs = sys.argv[1], json.loads(sys.argv[2])
    if isinstance(runs, dict):
        print(_kill_and_begin_again(manifest_url, **runs))
        return
    for run in runs:
        kill_at = run.pop("kill_at", None)
        kill_in_save = run.pop("kill_in_save", None)
        hang = run.pop("hang", None)
        fail = run.pop("fail", None)
        if fail:
            _fail(*fail)
        if kill_in_save:
            _kill_in_save(*kill_in_save)
        if kill_at is None and hang is None:
            run_here(manifest_url, run.pop("run_url"), **run)
            continue
        from model.job import TrainJob
        from model.train import train

        def die(step: int, loss: Any, at: int | None = kill_at, hang: list[int] | None = hang) -> Any:
            if step == at:
                os.kill(os.getpid(), signal.SIGKILL)
            if hang == [int(os.environ["RANK"]), step]:
                time.sleep(1000)
            return loss

        job = TrainJob(
            MODEL, settings(**{k: v for k, v in run.items() if k != "run_url"}), manifest_url, run["run_url"]
        )
        train(job, transform_loss=die)
    from torch import distributed

    # Left to the end of the interpreter, threads of the group may abort the process when a peer goes first.
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
