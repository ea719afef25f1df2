"""The journal of a training run on its way to MLflow: metrics and samples of text, once each.

How far a journal was sent, and to which run of which store, is kept beside it; another run gets it from the
beginning. Sending a line twice changes nothing, since MLflow keys a metric by name, step and time, and the
samples are sent as one table.

Where a run went on from a checkpoint, lines were taken out of its journal. MLflow forgets no metrics: where
it has those lines, its run is closed as an earlier attempt, and another one gets the whole journal.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import xxhash
from pydantic import Field

from base import files
from base.credentials import hide
from base.damage import DamagedError, sound
from base.errors import UserError
from base.records import Record
from model import journal
from pipelines.runtime.tracking import Tracking, begin_again, client_of, flatten, last_attempt

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


class Sent(Record):
    """How far a journal was sent."""

    store: str
    run: str
    bytes: int = Field(ge=0)
    line: int = Field(ge=0)
    """First byte of the last line that was sent."""
    digest: str
    """Of that line, which tells whether the journal still holds it."""


class _Shipper:
    def __init__(self, tracking: Tracking, run_id: str, journal_url: str) -> None:
        self.tracking, self.run_id, self.url = tracking, run_id, journal_url
        self.client: Any = None
        self.warned = False

    def send(self) -> bool:
        """Send every complete line that was not sent; false when MLflow does not answer."""
        try:
            if self.client is None:
                client = client_of(self.tracking)
                self.run_id = last_attempt(client, self.run_id)
                self.client = client
            sent, start = self.sent(), 0
            content = self.content(sent.line if sent else 0)
            if sent is not None:
                size = sent.bytes - sent.line
                if xxhash.xxh3_64_hexdigest(content[:size]) == sent.digest:
                    start, content = sent.bytes, content[size:]
                else:
                    self.run_id = begin_again(self.client, self.run_id)
                    content = self.content(0)
            if not content:
                return True
            with sound(self.url):
                entries = [json.loads(line) for line in content.splitlines()]
            self.send_metrics(entries)
            if any("texts" in entry for entry in entries):
                self.send_samples()
        except DamagedError:
            raise
        except Exception as error:
            if not self.warned:
                log.warning(
                    "MLflow at %s does not answer; metrics wait: %s",
                    hide(self.tracking.uri),
                    hide(str(error)),
                )
            self.warned = True
            return False
        line = content.rfind(b"\n", 0, -1) + 1
        Sent(
            store=hide(self.tracking.uri),
            run=self.run_id,
            bytes=start + len(content),
            line=start + line,
            digest=xxhash.xxh3_64_hexdigest(content[line:]),
        ).write(self.url + MARK)
        return True

    def sent(self) -> Sent | None:
        """How much of the journal this run has; None for nothing."""
        mark = self.url + MARK
        try:
            found = Sent.read(mark) if files.exists(mark) else None
        except UserError:  # of an earlier version, or damaged
            return None
        ours = found is not None and (found.store, found.run) == (hide(self.tracking.uri), self.run_id)
        return found if ours else None

    def content(self, start: int) -> bytes:
        """The complete lines of the journal from byte `start` on."""
        return journal.content(self.url, start)

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
