"""The journal of a training run: one JSON line a step, written once.

It is the record of a run; MLflow is filled from it and may be away. Only rank 0 appends to it. Where a run
goes on from a checkpoint, the lines of later steps are those of an attempt that was thrown away: `rewind`.

A local journal is one file, <run>/journal.jsonl. An object store cannot append, so there it goes on in
segments, <run>/journal/STEP.jsonl, each named by its first step. What lies before it is never written again.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable

from base import files, layout
from base.damage import damaged, reached
from base.errors import UserError
from base.records import Record

NAME = "journal.jsonl"
ATTEMPT = "journal.attempt_{:04d}.jsonl"
"""Lines of steps that the weights hold nothing of, because the run went on from a checkpoint before them."""
SEGMENT_BYTES = 2**20
"""A remote journal begins another segment when the last one has so many bytes."""
SYNC_SECONDS = 30.0
"""New lines are synced so often, if there are some; of a remote journal, MLflow gets them then."""

SEGMENT = "{:016d}.jsonl"

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
        self._path = files.local_path(self.url)
        content = b"".join(_lines(run_url))
        if self._path is not None:
            # Another file: what a former process that trains the run has opened is no journal any more.
            files.write_bytes(self._path, content)
            files.remove(_segments(self.url))  # of a run that was copied from an object store
            self._file = open(self._path, "ab")  # noqa: SIM115 - open for the life of the run
        self._segment, self._begin, self._waiting = b"", 0, b""
        """The last segment of a remote journal, its first step, and the lines that it lacks."""
        self.last_step = max((record.step for record in parse(content, self.url)), default=0)
        """The last step that has a line; 0 when there is none."""
        self._synced = time.monotonic()

    def append(self, record: StepRecord) -> bool:
        """Write a line, unless its step has one; says whether it was written."""
        if record.step <= self.last_step:
            return False
        line = (json.dumps(record.to_json()) + "\n").encode()
        if self._path is not None:
            self._check()
            self._file.write(line)
            self._file.flush()
        else:
            if not self._waiting and (not self._segment or len(self._segment) >= SEGMENT_BYTES):
                self._segment, self._begin = b"", record.step
            self._waiting += line
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
        if self._path is not None:
            files.sync(self._path)
            files.sync(os.path.dirname(self._path))
        elif self._waiting:
            self._check()
            content = self._segment + self._waiting
            files.write_bytes(files.join(_segments(self.url), SEGMENT.format(self._begin)), content)
            self._segment, self._waiting = content, b""

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        if self._path is not None:
            self._file.close()


def _segments(url: str) -> str:
    """The folder of a journal's segments."""
    return url.removesuffix(".jsonl")


def _parts(url: str) -> list[tuple[str, int]]:
    """The URLs and bytes of the files of a journal that are there, in the order of their steps."""
    filesystem, path = files.split(url)
    with reached(url):
        found = [(url, filesystem.size(path))] if filesystem.exists(path) else []
        infos = filesystem.find(_segments(path), detail=True)
    names = {layout.name_of(name): info["size"] for name, info in infos.items()}
    segments = sorted(name for name in names if re.fullmatch(r"\d{16}\.jsonl", name))
    return found + [(files.join(_segments(url), name), names[name]) for name in segments]


def _pieces(run_url: str) -> list[tuple[str, list[bytes]]]:
    """The URL and the complete lines of each file of a journal.

    A segment holds all from its first step on: a former process that trains the run may have written lines
    of such steps into the one before it, which then do not count.
    """
    urls = [url for url, _ in _parts(files.join(run_url, NAME))]
    pieces = []
    for place, url in enumerate(urls):
        content = files.read_bytes(url)
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        if place + 1 < len(urls):
            begin = int(layout.name_of(urls[place + 1]).removesuffix(".jsonl"))
            while lines and _step(lines[-1], url) >= begin:
                lines.pop()
        pieces.append((url, lines))
    return pieces


def _lines(run_url: str) -> list[bytes]:
    return [line for _, lines in _pieces(run_url) for line in lines]


def _step(line: bytes, url: str) -> int:
    return parse(line, url)[0].step


def content(url: str, start: int) -> bytes:
    """The complete lines of a journal from byte `start` on, as if it were one file."""
    found = b""
    for part, size in _parts(url):
        if size > start:
            filesystem, path = files.split(part)
            with reached(part):
                found += filesystem.cat_file(path, start=start)
        start = max(start - size, 0)
    return found[: found.rfind(b"\n") + 1]


def rewind(run_url: str, step: int) -> None:
    """Take the lines after `step` out of a run's journal, and keep them aside as an earlier attempt.

    What a journal holds is what the weights hold: the steps come again, and may come to something else.
    """
    pieces = _pieces(run_url)
    parse(b"".join(line for _, lines in pieces for line in lines), files.join(run_url, NAME))
    kept = [[line for line in lines if _step(line, url) <= step] for url, lines in pieces]
    later = [line for (_, lines), stay in zip(pieces, kept, strict=True) for line in lines[len(stay) :]]
    if not later:
        return
    attempt, number = b"".join(later), 1
    while files.exists(place := files.join(run_url, ATTEMPT.format(number))):
        if files.read_bytes(place).startswith(attempt):  # a kill came between this file and the journal
            break
        number += 1
    else:
        files.write_bytes(place, attempt)
    # From the end, so that a kill leaves a journal without a gap.
    for (url, lines), stay in reversed(list(zip(pieces, kept, strict=True))):
        if not stay and url != files.join(run_url, NAME):
            files.remove(url)
        elif len(stay) < len(lines):
            files.write_bytes(url, b"".join(stay))


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
    return parse(b"".join(_lines(run_url)), files.join(run_url, NAME))
