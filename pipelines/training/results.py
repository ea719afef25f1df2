"""What a training run leaves when it has finished: its result, and a pointer to the newest."""

from typing import ClassVar

from base import files
from base.claims import Claim
from base.damage import DamagedError
from base.errors import UserError
from base.layout import RESULT, Layout
from base.records import Record
from model.run import Summary


class RunResult(Summary):
    """What a finished run leaves: its summary, and what it was trained on."""

    has_seal: ClassVar[bool] = False
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

    has_seal: ClassVar[bool] = False
    run: str


def record(storage: str, run: str, result: RunResult, claim: Claim) -> None:
    """Note that a run has finished: its result, and that it is the newest."""
    layout = Layout(storage)
    claim.publish(layout.result(run), result)
    LatestRun(run=run).write(layout.latest_run)


def finished(storage: str, run: str) -> RunResult | None:
    """The result of a run, or None while it has none."""
    try:
        return RunResult.read(files.join(files.below(Layout(storage).training, run), RESULT))
    except FileNotFoundError:
        return None


def newest(storage: str) -> str:
    """The name of the newest finished run. Raises UserError if there is none."""
    layout = Layout(storage)
    try:
        run = LatestRun.read(layout.latest_run).run
        files.below(layout.training, run)
        return run
    except FileNotFoundError:
        raise UserError(f"{layout.training} holds no finished run; run jobs.train first") from None
    except DamagedError:
        raise UserError(
            f"{layout.latest_run} names no run; give the run's name, or remove the file"
        ) from None
