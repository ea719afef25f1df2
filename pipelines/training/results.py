"""What a training run leaves when it has finished: its result, and a pointer to the newest."""

from base import files
from base.claims import Claim
from base.errors import UserError
from base.layout import Layout
from base.records import Record
from model.run import Summary


class RunResult(Summary):
    """What a finished run leaves: its summary, and what it was trained on."""

    version: str
    """Name of the corpus version."""
    manifest_hash: str
    """Of that version."""
    model: str
    """The Hugging Face folder."""
    unigram_entropy: float
    """Nats a token, of the training mixture."""


class LatestRun(Record):
    """Names the newest finished run."""

    run: str


def record(storage: str, run: str, result: RunResult, claim: Claim) -> None:
    """Note that a run has finished: its result, and that it is the newest."""
    layout = Layout(storage)
    claim.publish(layout.result(run), result)
    LatestRun(run=run).write(layout.latest_run)


def finished(storage: str, run: str) -> RunResult | None:
    """The result of a run, or None while it has none."""
    url = Layout(storage).result(run)
    return RunResult.read(url) if files.exists(url) else None


def newest(storage: str) -> str:
    """The name of the newest finished run. Raises UserError if there is none."""
    layout = Layout(storage)
    if not files.exists(layout.latest_run):
        raise UserError(f"{layout.training} holds no finished run; run jobs.train first")
    return LatestRun.read(layout.latest_run).run
