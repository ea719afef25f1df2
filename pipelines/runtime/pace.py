"""How far a stage is, how fast it goes, and how long it will take."""

import time
from collections import deque

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
