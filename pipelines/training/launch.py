"""Training on a Ray cluster: Ray Train places, starts, watches and restarts the workers of model.train."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyarrow.fs
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from base import files
from base.claims import Claim
from base.errors import UserError
from model import checkpoint
from model.config import TrainConfig
from model.job import TrainJob, check
from model.journal import NAME, StepRecord
from model.run import SUMMARY, Summary
from pipelines.config import Config
from pipelines.runtime import growth

logger = logging.getLogger("piledriver.training")

SETTLE = 10.0
"""Seconds that resources of a command that has just ended may take to become free."""

OnStart = Callable[[str], AbstractContextManager[Any]]
"""Given the journal's URL, what rank 0 does around training (shipping the journal); it must be picklable."""
OnLine = Callable[[dict[str, Any]], None]
"""Gets each line of the journal soon after it is written, and lines of steps that are repeated."""


def launch(
    config: Config,
    manifest_url: str,
    run_url: str,
    on_start: OnStart | None = None,
    on_line: OnLine | None = None,
    claim: Claim | None = None,
) -> Summary:
    """Train on the corpus version `manifest_url` into the folder `run_url`, continuing what is there.

    Ray must be initialised. Warnings of the workers become warnings here, each once. Raises UserError for
    settings that do not fit the corpus, an earlier part of the run or the cluster.
    """
    train = config.train
    job = TrainJob(config.model, train, manifest_url, run_url, config.mixture, claim)
    check(job)
    with _nodes(train) as per_worker:
        _fit(job, per_worker, on_start, on_line)
    return Summary.read(files.join(run_url, SUMMARY))


@contextlib.contextmanager
def _nodes(train: TrainConfig) -> Iterator[growth.Bundle]:
    """What a worker needs, on nodes that are up and stay up during the block.

    Raises UserError when the cluster has no room for the workers, and starts no nodes that have.
    """
    least = train.min_workers or train.workers
    bundle = {"CPU": float(train.cpus_per_worker)}
    for kind in {"auto": ("GPU", "CPU"), "yes": ("GPU",), "no": ("CPU",)}[train.use_gpu]:
        wanted = bundle | {kind: bundle.get(kind, 1.0)}
        with growth.asked(wanted, train.workers, least) as fit:
            if fit:
                yield wanted
                return
    field = "min_workers" if train.min_workers else "workers"
    raise UserError(
        f"train.{field} = {least} with train.cpus_per_worker = {train.cpus_per_worker} need {least} times "
        f"{growth.named(wanted)}, the Ray cluster has room for {growth.fitting(wanted)}"
    )


def _fit(job: TrainJob, per_worker: growth.Bundle, on_start: OnStart | None, on_line: OnLine | None) -> None:
    """Train on workers that each have what `per_worker` says."""
    train, use_gpu = job.train, "GPU" in per_worker
    # On this machine, so that it is there as long as whoever listens.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    settings = {"job": job, "on_start": on_start, "threads": train.cpus_per_worker, "messages": messages}
    trainer = TorchTrainer(
        _worker,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(
                (train.min_workers, _most_workers(train, per_worker)) if train.min_workers else train.workers
            ),
            elastic_resize_monitor_interval_s=train.resize_seconds,
            use_gpu=use_gpu,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            name="ray",
            **_storage(job.run_url),
            failure_config=FailureConfig(max_failures=train.max_failures),
            callbacks=[_Failures(messages)],
            worker_runtime_env={"env_vars": _environment(use_gpu)},
        ),
    )
    try:
        with _listen(messages, on_line):
            trainer.fit()
    except Exception as error:
        mistake = _user_error(error)
        if mistake is not None:
            raise UserError(str(mistake)) from None
        raise


def _environment(use_gpu: bool) -> dict[str, str]:
    """Environment of the workers."""
    # Ray Train trains in a thread, and the C library gives freed memory of a thread back to the system:
    # tensors would lie on new pages at every step, each to be zeroed first. In the one arena they do not.
    variables = {"MALLOC_ARENA_MAX": "1"}
    if not use_gpu:  # Ray shows workers without a GPU all those of their machine
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return variables


def _storage(url: str) -> dict[str, Any]:
    """Where Ray Train keeps its state, opened by fsspec as all else is: Ray itself would ask pyarrow."""
    if files.local_path(url):
        return {"storage_path": url}
    filesystem, path = files.split(url)
    return {
        "storage_path": path,
        "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
    }


def _most_workers(train: TrainConfig, per_worker: growth.Bundle) -> int:
    """The most workers that an elastic run may have.

    Ray Train counts a node's resources as free whoever holds them, and would wait for ever for workers that
    it cannot place. So where others hold some, a run takes what is free when it begins.
    """
    assert train.min_workers is not None

    def room_in(resources: dict[str, float]) -> int:
        return int(min(resources.get(name, 0.0) // amount for name, amount in per_worker.items()))

    wanted, end = min(room_in(ray.cluster_resources()), train.workers), time.monotonic() + SETTLE
    while (room := room_in(ray.available_resources())) < wanted and time.monotonic() < end:
        time.sleep(0.5)
    if room >= wanted:
        return train.workers
    most = max(room, train.min_workers)
    logger.warning("others use the cluster: training with at most %d of %d workers", most, train.workers)
    return most


class _Failures(UserCallback):  # type: ignore[misc]
    """Says which workers failed, and ends a run at the first UserError: that is not tried again."""

    def __init__(self, messages: Queue) -> None:
        """`messages` is what the driver listens to."""
        self.messages = messages

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the UserError among the exceptions of workers, if there is one; Ray ends the run then."""
        for error in worker_exceptions.values():
            mistake = _user_error(error)
            if mistake is not None:
                raise UserError(str(mistake))
        ranks = ", ".join(map(str, sorted(worker_exceptions)))
        # The first line: Ray adds its logs, and a traceback is of no use where the worker is gone.
        why = str(next(iter(worker_exceptions.values()), "")).strip().partition("\n")[0]
        self.messages.put_nowait(
            f"training lost the workers of rank {ranks} ({why}) and waits for others, or goes on without"
        )


def _user_error(error: BaseException) -> UserError | None:
    """The UserError that made training fail, if one did."""
    if isinstance(error, UserError):
        return error
    causes = list(getattr(error, "worker_failures", {}).values())
    causes += [getattr(error, name, None) for name in ("__cause__", "cause", "controller_failure")]
    for cause in causes:
        found = _user_error(cause) if isinstance(cause, BaseException) and cause is not error else None
        if found is not None:
            return found
    return None


@contextlib.contextmanager
def _listen(messages: Queue, on_line: OnLine | None) -> Iterator[None]:
    """Pass on what workers send during the block: journal lines to `on_line`, warnings to the log.

    A pair is a start of the workers: the step of the checkpoint, and how many they are.
    """
    heard: set[str] = set()

    def work() -> None:
        starts = 0
        with contextlib.suppress(ray.exceptions.RayError):  # the cluster is gone, and training says so
            while (message := messages.get()) is not None:
                if isinstance(message, tuple):
                    starts += 1
                    if starts > 1:
                        logger.warning("training goes on from step %d with %d workers", *message)
                elif isinstance(message, str):
                    if message not in heard:  # ranks may say the same
                        heard.add(message)
                        logger.warning("%s", message)
                elif on_line is not None:
                    on_line(message)

    thread = threading.Thread(target=work, name="messages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            messages.put(None)
            thread.join(timeout=10)
            messages.shutdown()


class _Warnings(logging.Handler):
    """Sends a worker's warnings to the driver."""

    def __init__(self, messages: Queue) -> None:
        """`messages` is what the driver listens to."""
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning, and wait until it has arrived: the process may be about to end."""
        with contextlib.suppress(Exception):
            ray.get(self.messages.actor.put_nowait.remote(record.getMessage()), timeout=5)


def _worker(settings: dict[str, Any]) -> None:
    """One worker of a training run."""
    import torch

    from model.train import train

    logging.basicConfig(level=logging.INFO)
    job, on_start, messages = settings["job"], settings["on_start"], settings["messages"]
    logging.getLogger("piledriver").addHandler(_Warnings(messages))
    if not torch.cuda.is_available():
        torch.set_num_threads(settings["threads"])
    context = ray.train.get_context()
    leads = context.get_world_rank() == 0
    if leads:
        step = max(checkpoint.steps(job.run_url), default=0)
        ray.get(messages.actor.put_nowait.remote((step, context.get_world_size())))
    journal_url = files.join(job.run_url, NAME)

    def tell(record: StepRecord) -> None:
        messages.actor.put_nowait.remote(record.to_json())

    with on_start(journal_url) if on_start is not None and leads else nullcontext():
        train(job, on_metrics=tell)
