"""The ordinals of documents that share their id, in order of origin.

Ids go by range to the tasks that number them, and ordinals by group of parts to the tasks that read them:
every task reads its own rows alone. Refs are as in dedup/catalog.py: number of the part << 32 | row.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from base import files
from dedup import hashing, runs
from dedup.catalog import refs_of
from pipelines.corpus.stages.measure import Measured
from pipelines.corpus.stages.stage import Stage
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Progress

IDS_PER_TASK = 2**23
"""Ids that one task routes or numbers, about."""
READERS = 8
"""Files that a task which reads only a little of many opens at a time."""


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """Where the ordinals of identical documents are."""

    key: str
    ordinals: list[str]
    """For each part, the file for `ordinals_of`."""


@dataclass(frozen=True, kw_only=True)
class NumberIdentical(Stage):
    """Number the documents that share their id."""

    name: ClassVar[str] = "ordinals"
    version: ClassVar[int] = 1
    measured: Measured
    parent: str | None
    """Manifest hash of the version that the build adds to."""

    def run(self, executor: Executor, progress: Progress) -> Numbered:
        """Route the ids, number equal ones, and route the numbers back."""
        documents = [counts.documents for counts in self.measured.counts]
        work = self.measured.layout.work(self.name, self.key)
        ordinals = number_identical(self.measured.attributes, documents, work, executor)
        return Numbered(key=self.key, ordinals=ordinals)


def number_identical(attributes: list[str], documents: list[int], work: str, executor: Executor) -> list[str]:
    """Number the documents that share their id; gives the file for `ordinals_of` of each part.

    attributes: the attributes file of each part, in order of (source, file); rows are in order of record, so
    that the order is that of origin. documents: rows of each. work: a folder that belongs to these files;
    what is there is not done again.
    """
    ends = np.cumsum(documents)
    group = np.unique(np.maximum(ends - 1, 0) // IDS_PER_TASK, return_inverse=True)[1].astype(np.int64)
    groups = int(group[-1]) + 1
    firsts = np.searchsorted(group, np.arange(groups + 1))
    bits = (int(ends[-1]) // IDS_PER_TASK).bit_length()

    def phase(name: str, function: Callable[..., None], arguments: list[tuple[Any, ...]]) -> list[str]:
        tasks = [
            (function, *values, files.join(work, name, f"{number:05d}.parquet"))
            for number, values in enumerate(arguments)
        ]
        return executor.run_tasks(_run, tasks)

    bounds = zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True)
    routed = phase("routed", _route, [(attributes[first:end], first, bits) for first, end in bounds])
    numbered = phase("numbered", _number, [(routed, prefix, firsts[:-1]) for prefix in range(1 << bits)])
    gathered = phase("gathered", _gather, [(numbered, number) for number in range(groups)])
    return [gathered[number] for number in group.tolist()]


def ordinals_of(url: str, part: int, documents: int) -> np.ndarray:
    """The ordinal of each document of a part, int64: 0 for the first with its id. `part` is its number."""
    found = runs.read_partitions([url], [part])
    ordinals = np.zeros(documents, np.int64)
    ordinals[found["ref"].to_numpy() & np.uint64(0xFFFFFFFF)] = found["ordinal"].to_numpy()
    return ordinals


def _run(task: tuple[Any, ...]) -> str:
    """Run a task of (function, arguments, output) unless its output is there; returns the output."""
    function, *arguments, output = task
    if not files.whole(output):
        function(*arguments, output)
    return str(output)


def _route(attributes: list[str], first: int, bits: int, output: str) -> None:
    """Route the ids of parts, numbered from `first`, by their first bits."""
    # A file takes milliseconds to open, or a trip to a remote storage.
    with ThreadPoolExecutor(READERS) as readers:
        tables = readers.map(lambda url: files.read_parquet(url, ["document_id"]), attributes)
        pieces = []
        for number, table in enumerate(tables, first):
            high, low = hashing.id_words(table["document_id"])
            pieces.append(pa.table({"high": high, "low": low, "ref": refs_of(number, np.arange(len(high)))}))
    table = pa.concat_tables(pieces)
    runs.write_run(output, [(table, hashing.prefix(table["high"].to_numpy(), bits))], compression="none")


def _number(routed: list[str], prefix: int, firsts: np.ndarray, output: str) -> None:
    """Route the ordinals above 0 of a range of ids by group; `firsts` are the first parts of the groups."""
    table = runs.read_partitions(routed, [prefix])
    high, low, ref = (table[name].to_numpy() for name in ("high", "low", "ref"))
    order = np.lexsort((ref, low, high))
    high, low, ref = high[order], low[order], ref[order]
    same = np.zeros(len(order), bool)
    same[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    place = np.arange(len(order))
    ordinal = place - np.maximum.accumulate(np.where(same, 0, place))
    found = pa.table({"ref": ref[same], "ordinal": ordinal[same]})
    group = np.searchsorted(firsts, ref[same] >> np.uint64(32), side="right") - 1
    runs.write_run(output, [(found, group)])


def _gather(numbered: list[str], group: int, output: str) -> None:
    """Write the ordinals of a group by part."""
    table = runs.read_partitions(numbered, [group])
    runs.write_run(output, [(table, (table["ref"].to_numpy() >> np.uint64(32)).astype(np.int64))])
