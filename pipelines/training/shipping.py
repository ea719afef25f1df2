"""The journal of a training run on its way to MLflow: metrics and samples of text, once each.

How far a journal was sent, and to which run of which store, is kept beside it; another run gets it from the
beginning. Sending a line twice changes nothing, since MLflow keys a metric by name, step and time, and the
samples are sent as one table.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

from base import files
from base.credentials import hide
from base.damage import DamagedError, sound
from pipelines.runtime.tracking import Tracking, client_of, flatten

MARK = ".shipped"
SAMPLES = "samples.json"
BATCH = 500
"""Metrics in one call; MLflow takes 1,000 at most."""
LONGEST_WAIT = 60.0
"""Seconds between attempts while MLflow does not answer."""
log = logging.getLogger("piledriver.shipping")


@contextlib.contextmanager
def ship_journal(tracking: Tracking, run_id: str, journal_url: str, every: float = 2.0) -> Iterator[None]:
    """Send the lines of a training journal to an MLflow run from a thread while the block runs.

    Each line is a JSON object with `step`, `time` (seconds), numbers, and `texts` (prompt and text of each)
    where there are some. While MLflow is away the lines wait, and attempts become rarer.
    """
    stop = threading.Event()
    thread = threading.Thread(
        target=_work, args=(_Shipper(tracking, run_id, journal_url), stop, every), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)


def deliver(tracking: Tracking, run_id: str, journal_url: str) -> bool:
    """Send what an outage has kept back; whether nothing is left."""
    return _Shipper(tracking, run_id, journal_url).send()


def _work(shipper: "_Shipper", stop: threading.Event, every: float) -> None:
    wait = every
    while not stop.is_set():
        wait = every if shipper.send() else min(2 * wait, LONGEST_WAIT)
        stop.wait(wait)
    shipper.send()


class _Shipper:
    def __init__(self, tracking: Tracking, run_id: str, journal_url: str) -> None:
        self.tracking, self.run_id, self.url = tracking, run_id, journal_url
        self.target = {"store": hide(tracking.uri), "run": run_id}
        self.client: Any = None
        self.warned = False

    def send(self) -> bool:
        """Send every complete line that was not sent; false when MLflow does not answer."""
        start = self.sent()
        content = self.content(start)
        if not content:
            return True
        with sound(self.url):
            entries = [json.loads(line) for line in content.splitlines()]
        try:
            self.client = self.client or client_of(self.tracking)
            self.send_metrics(entries)
            if any("texts" in entry for entry in entries):
                self.send_samples()
        except Exception as error:
            if not self.warned:
                log.warning(
                    "MLflow at %s does not answer; metrics wait: %s",
                    hide(self.tracking.uri),
                    hide(str(error)),
                )
            self.warned = True
            return False
        files.write_json(self.url + MARK, {**self.target, "bytes": start + len(content)})
        return True

    def sent(self) -> int:
        """Bytes of the journal that this run has."""
        mark = self.url + MARK
        try:
            found = files.read_json(mark)
        except DamagedError:
            return 0
        # The mark was a number alone once.
        if not isinstance(found, dict) or found != {**found, **self.target}:
            return 0
        sent = found.get("bytes")
        return sent if type(sent) is int and sent >= 0 else 0

    def content(self, start: int) -> bytes:
        """The complete lines of the journal from byte `start` on."""
        filesystem, path = files.split(self.url)
        if not filesystem.exists(path) or filesystem.size(path) <= start:
            return b""
        content: bytes = filesystem.cat_file(path, start=start)
        return content[: content.rfind(b"\n") + 1]

    def send_metrics(self, entries: list[dict[str, Any]]) -> None:
        """Send the numbers of journal lines."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name.replace(".", "/"), float(value), int(entry["time"] * 1000), entry["step"])
            for entry in entries
            for name, value in flatten(entry)
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "time")
        ]
        for first in range(0, len(metrics), BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[first : first + BATCH])

    def send_samples(self) -> None:
        """Send the samples of all lines as the table that MLflow shows."""
        entries = [json.loads(line) for line in self.content(0).splitlines()]
        rows = [
            [entry["step"], sample["prompt"], sample["text"]]
            for entry in entries
            for sample in entry.get("texts", [])
        ]
        self.client.log_dict(self.run_id, {"columns": ["step", "prompt", "text"], "data": rows}, SAMPLES)
        self.client.set_tag(
            self.run_id, "mlflow.loggedArtifacts", json.dumps([{"path": SAMPLES, "type": "table"}])
        )
