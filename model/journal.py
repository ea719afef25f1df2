"""The journal of a training run: one JSON line a step, written once.

It is the record of a run; MLflow is filled from it and may be away. Lines are appended by rank 0 only.
"""

import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from base import files

NAME = "journal.jsonl"
SYNC_SECONDS = 30.0
"""A remote journal gets new lines so often, if there are some; MLflow is filled from there."""

logger = logging.getLogger("piledriver.journal")


class Journal:
    """Appends lines to <run>/journal.jsonl, never two for one step."""

    def __init__(self, run_url: str) -> None:
        """Open the journal, drop a line that a kill cut short, and find the last step in it."""
        self.url = files.join(run_url, NAME)
        self._path = files.local_path(self.url)
        self._remote = self._path is None
        if self._path is None:
            self._path = os.path.join(tempfile.mkdtemp(prefix="piledriver-journal-"), NAME)
            if files.exists(self.url):
                Path(self._path).write_bytes(files.read_bytes(self.url))
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        self._file = open(self._path, "ab+")  # noqa: SIM115 - open for the life of the run
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)
        self.last_step = max((line["step"] for line in parse(content)), default=0)
        """The last step that has a line; 0 when there is none."""
        self._synced = time.monotonic()

    def append(self, line: dict[str, Any]) -> bool:
        """Write a line, unless its step has one; says whether it was written."""
        if line["step"] <= self.last_step:
            return False
        self._file.write((json.dumps(line) + "\n").encode())
        self._file.flush()
        self.last_step = line["step"]
        if time.monotonic() - self._synced > SYNC_SECONDS:
            try:
                self.sync()
            except Exception as error:  # the next checkpoint syncs too, and stops training if it cannot
                logger.warning("the journal at %s waits: %s", self.url, error)
        return True

    def sync(self) -> None:
        """Bring a remote run's journal up to date; a local one always is."""
        self._synced = time.monotonic()
        if self._remote and self._path is not None:
            files.write_bytes(self.url, Path(self._path).read_bytes())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()


def parse(content: bytes) -> list[dict[str, Any]]:
    """The complete lines of a journal."""
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def read(run_url: str) -> list[dict[str, Any]]:
    """The lines of a run's journal in the order of steps; none when there is no journal."""
    url = files.join(run_url, NAME)
    return parse(files.read_bytes(url)) if files.exists(url) else []
