"""What runs tasks: a Ray cluster, or this process. Whoever runs tasks is handed an executor.

Results are small JSON values and come back in the order of the items; `on_done` sees each as it arrives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.runtime.progress import Counter

OnDone = Callable[[Any], None]


class Executor(Protocol):
    """Runs a function for many items."""

    def run_tasks(
        self, function: Callable[[Any], Any], items: list[Any], on_done: OnDone | None = None
    ) -> list[Any]:
        """`function` of every item, as tasks of one CPU; one whose worker dies is run again."""
        ...

    def map_files(
        self, function: Callable[[Any], Any], items: list[Any], sizes: list[int], count: Counter
    ) -> list[Any]:
        """`function` of every item, one file each; `sizes` are the files' bytes.

        What `progress.tick` is called with in a task is counted before the task ends.
        """
        ...

    def map_actors(
        self,
        actor: type,
        arguments: dict[str, Any],
        items: list[Any],
        on_done: OnDone,
        workers: int | None = None,
    ) -> list[Any]:
        """What actors of a class, built with `arguments` and called with an item, give for each.

        workers: actors at a time, where that is not the executor's number.
        """
        ...

    def share(self, value: Any) -> Any:
        """A handle of a value that many tasks read; `shared` gives the value within a task."""
        ...


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """Runs tasks on the cluster that this process is connected to (cluster.start)."""

    workers: int | None
    """Tasks that run at a time; None: as many as the cluster has CPUs, and can grow to."""

    def run_tasks(
        self, function: Callable[[Any], Any], items: list[Any], on_done: OnDone | None = None
    ) -> list[Any]:
        """As Executor says."""
        from pipelines.runtime import cluster

        return cluster.run_tasks(function, items, self.workers, on_done)

    def map_files(
        self, function: Callable[[Any], Any], items: list[Any], sizes: list[int], count: Counter
    ) -> list[Any]:
        """As Executor says, by Ray Data."""
        from pipelines.runtime import cluster

        return cluster.map_files(function, items, sizes, self.workers, count, count.within)

    def map_actors(
        self,
        actor: type,
        arguments: dict[str, Any],
        items: list[Any],
        on_done: OnDone,
        workers: int | None = None,
    ) -> list[Any]:
        """As Executor says, by Ray Data; an actor has a GPU where the cluster has or starts one."""
        from pipelines.runtime import cluster

        return cluster.map_actors(actor, arguments, items, workers or self.workers, on_done)

    def share(self, value: Any) -> Any:
        """As Executor says: an object of Ray's store."""
        import ray

        return ray.put(value)


@dataclass(frozen=True, kw_only=True)
class InProcess:
    """Runs one task after the other in this process, without Ray: for tests, benchmarks and small corpora."""

    def run_tasks(
        self, function: Callable[[Any], Any], items: list[Any], on_done: OnDone | None = None
    ) -> list[Any]:
        """As Executor says."""
        results = []
        for item in items:
            results.append(function(item))
            if on_done:
                on_done(results[-1])
        return results

    def map_files(
        self, function: Callable[[Any], Any], items: list[Any], sizes: list[int], count: Counter
    ) -> list[Any]:
        """As Executor says; a task is counted when it ends."""
        return self.run_tasks(function, items, count)

    def map_actors(
        self,
        actor: type,
        arguments: dict[str, Any],
        items: list[Any],
        on_done: OnDone,
        workers: int | None = None,
    ) -> list[Any]:
        """As Executor says: with one actor."""
        return self.run_tasks(actor(**arguments), items, on_done) if items else []

    def share(self, value: Any) -> Any:
        """As Executor says: the value itself."""
        return value


def shared(handle: Any) -> Any:
    """The value of a handle that an executor's `share` gave."""
    import sys

    ray = sys.modules.get("ray")
    return ray.get(handle) if ray is not None and isinstance(handle, ray.ObjectRef) else handle
