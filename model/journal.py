"""The journal of a training run: one JSON line a step, written once.

It is the record of a run; MLflow is filled from it and may be away. Only rank 0 appends to it. Where a run
goes on from a checkpoint, the lines of later steps are those of an attempt that was thrown away: `rewind`.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from base import files
from base.damage import damaged
from base.errors import UserError
from base.records import Record

NAME = "journal.jsonl"
ATTEMPT = "journal.attempt_{:04d}.jsonl"
"""Lines of steps that the weights hold nothing of, because the run went on from a checkpoint before them."""
SYNC_SECONDS = 30.0
"""New lines are synced so often, if there are some; of a remote journal, MLflow gets them then."""

logger = logging.getLogger("piledriver.journal")


class Rollback(Record):
    """A return to the weights of a checkpoint."""

    step: int
    """Of the checkpoint."""
    samples: list[int]
    """First sample that is left out, and the one after the last."""


class SampleText(Record):
    """A text that the model continued."""

    prompt: str
    text: str
    """What it wrote."""


class StepRecord(Record):
    """What the journal holds of a step, and of the steps since the last one that it holds."""

    step: int
    time: float
    """Seconds since 1970."""
    tokens: int
    """Trained on since the run began."""
    loss: float | None
    """Mean loss of the step's samples in nats a token; None when it is not finite."""
    learning_rate: float
    gradient_norm: float | None
    """Before clipping; None when it is not finite."""
    loss_scale: float
    """1 without FP16."""
    tokens_per_second: float
    """Of all workers."""
    mfu: float
    """Model FLOPs utilisation."""
    loader_wait: float
    """Share of the time in which the loop waited for samples."""
    system: dict[str, float]
    """Of rank 0's machine and process, by MLflow's names."""
    skipped: bool | None = None
    """True for a step that was not taken."""
    reason: str | None = None
    """Why it was not."""
    samples: list[int] | None = None
    """First sample of a step that was not taken, and the one after the last."""
    rollback: Rollback | None = None
    evaluation: dict[str, dict[str, float]] | None = None
    """Held-out loss and bits_per_byte by source."""
    texts: list[SampleText] | None = None


class Journal:
    """Appends lines to <run>/journal.jsonl, never two for one step."""

    def __init__(self, run_url: str, check: Callable[[], None] = lambda: None) -> None:
        """Open the journal, drop a line that a kill cut short, and find the last step in it.

        check: called before what others see is written; raises UserError if another command trains the run.
        """
        self._check = check
        self.url = files.join(run_url, NAME)
        path = files.local_path(self.url)
        self._remote = path is None
        if path is None:
            path = os.path.join(tempfile.mkdtemp(prefix="piledriver-journal-"), NAME)
            if files.exists(self.url):
                Path(path).write_bytes(files.read_bytes(self.url))
        self._path = path
        content = files.read_bytes(path) if os.path.exists(path) else b""
        # Another file: what a former process that trains the run has opened is no journal any more.
        files.write_bytes(path, content[: content.rfind(b"\n") + 1])
        self._file = open(path, "ab")  # noqa: SIM115 - open for the life of the run
        self.last_step = max((record.step for record in parse(content, self.url)), default=0)
        """The last step that has a line; 0 when there is none."""
        self._synced = time.monotonic()

    def append(self, record: StepRecord) -> bool:
        """Write a line, unless its step has one; says whether it was written."""
        if record.step <= self.last_step:
            return False
        if not self._remote:
            self._check()
        self._file.write((json.dumps(record.to_json()) + "\n").encode())
        self._file.flush()
        self.last_step = record.step
        if time.monotonic() - self._synced > SYNC_SECONDS:
            try:
                self.sync()
            except UserError:
                raise
            except Exception as error:  # the next checkpoint syncs too, and stops training if it cannot
                logger.warning("the journal at %s waits: %s", self.url, error)
        return True

    def sync(self) -> None:
        """Bring the journal to where a power cut or the end of this machine does not take it away."""
        self._synced = time.monotonic()
        if self._remote:
            self._check()
            files.write_bytes(self.url, Path(self._path).read_bytes())
        else:
            files.sync(self._path)
            files.sync(os.path.dirname(self._path))

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()


def rewind(run_url: str, step: int) -> None:
    """Take the lines after `step` out of a run's journal, and keep them aside as an earlier attempt.

    What a journal holds is what the weights hold: the steps come again, and may come to something else.
    """
    url = files.join(run_url, NAME)
    content = files.read_bytes(url) if files.exists(url) else b""
    lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    later = [record.step > step for record in parse(content, url)]
    if not any(later):
        return
    attempt = b"".join(line for line, aside in zip(lines, later, strict=True) if aside)
    number = 1
    while files.exists(place := files.join(run_url, ATTEMPT.format(number))):
        if files.read_bytes(place) == attempt:  # a kill came between this file and the journal
            break
        number += 1
    files.write_bytes(place, attempt)
    files.write_bytes(url, b"".join(line for line, aside in zip(lines, later, strict=True) if not aside))


def parse(content: bytes, url: str) -> list[StepRecord]:
    """The complete lines of a journal that was read from `url`. Raises UserError for a damaged one."""
    records: list[StepRecord] = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        place = f"line {number} of {url}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place} is damaged: it is no JSON ({error})") from None
        record = StepRecord.from_json(value, place)
        if not (records[-1].step if records else 0) < record.step < 2**48:
            raise damaged(place, f"step {record.step} is not after the one before it")
        if record.rollback is not None and not 0 <= record.rollback.step < record.step:
            raise damaged(place, f"step {record.step} goes back to step {record.rollback.step}")
        records.append(record)
    return records


def read(run_url: str) -> list[StepRecord]:
    """What a run's journal holds, in the order of steps; none when there is no journal."""
    url = files.join(run_url, NAME)
    return parse(files.read_bytes(url), url) if files.exists(url) else []
