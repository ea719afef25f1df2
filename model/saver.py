"""Writing the checkpoints of a run while it goes on."""

import contextlib
import errno
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import torch
import xxhash

from base import files
from base.errors import UserError
from base.records import Record
from model import checkpoint, ranks
from model.checkpoint import DESCRIPTION, STATE, Description, StoredFile
from model.config import CheckpointConfig

logger = logging.getLogger("piledriver.checkpoint")


class RankReport(Record):
    """What a rank tells the first one of its files of a checkpoint."""

    files: dict[str, StoredFile] = {}
    error: str | None = None
    """Why they could not be written."""


class Saver:
    """Writes the checkpoints of a run. All ranks call each method but `close`.

    The engine saves into host memory (`model.capture`); a thread of each rank writes, hashes and uploads that
    while training goes on. Ranks tell each other through files when they are done,
    because collectives belong to the main thread. A rank that cannot write such a file says so in `wait`.
    `save` and `wait` raise UserError when the run has no checkpoint and too many could not be written.
    """

    def __init__(
        self,
        engine: Any,
        run_url: str,
        config: CheckpointConfig,
        planned: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`engine` is one of model.engine, which saves into host memory; planned: bytes of a checkpoint.

        check: called before a checkpoint gets its name; raises UserError if another command trains the run.
        """
        self._check = check
        self.engine, self.run_url, self.config, self.planned = engine, run_url, config, planned
        self.rank, self.world = ranks.rank(), ranks.world()
        self.saved: int | None = None
        """Step of the last checkpoint that is whole, on rank 0 after `wait`."""
        self._failures: list[str] = []
        """Why there was no checkpoint, each time since the last whole one, on rank 0."""
        self._thread: threading.Thread | None = None
        self._silent = False
        """Whether this rank could not tell rank 0 what it has written."""
        self._giving_up = threading.Event()
        """Rank 0 waits for no more files of others."""

    def save(self, description: Description) -> None:
        """Begin to write a checkpoint, and drop those that the policy does not keep.

        description: of the state as it is now; its files are found out here. When there is no room, the last
        checkpoint stays, with a warning. The one before is finished first.
        """
        self.wait()
        step = description.step
        target = checkpoint.folder(self.run_url, step)
        local = files.local_path(target)
        leader = int(os.environ.get("LOCAL_RANK", "0")) == 0 if local is None else self.rank == 0
        if local is None:  # one temporary folder a machine
            name = f"piledriver-{xxhash.xxh3_64_hexdigest(self.run_url.encode())}-{step}"
            temporary = os.path.join(tempfile.gettempdir(), name)
        else:
            temporary = os.path.join(os.path.dirname(local), f"{files.TEMPORARY}step_{step:08d}")
        # Of a remote checkpoint, what the ranks of this machine write passes through its disk.
        share = 1.0 if local else int(os.environ.get("LOCAL_WORLD_SIZE", self.world)) / self.world
        problem = make_room(temporary, self.run_url, self.planned if local else 0, share) if leader else None
        if problem is not None:
            logger.warning("no checkpoint at step %d: %s", step, problem)
        if self.rank == 0 and local is None:
            files.remove(target)
        problems = [problem for problem in ranks.gather(problem) if problem is not None]
        if problems:
            self._failures.append(problems[0])
            self._stop_if_hopeless()
            return
        self.engine.save_checkpoint(temporary, tag=STATE, save_latest=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._silent = False
        arguments = (self.engine.checkpoint_engine.take(), temporary, target, description)
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()
        if not self.config.asynchronous:
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is whole, or has failed."""
        if self._thread is None:
            return
        if self.rank:
            self._thread.join()
        if any(ranks.gather(self._silent)):
            self._giving_up.set()
        self._thread.join()
        self._giving_up.clear()
        self._thread = None
        self._stop_if_hopeless()

    def _stop_if_hopeless(self) -> None:
        """Raise UserError on all ranks when it looks as if no checkpoint can ever be written."""
        limit = self.config.stop_after_failures
        hopeless = limit and self.saved is None and len(self._failures) >= limit
        last = ranks.agree(self._failures[-1] if hopeless else None)
        if last is not None:
            raise UserError(
                f"training stops: run {self.run_url} has no checkpoint, and {limit} in a row could not "
                f"be written (train.checkpoint.stop_after_failures), the last because {last}"
            )

    def close(self) -> None:
        """Finish what this rank writes, without waiting for others that may be gone."""
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._giving_up.set()
            self._thread.join()

    def _write(
        self, captured: list[tuple[Any, str]], temporary: str, target: str, description: Description
    ) -> None:
        """Write this rank's files; rank 0 then completes the checkpoint when all have."""
        local = files.local_path(target) is not None
        place = temporary if local else target
        try:
            stored: dict[str, StoredFile] = {}
            for state, path in captured:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                torch.save(state, path)
                name = os.path.relpath(path, temporary)
                stored[name] = StoredFile(bytes=os.path.getsize(path), digest=files.digest(path))
                if local:
                    files.sync(path)
                    files.sync(os.path.dirname(path))
                else:
                    files.upload(path, files.join(target, name))
                    os.unlink(path)
            if local:
                files.sync(temporary)
            report = RankReport(files=stored)
        except Exception as error:
            report = RankReport(error=f"{type(error).__name__}: {error}")
            for _, path in captured:  # what is half written must not fill the disk
                with contextlib.suppress(OSError):
                    os.unlink(path)
        try:
            if self.rank:
                report.write(files.join(place, f"rank_{self.rank}.json"))
            else:
                self._complete(report, description, place=place, target=target)
        except Exception as error:  # training goes on, and the last checkpoint stays
            why = f"{type(error).__name__}: {error}; {checkpoint.disk(os.path.dirname(temporary))}"
            logger.warning("no checkpoint at step %d: %s", description.step, why)
            self._failures.append(why)
            self._silent = self.rank > 0
            if self.rank == 0 and self.saved != description.step:
                with contextlib.suppress(OSError):
                    files.remove(place)

    def _complete(self, report: RankReport, description: Description, *, place: str, target: str) -> None:
        """Wait for the other ranks' files, which `report` lists for this one, and give all their name."""
        reports = [report]
        for rank in range(1, self.world):
            url, pause = files.join(place, f"rank_{rank}.json"), 0.01
            while not files.exists(url):
                if self._giving_up.wait(pause):
                    raise RuntimeError(f"rank {rank} did not finish its files")
                pause = min(2 * pause, 1.0)
            reports.append(RankReport.read(url))
            files.remove(url)
        for rank, part in enumerate(reports):
            if part.error is not None:
                raise OSError(f"rank {rank}: {part.error}")
        stored = {name: file for part in reports for name, file in part.files.items()}
        description = description.model_copy(update={"files": dict(sorted(stored.items()))})
        if place == target:
            self._check()
            description.create(files.join(target, DESCRIPTION))
        else:
            local = str(files.local_path(target))
            description.write(os.path.join(place, DESCRIPTION))
            self._check()
            try:
                os.rename(place, local)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if os.path.exists(os.path.join(local, DESCRIPTION)):
                    raise UserError(f"{local} is there already") from None
                shutil.rmtree(local)  # what is left of a damaged one
                os.rename(place, local)
            files.sync(os.path.dirname(local))
        self.saved = description.step
        self._failures.clear()
        checkpoint.prune(self.run_url, self.config, self.saved)


def make_room(temporary: str, run_url: str, planned: int, share: float) -> str | None:
    """Make an empty folder for a checkpoint; what is in the way of one as large as the last, if anything.

    planned: bytes of the first one. share: of its files, those that lie on this machine.
    """
    try:
        previous = next(checkpoint.descriptions(run_url), None)
        needed = sum(file.bytes for file in previous.files.values()) if previous is not None else planned
        shutil.rmtree(temporary, ignore_errors=True)
        problem = checkpoint.lacks_room(os.path.dirname(temporary), int(needed * share))
        if problem is None:
            os.makedirs(temporary, exist_ok=True)
    except OSError as error:
        return f"{type(error).__name__}: {error}; {checkpoint.disk(os.path.dirname(temporary))}"
    return problem
