"""How far work is: what long work calls, how tasks are counted, and how fast a stage goes."""

import contextlib
import contextvars
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

WINDOW_SECONDS = 60.0
WINDOW_MARKS = 8


class Pace:
    """Counts of one stage, and its speed over the last minute and at least the last tasks.

    A window forgets the tasks that a resumed run finds finished, which cost no time.

    Attributes: begin (monotonic seconds), end (the same, None while it runs), done and total (tasks),
    documents and bytes (of text, in the finished tasks).
    """

    def __init__(self) -> None:
        """A stage that begins now."""
        self.begin = time.monotonic()
        self.end: float | None = None
        self.done = self.total = self.documents = self.bytes = 0
        self._marks: deque[tuple[float, int, int, int]] = deque()

    def note(self, done: int, total: int, documents: int, size: int) -> None:
        """Note the counts of now."""
        now = time.monotonic()
        self.done, self.total, self.documents, self.bytes = done, total, documents, size
        self._marks.append((now, done, documents, size))
        while len(self._marks) > WINDOW_MARKS and self._marks[1][0] < now - WINDOW_SECONDS:
            self._marks.popleft()
        if done >= total:
            self.end = now

    @property
    def seconds(self) -> float:
        """Seconds since the stage began, or that it took."""
        return (self.end or time.monotonic()) - self.begin

    def speeds(self) -> tuple[float, float, float]:
        """(tasks, documents, bytes) a second: of the window, or of the whole stage when it is over."""
        if self.end is not None or not self._marks:
            since, done, documents, size = self.begin, 0, 0, 0
        else:
            since, done, documents, size = self._marks[0]
        seconds = max((self.end or time.monotonic()) - since, 1e-3)
        return (
            (self.done - done) / seconds,
            (self.documents - documents) / seconds,
            (self.bytes - size) / seconds,
        )

    def remaining(self) -> float | None:
        """Seconds to the end at the present speed in tasks; None before the first is finished."""
        tasks, _, _ = self.speeds()
        return (self.total - self.done) / tasks if tasks else None


class Progress(Protocol):
    """Called with stage, tasks done, tasks in all, and documents and bytes of text in the tasks done."""

    def __call__(self, stage: str, done: int, total: int, documents: int = 0, size: int = 0, /) -> None:
        """Note how far a stage is."""


def silent(stage: str, done: int, total: int, documents: int = 0, size: int = 0, /) -> None:
    """The progress that shows nothing."""


def watched(progress: Progress, check: Callable[[], None], every: float) -> Progress:
    """A progress that passes on to `progress`, and calls `check` when it is called, so many seconds apart."""
    last = time.monotonic()

    def note(*counts: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            check()
            last = time.monotonic()
        progress(*counts)

    return note


class Counter:
    """Counts the tasks of a stage: called with the result of each that is finished."""

    def __init__(self, progress: Progress, stage: str, done: int, total: int) -> None:
        """`done` of `total` tasks were finished before."""
        self._progress = progress
        self._stage, self._done, self._total = stage, done, total
        self._finished = (0, 0)
        self._running: dict[int, tuple[int, int]] = {}
        """Documents and bytes of unfinished tasks."""
        self._tell()

    def __call__(self, result: Any = None) -> None:
        """Count one more finished task, and the documents and bytes in its result."""
        documents, size = work_of(result)
        self._done += 1
        self._finished = self._finished[0] + documents, self._finished[1] + size
        self._tell()

    def within(self, index: int, documents: int, size: int) -> None:
        """Count what the unfinished task of an item has done so far; nothing when it ends."""
        self._running[index] = documents, size
        if documents:
            self._tell()

    def _tell(self) -> None:
        sums = [sum(values) for values in zip(self._finished, *self._running.values(), strict=True)]
        self._progress(self._stage, self._done, self._total, *sums)


class Work:
    """What the task that runs in this thread has done so far."""

    def __init__(self) -> None:
        """Nothing so far."""
        self.documents = self.bytes = 0


_work: contextvars.ContextVar[Work | None] = contextvars.ContextVar("work", default=None)


def tick(documents: int, size: int) -> None:
    """Note, within a task over a file, that it has worked on so many more documents and bytes of text."""
    if (work := _work.get()) is not None:
        work.documents += documents
        work.bytes += size


@contextlib.contextmanager
def noted(work: Work) -> Iterator[None]:
    """Note in `work` what `tick` is called with within the block."""
    token = _work.set(work)
    try:
        yield
    finally:
        _work.reset(token)


def work_of(result: Any) -> tuple[int, int]:
    """Documents and bytes that a task worked on, where its result tells.

    Those that entered the last stage of its ledger, else its `documents` and `text_bytes` or `bytes`.
    """
    if not isinstance(result, dict):
        return 0, 0
    if "ledger" in result:
        last = [stages[-1] for stages in result["ledger"].values() if stages]
        return sum(stage["documents_in"] for stage in last), sum(stage["bytes_in"] for stage in last)
    size = result["text_bytes"] if "text_bytes" in result else result.get("bytes", 0)
    return result.get("documents", 0), size
