"""Phases of tasks that each write one file, as deduplication and the search for repeated text have them.

A task whose output is there is not run again, so a killed run continues where it was. Only URLs, numbers and
the catalog travel with the tasks; hashes and pairs go through files.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from base import files
from base.layout import name_of
from dedup import index
from dedup.catalog import Catalog, Entries, open_catalog
from dedup.config import DedupConfig
from pipelines.runtime.executor import Executor, shared
from pipelines.runtime.progress import Counter, Progress

GROUP_ROWS = 250_000
"""Entries of a group of parts (dedup/catalog.py), about."""
PARTITION_ROWS = 1_000_000
"""Entries for each prefix of a band, about, until `DedupConfig.partitions` is reached."""
GONE_FILES = 16
"""Tables of dropped documents that one task of the index reads."""


class ReachedError(Exception):
    """The phase that was asked for is finished."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    output: str
    function: Callable[..., None]
    catalog: Any
    """Handle of the catalog."""
    arguments: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Runs the tasks of one phase after the other below a folder of work, those that have not been done."""

    work: str
    catalog: Any
    """Handle of the catalog that all tasks are given (`of`)."""
    executor: Executor
    progress: Progress
    until: str | None = None
    """The phase after which ReachedError is raised; None: there is none."""

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        work: str,
        *,
        executor: Executor,
        progress: Progress,
        until: str | None = None,
    ) -> "Phases":
        """The phases over the documents of a catalog."""
        handle = executor.share(catalog)
        return cls(work=work, catalog=handle, executor=executor, progress=progress, until=until)

    def below(self, work: str) -> "Phases":
        """The same with another folder of work."""
        return replace(self, work=work)

    def phase(
        self,
        name: str,
        function: Callable[..., None],
        arguments: list[tuple[Any, ...]],
        read_by: str | None = None,
    ) -> list[str]:
        """One task `function(catalog, *arguments[i], output)` for each i; returns their outputs.

        The folder of the outputs is the phase's name below `work`. read_by: the phase of as many tasks that
        alone reads the outputs; once it is finished nothing is run, and the outputs are not there.
        """
        folder = files.join(self.work, name)
        outputs = [files.join(folder, f"{i:05d}.parquet") for i in range(len(arguments))]
        done = files.whole_names(folder)
        if read_by is not None and len(files.whole_names(files.join(self.work, read_by))) == len(outputs):
            done = {name_of(url) for url in outputs}
        tasks = [
            _Task(output=output, function=function, catalog=self.catalog, arguments=values)
            for output, values in zip(outputs, arguments, strict=True)
            if name_of(output) not in done
        ]
        count = Counter(self.progress, f"dedup {name}", len(outputs) - len(tasks), len(outputs))
        self.executor.run_tasks(_run, tasks, count)
        if name == self.until:
            raise ReachedError(name)
        return outputs


def _run(task: _Task) -> None:
    if not files.whole(task.output):
        task.function(shared(task.catalog), *task.arguments, task.output)
        # Arrow keeps what it freed: a worker would grow with the number of tasks that it has had.
        pa.default_memory_pool().release_unused()


def gone(phases: Phases, dropped: list[str]) -> list[str]:
    """Runs by group of the documents that tables of dropped documents (columns part and row) name."""
    batches = [dropped[first : first + GONE_FILES] for first in range(0, len(dropped), GONE_FILES)]
    return phases.phase("gone", index.write_gone, [(batch,) for batch in batches])


def catalog_of(entries: list[Entries], documents: dict[str, str], indexes: list[str]) -> Catalog:
    """The catalog of new parts, in groups of about GROUP_ROWS, and of the documents of indexes."""
    return open_catalog(entries, documents, indexes, GROUP_ROWS)


def total_rows(catalog: Catalog) -> int:
    """Entries of the new parts of a catalog."""
    return sum(part.rows for part in catalog.parts[: catalog.new])


def prefix_bits(total: int, config: DedupConfig) -> int:
    """Bits of the prefix: no more partitions than configured, and none without work."""
    return min(config.partitions.bit_length() - 1, (total // PARTITION_ROWS).bit_length())
