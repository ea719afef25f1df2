"""Finding out which rank a training run waits for when it does not get on."""

import faulthandler
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from typing import Any

from base import files

logger = logging.getLogger("piledriver.watchdog")

FOLDER = "hangs"
GRACE = 5.0
"""Seconds that the ranks have to write down their stacks before the first one ends."""
EXIT_CODE = 76
WAITS = (f"torch{os.sep}distributed", f"deepspeed{os.sep}comm")
"""Files whose functions wait for the other ranks."""


class Watchdog:
    """Ends the process when the loop makes no progress, and says which rank it waited for.

    Every rank that makes no progress writes <run>/hangs/rank_00001.json with the stacks of its threads. The
    rank at fault is the one that does not wait for others. A rank that holds the interpreter's lock cannot
    run that: its stacks are then in rank_00001.txt, from faulthandler.
    """

    def __init__(self, run_url: str, rank: int, seconds: float) -> None:
        """`seconds` without a `beat` are a hang; 0 switches it off. It begins with the first beat."""
        self.run_url, self.rank, self.seconds = run_url, rank, seconds
        self.url = files.join(run_url, FOLDER, f"rank_{rank:05d}.json")
        self.last = 0.0
        self.doing = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._main = threading.get_ident()

    def beat(self, doing: str) -> None:
        """Say that the loop gets on, and what it does next."""
        if not self.seconds:
            return
        self.last, self.doing = time.time(), doing
        if self._thread is None:
            folder = files.local_path(files.join(self.run_url, FOLDER)) or tempfile.gettempdir()
            os.makedirs(folder, exist_ok=True)
            path = os.path.join(folder, f"rank_{self.rank:05d}.txt")
            self._stacks = open(path, "w")  # noqa: SIM115 - faulthandler writes to it until close
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        faulthandler.dump_traceback_later(self.seconds, file=self._stacks)

    def close(self) -> None:
        """Stop watching for good."""
        if self._thread is not None:
            faulthandler.cancel_dump_traceback_later()
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._stacks.close()
            if not os.path.getsize(self._stacks.name):
                os.unlink(self._stacks.name)

    def _watch(self) -> None:
        while not self._stop.wait(max(self.last + self.seconds - time.time(), 0.05)):
            if time.time() >= self.last + self.seconds:
                last = self.last
                self._report()
                if self._stop.wait(GRACE) or self.last > last:  # it went on after all
                    continue
                for line in blame(self.run_url, since=last - self.seconds):
                    logger.error("%s", line)
                logging.shutdown()
                os._exit(EXIT_CODE)

    def _report(self) -> None:
        frames = sys._current_frames()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        main = traceback.extract_stack(frames[self._main])
        content = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
            "seconds": self.seconds,
            "doing": self.doing,
            "waits": any(part in frame.filename for frame in main for part in WAITS),
            "at": f"{main[-1].filename}:{main[-1].lineno} in {main[-1].name}",
            "stacks": {
                names.get(ident, str(ident)): traceback.format_stack(frame) for ident, frame in frames.items()
            },
        }
        files.write_json(self.url, content)


def blame(run_url: str, since: float = 0.0) -> list[str]:
    """One sentence for each rank that hung without waiting for others, of reports since `since`."""
    reports: list[dict[str, Any]] = [
        files.read_json(url) for url in files.list_files(files.join(run_url, FOLDER, "rank_*.json"))
    ]
    recent = [report for report in reports if report["time"] >= since]
    at_fault = [report for report in recent if not report["waits"]]
    if recent and not at_fault:
        waiting = ", ".join(str(report["rank"]) for report in recent)
        return [f"ranks {waiting} wait for a rank that does not answer; see {files.join(run_url, FOLDER)}"]
    return [
        f"rank {report['rank']} (host {report['host']}, process {report['pid']}) hung for "
        f"{report['seconds']:g} s in {report['doing']}, at {report['at']}"
        for report in at_fault
    ]
