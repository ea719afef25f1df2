"""What a training run leaves when it has finished: its result, and a pointer to the newest."""

from base import files
from base.errors import UserError
from base.layout import Layout
from base.records import Record


class Summary(Record):
    """What the training loop tells at the end of a launch."""

    run_url: str
    step: int
    """Steps that were taken."""
    tokens: int
    """Tokens of all steps."""
    first_loss: float | None
    last_loss: float | None
    tokens_per_second: float | None
    """Of this launch; None if it took no step."""
    mfu: float | None
    """Model FLOPs utilisation of the last step."""
    skipped_steps: int
    rollbacks: int
    resumed_from: int
    """Steps that earlier launches had taken."""
    evaluation: dict[str, dict[str, float]]
    """Held-out loss, and bits_per_byte where it is known, by source."""
    checkpoint_url: str | None
    best_checkpoint_url: str | None
    checkpoint_stalls: list[float]
    """Seconds that each checkpoint held training up."""
    hf_url: str | None = None
    """The Hugging Face folder; None if the last checkpoint could not be written."""


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


def record(storage: str, run: str, result: RunResult) -> None:
    """Note that a run has finished: its result, and that it is the newest."""
    layout = Layout(storage)
    result.write(layout.result(run))
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
