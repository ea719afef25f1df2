"""The Ray cluster: connecting to it quietly, and running many tasks a bounded number at a time."""

import contextlib
import heapq
import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import tenacity

from base import NUMBA_LOCATORS
from base.errors import UserError, mistake
from pipelines.runtime import growth, kernels, nodes
from pipelines.runtime.progress import Work, noted
from pipelines.runtime.settings import RayConfig

if TYPE_CHECKING:
    import ray
    import ray.data


FIRST_TICK = 2.0
"""Seconds after which a task of a map over files tells how far it is; then after twice as many, and so on."""
ROUNDS = 6
"""Tasks of a Ray Data map over files for each worker, where files are small."""
BLOCK_BYTES = 2**28
"""Bytes of the files of a task, if it has several: so much is done again where a node is lost."""
WAIT = 2.0
"""Seconds between looks whether nodes have joined, while no task ends."""
TRIES = 8
"""Times that a task is run whose worker or node is lost, or has too little memory for it."""


def worker_environment() -> dict[str, str]:
    """Environment variables of every worker: one compiled-kernel cache a machine, quiet libraries."""
    return {
        "NUMBA_CACHE_DIR": kernels.cache_folder(),
        "NUMBA_CACHE_LOCATOR_CLASSES": NUMBA_LOCATORS,
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_TRAIN_ENABLE_V2": "1",
        # Ray Train asks for the workers of a lost node too, until it has heard that the node is lost.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    }


def _not_of_the_job(variables: dict[str, str]) -> dict[str, str]:
    """Those of the environment variables that `ray job submit --runtime-env` does not set: its values hold,
    and Ray refuses a variable that is set in both places.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    given = (job.get("runtime_env") or {}).get("env_vars") or {}
    return {name: value for name, value in variables.items() if name not in given}


def start(settings: RayConfig, verbose: bool = False) -> None:
    """Connect to the configured or running cluster, or start a local one for this process.

    Raises UserError when the configured address does not answer.
    """
    import ray

    if not verbose:
        _quiet()
    address = settings.address or os.environ.get("RAY_ADDRESS") or _running_cluster() or "local"
    _check_address(address)
    try:
        with contextlib.nullcontext() if verbose else _held_stderr():
            ray.init(
                address=address,
                runtime_env={"env_vars": _not_of_the_job(worker_environment())},
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
            )
    except ConnectionError as error:
        raise UserError(f"ray.address = {address!r}: no Ray cluster answers there ({error})") from None


def start_local(cpus: int, **variables: str) -> None:
    """Start a quiet cluster for this process alone; `variables` are more of its workers' environment."""
    import ray

    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        runtime_env={"env_vars": worker_environment() | variables},
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _running_cluster() -> str | None:
    """The address of the cluster that `ray start` of this user left on this machine, if it still answers."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        if note.stat().st_uid != os.getuid():
            return None
        address = note.read_text().strip()
        _check_address(address)
    except (OSError, UserError):
        return None
    return address


def _check_address(address: str) -> None:
    """Raise UserError if nothing listens at a host:port address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=1.5).close()
    except OSError as error:
        raise UserError(f"ray.address = {address!r}: no Ray cluster answers there ({error})") from None


@contextlib.contextmanager
def _held_stderr() -> Iterator[None]:
    """Hold back what C++ writes to standard error; it is shown if the block raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _quiet() -> None:
    """Only errors from Ray's own loggers, and nothing from its C++ core, in this process."""
    import ray.data  # noqa: F401 (adds the handlers that are silenced here)

    nodes.say_shortly()
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler) is not logging.FileHandler:
            handler.setLevel(logging.ERROR)


def run_tasks(
    function: Callable[[Any], Any],
    items: list[Any],
    workers: int | None,
    on_done: Callable[[Any], None] | None = None,
) -> list[Any]:
    """`function` of every item as Ray tasks of one CPU, a bounded number at a time (growth.Room).

    Results come back in the order of `items`; `on_done` sees each as it arrives. A task whose
    worker is lost is run again; an exception of the task is raised here.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=TRIES - 1)(function)
    room = growth.Room(workers)
    results: list[Any] = [None] * len(items)
    running: dict[ray.ObjectRef, int] = {}
    queue: Iterator[int] = iter(range(len(items)))
    while True:
        while len(running) < room() and (index := next(queue, None)) is not None:
            running[remote.remote(items[index])] = index
        if not running:
            return results
        # Nodes may join while no task ends.
        for reference in ray.wait(list(running), num_returns=1, timeout=WAIT)[0]:
            index = running.pop(reference)
            try:
                results[index] = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from None
            if on_done:
                on_done(results[index])


def map_files(
    function: Callable[[Any], Any],
    items: list[Any],
    sizes: list[int],
    workers: int | None,
    on_done: Callable[[Any], None],
    on_tick: Callable[[int, int, int], None] = lambda *_: None,
) -> list[Any]:
    """`function` of every item, one file each, as a Ray Data map; `on_done` sees results as they arrive.

    `sizes` are the files' bytes. At most `workers` tasks run at a time; None: as many as the cluster has CPUs
    for, and Ray Data asks its autoscaler for more. Results are small JSON values, in the order of `items`.
    `on_tick` gets the place of an item and the documents and bytes that its task has worked on so far:
    nothing when it ends.
    """
    # Workers import this module, and most of them need no Ray Data, which takes half a second of CPU.
    import ray.data

    if not items:
        return []
    shared = ray.put(items)

    def apply(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        tasks = ray.get(shared)
        for index in batch["id"].tolist():
            for answer in _ticking(index, function, tasks[index]):
                yield {name: [value] for name, value in answer.items()}

    growth.Room(workers)()
    cpus = int(ray.cluster_resources().get("CPU", 0))

    def answers(missing: list[int]) -> "ray.data.Dataset":
        dealt = _blocks([sizes[index] for index in missing], workers or max(cpus, 1))
        blocks = [[missing[place] for place in block] for block in dealt]
        strategy = ray.data.TaskPoolStrategy(workers and min(workers, len(blocks)))
        return _numbers(blocks).map_batches(apply, batch_size=None, compute=strategy, num_cpus=1)

    return _results(answers, len(items), on_done, on_tick)


def _blocks(sizes: list[int], workers: int) -> list[list[int]]:
    """Which items each task of a map has.

    Some tenths of a second pass between two tasks of Ray Data, so they are few: rounds of one for each
    worker, a round half of what is left, so that the last ones are small and all workers end together. Files
    that are large have a task each.
    """
    left = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    blocks: list[list[int]] = []
    while left:
        ahead = np.cumsum([sizes[index] for index in left])
        last = len(blocks) >= (ROUNDS - 1) * workers
        count = len(left) if last else max(int(np.searchsorted(ahead, ahead[-1] / 2)) + 1, workers)
        dealt: list[list[int]] = [[] for _ in range(workers)]
        loads = [(0, block) for block in range(workers)]
        for index in left[:count]:
            load, block = heapq.heappop(loads)
            heapq.heappush(loads, (load + sizes[index], block))
            dealt[block].append(index)
        blocks += [part for block in dealt for part in _parts(block, sizes)]
        left = left[count:]
    return blocks


def _parts(block: list[int], sizes: list[int]) -> Iterator[list[int]]:
    """The items of a block in parts of at most BLOCK_BYTES, or of one item."""
    part: list[int] = []
    load = 0
    for index in block:
        load += sizes[index]
        if part and load > BLOCK_BYTES:
            yield part
            part, load = [], sizes[index]
        part.append(index)
    if part:
        yield part


def map_actors(
    actor: type,
    arguments: dict[str, Any],
    items: list[Any],
    workers: int | None,
    on_done: Callable[[Any], None],
) -> list[Any]:
    """What actors of a class, built with `arguments` and called with an item, give for each, by Ray Data.

    Each actor has one CPU, and a GPU where the cluster has one or starts a node that has. Results are small
    JSON values, in the order of `items`; `on_done` sees each as it arrives.
    """
    import ray.data

    if not items:
        return []
    shared = ray.put(items)

    class Guarded:
        """The actor, whose failed start is raised by its first call: Ray Data would wait for it forever."""

        def __init__(self) -> None:
            self.failure: Exception | None = None
            try:
                self.items = ray.get(shared)
                self.actor = actor(**arguments)
            except Exception as error:
                self.failure = error

        def call(self, index: int) -> Any:
            if self.failure is not None:
                raise self.failure
            return self.actor(self.items[index])

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return _answer(row["id"], self.call, row["id"])

    with growth.asked({"CPU": 1, "GPU": 1}, workers or 1, 1) as has_gpu:

        def answers(missing: list[int]) -> "ray.data.Dataset":
            most = len(missing) if workers is None else min(workers, len(missing))
            return _numbers([[index] for index in missing]).map(
                Guarded,
                compute=ray.data.ActorPoolStrategy(min_size=1 if workers is None else most, max_size=most),
                num_cpus=1,
                num_gpus=int(has_gpu),
            )

        return _results(answers, len(items), on_done)


def _answer(index: int, function: Callable[[Any], Any], argument: Any) -> dict[str, Any]:
    """The row of a result; Ray Data keeps no more than the text of an exception, so of a UserError too."""
    try:
        return {**_row(index), "result": json.dumps(function(argument))}
    except Exception as error:
        if (sentence := mistake(error)) is None:
            raise
        return {**_row(index), "mistake": sentence}


def _row(index: int) -> dict[str, Any]:
    """The row of an item that has neither a result nor failed, and has done nothing."""
    return {"index": index, "result": "", "mistake": "", "documents": 0, "bytes": 0}


def _ticking(index: int, function: Callable[[Any], Any], argument: Any) -> Iterator[dict[str, Any]]:
    """Rows of what a task has done so far, more and more seldom, and the row of its result."""
    work, wait = Work(), FIRST_TICK

    def answer() -> dict[str, Any]:
        with noted(work):
            return _answer(index, function, argument)

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(answer)
        told = 0
        while not futures.wait([future], timeout=wait).done:
            wait *= 2
            if work.documents > told:
                told = work.documents
                yield {**_row(index), "documents": work.documents, "bytes": work.bytes}
        yield future.result()


def _numbers(blocks: list[list[int]]) -> "ray.data.Dataset":
    """Numbers as `id`, in these blocks, of which a map makes tasks.

    What a map makes of them is seen when it is there, not when its task ends.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1
    return ray.data.from_arrow([pa.table({"id": block}) for block in blocks])


def _results(
    answers: "Callable[[list[int]], ray.data.Dataset]",
    count: int,
    on_done: Callable[[Any], None],
    on_tick: Callable[[int, int, int], None] = lambda *_: None,
) -> list[Any]:
    """The results of a map over `count` items, in their order; `answers` maps items of the given numbers.

    When Ray Data itself fails, not a task of it (an actor of its own that is gone, say), what is missing is
    mapped again, up to twice.
    """
    import ray.exceptions

    results: list[Any] = [None] * count
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_of_ray_data), stop=tenacity.stop_after_attempt(3), reraise=True
    )
    try:
        for attempt in again:
            with attempt:
                missing = [index for index in range(count) if results[index] is None]
                for row in answers(missing).iter_rows() if missing else []:
                    if row["mistake"]:
                        raise UserError(row["mistake"])
                    on_tick(row["index"], row["documents"], row["bytes"])
                    if not row["result"]:
                        continue
                    results[row["index"]] = json.loads(row["result"])
                    on_done(results[row["index"]])
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from None
    return results


def _is_of_ray_data(error: BaseException) -> bool:
    """Whether Ray Data says that the exception is no task's."""
    import ray.data.exceptions

    return isinstance(error.__cause__, ray.data.exceptions.SystemException)


def _cause(error: BaseException) -> BaseException:
    """The exception that a task raised, below Ray's wrappers; its text names the place in the task."""
    import ray.exceptions

    inner: BaseException = error
    while (below := getattr(inner, "cause", None) or inner.__cause__) is not None:
        inner = below
    if isinstance(inner, ray.exceptions.UserCodeException):
        return error
    return error if mistake(inner) is None else inner
