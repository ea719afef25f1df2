"""The Ray cluster: connecting to it quietly, and running many tasks a bounded number at a time."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray

from base.errors import UserError
from pipelines.config import RayConfig


def worker_environment() -> dict[str, str]:
    """Environment variables of every worker: one compiled-kernel cache a machine, quiet libraries."""
    cache = os.environ.get("NUMBA_CACHE_DIR") or str(Path.home() / ".cache" / "piledriver" / "numba")
    return {
        "NUMBA_CACHE_DIR": cache,
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_TRAIN_ENABLE_V2": "1",
    }


def start(settings: RayConfig, verbose: bool = False) -> None:
    """Connect to the configured or running cluster, or start a local one for this process.

    Raises UserError when the configured address does not answer.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not verbose:
        os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    try:
        ray.init(
            address=settings.address,
            runtime_env={"env_vars": worker_environment()},
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            include_dashboard=None,
            ignore_reinit_error=True,
        )
    except ConnectionError as error:
        raise UserError(f"ray.address = {settings.address!r}: no Ray cluster answers there ({error})") from None


def run_tasks(
    function: Callable[[Any], Any], items: list[Any], workers: int, on_done: Callable[[Any], None] | None = None
) -> list[Any]:
    """`function` of every item as Ray tasks of one CPU, at most `workers` at a time.

    Results come back in the order of `items`; `on_done` sees each as it arrives. A task whose
    worker dies is run again; an exception of the task is raised here.
    """
    remote = ray.remote(num_cpus=1, max_retries=3)(function)
    results: list[Any] = [None] * len(items)
    waiting: dict[ray.ObjectRef, int] = {}
    queue: Iterator[int] = iter(range(len(items)))
    while True:
        while len(waiting) < workers and (index := next(queue, None)) is not None:
            waiting[remote.remote(items[index])] = index
        if not waiting:
            return results
        (reference,), _ = ray.wait(list(waiting), num_returns=1)
        index = waiting.pop(reference)
        try:
            results[index] = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() if isinstance(error.cause, Exception) else error
        if on_done:
            on_done(results[index])
