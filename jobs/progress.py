"""Progress of long work: bars on a terminal; elsewhere a line every ten seconds and one a finished stage.

Of training: a line every ten seconds, and one of each evaluation and of each step that was skipped.
"""

import sys
import threading
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from pipelines.runtime.progress import Pace

EVERY = 10.0
PHASED = ("dedup", "index")
"""Stages of many phases: without a terminal they are one line each, unless the phases are asked for."""


def speed_text(pace: Pace) -> str:
    """Documents and megabytes of text a second, where the stage counts them."""
    _, documents, size = pace.speeds()
    return f"{documents:>10,.0f} documents/s {size / 1e6:>8.2f} MB/s" if pace.documents else ""


def clock(seconds: float | None) -> str:
    """Seconds as h:mm:ss or m:ss; nothing known is -:--."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _PaceColumn(ProgressColumn):
    """Speed, and the time that a stage took or will take, in what is left of a terminal of 80 characters."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        pace: Pace = task.fields["pace"]
        parts = [f"{clock(pace.seconds):>5}"]
        if pace.documents:
            _, documents, size = pace.speeds()
            parts.append(f"{documents:,.0f} docs/s {size / 1e6:.3g} MB/s")
        if pace.end is None:
            parts.append(f"ETA {clock(pace.remaining())}")
        return Text("  ".join(parts))


class StageProgress:
    """Shows stages as they go; call it with (stage, done, total, documents, bytes).

    Nothing is shown before the first call, nor after `close` until it is called again.
    """

    def __init__(self, every: float = EVERY, *, phases: bool = False) -> None:
        """Without a terminal, a line comes every so many seconds, and one of each phase if asked for."""
        self.every, self.phases = every, phases
        self.paces: dict[str, Pace] = {}
        self.display: _Bars | _Lines | None = None

    def __call__(self, stage: str, done: int, total: int, documents: int = 0, size: int = 0) -> None:
        """Note that `done` of `total` tasks of a stage are finished, and the documents and bytes in them."""
        if self.display is None:
            self.display = _Bars() if sys.stderr.isatty() else _Lines(self.paces, self.every, self.phases)
        pace = self.paces.setdefault(stage, Pace())
        pace.note(done, total, documents, size)
        self.display.show(stage, pace)

    def close(self) -> None:
        """Leave what is shown as it is and give the terminal back."""
        if self.display is not None:
            self.display.close()
        self.display, self.paces = None, {}


class _Bars:
    """A bar for each stage on the terminal of standard error."""

    def __init__(self) -> None:
        self.rows: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description:<19}"),
            BarColumn(bar_width=8),
            MofNCompleteColumn(),
            _PaceColumn(),
            console=Console(stderr=True),
            # What is printed comes above the bars, but goes to the file where output goes to one.
            redirect_stdout=sys.stdout.isatty(),
        )
        self.progress.start()

    def show(self, stage: str, pace: Pace) -> None:
        """Draw the bar of a stage as it is now."""
        if stage not in self.rows:
            self.rows[stage] = self.progress.add_task(stage, pace=pace)
        self.progress.update(self.rows[stage], completed=pace.done, total=pace.total)

    def close(self) -> None:
        """Stop drawing; the cursor is shown again."""
        self.progress.stop()


class _Lines:
    """A line of each running stage at intervals, and one of each that is finished."""

    def __init__(self, paces: dict[str, Pace], every: float, phases: bool) -> None:
        self.paces = paces
        self.phases = phases
        self.finished: set[str] = set()
        self.open: dict[str, list[Pace]] = {}
        """The phases of a stage whose line is not printed yet."""
        self.stopped = threading.Event()
        threading.Thread(target=self._tell, args=(every,), daemon=True).start()

    def show(self, stage: str, pace: Pace) -> None:
        """Print the line of a stage when it is finished; it is when another begins, if it has phases."""
        name = stage.split()[0]
        phased = name in PHASED and not self.phases
        self._end(but=name if phased else None)
        if pace.end is None or stage in self.finished:
            return
        self.finished.add(stage)
        if phased:
            self.open.setdefault(name, []).append(pace)
        else:
            self._print(stage, pace.total, pace.seconds, speed_text(pace))

    def _end(self, but: str | None = None) -> None:
        """Print the lines of stages whose phases are all over."""
        for name in [name for name in self.open if name != but]:
            paces = self.open.pop(name)
            ends = [pace.end for pace in paces if pace.end is not None]
            self._print(
                name, sum(pace.total for pace in paces), max(ends) - min(pace.begin for pace in paces), ""
            )

    def _print(self, stage: str, tasks: int, seconds: float, speed: str) -> None:
        print(f"  {stage:<22} {tasks:>6} tasks {seconds:>8.1f} s {speed}".rstrip(), flush=True)

    def _tell(self, every: float) -> None:
        while not self.stopped.wait(every):
            for stage, pace in list(self.paces.items()):
                if pace.end is None:
                    print(
                        f"  {stage:<22} {pace.done:>6} of {pace.total} tasks {speed_text(pace)}"
                        f"  ETA {clock(pace.remaining())}",
                        flush=True,
                    )

    def close(self) -> None:
        """Print nothing more but what is finished."""
        self.stopped.set()
        self._end()


class TrainingProgress:
    """Shows a training run as it goes; call it with each line of its journal."""

    def __init__(self, steps: int, every: float = EVERY) -> None:
        """`steps`: of the whole run. A line is shown every so many seconds."""
        self.steps, self.every = steps, every
        self.first: tuple[int, float] | None = None
        """Step and time of the first line."""
        self.shown = 0.0

    def __call__(self, line: dict[str, Any]) -> None:
        """Note a line of the journal, and show it if it is time or it tells something."""
        step, now = line["step"], line["time"]
        self.first = self.first or (step, now)
        evaluation = line.get("evaluation")
        skipped = f"  skipped: {line['reason']}" if line.get("skipped") else ""
        if not (evaluation or skipped or step == self.steps or now >= self.shown + self.every):
            return
        self.shown = now
        text = f"  step {step:>{len(str(self.steps))}} of {self.steps}"
        if line["loss"] is not None:
            text += f"  loss {line['loss']:.4f}"
        text += f"{skipped}  {line['tokens_per_second']:,.0f} tokens/s  MFU {line['mfu']:.0%}"
        if step > self.first[0] and step < self.steps:
            left = (now - self.first[1]) / (step - self.first[0]) * (self.steps - step)
            text += f"  ETA {clock(left)}"
        if "rollback" in line:
            text += f"  back to the weights of step {line['rollback']['step']}"
        if evaluation:
            losses = [values["loss"] for values in evaluation.values()]
            text += f"  held-out loss {sum(losses) / len(losses):.4f}"
            text += f" (mean of {len(losses)} sources)" if len(losses) > 1 else ""
        print(text, flush=True)
