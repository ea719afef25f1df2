"""Progress of long work: bars on a terminal, one line a stage elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class StageProgress:
    """Shows stages as they go; call it with (stage, done, total)."""

    def __init__(self) -> None:
        """Nothing is shown before the first call."""
        self.started: dict[str, float] = {}
        self.bars: dict[str, int] = {}
        self.progress: Progress | None = None
        if sys.stderr.isatty():
            self.progress = Progress(
                TextColumn("{task.description:<18}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.progress.start()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note that `done` of `total` tasks of a stage are finished."""
        if self.progress:
            if stage not in self.bars:
                self.bars[stage] = self.progress.add_task(stage)
            self.progress.update(
                self.progress.task_ids[list(self.bars).index(stage)], completed=done, total=total
            )
            return
        start = self.started.setdefault(stage, time.monotonic())
        if done == total:
            print(f"  {stage:<18} {total:>6} tasks  {time.monotonic() - start:6.1f} s", flush=True)

    def close(self) -> None:
        """Leave the bars as they are and stop redrawing."""
        if self.progress:
            self.progress.stop()
