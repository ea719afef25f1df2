"""What lies in the folder of a training run beside its journal and checkpoints."""

from typing import Any

from pydantic import Field

from base.records import Record
from model.config import BatchWarmup

RUN = "run.json"
SUMMARY = "summary.json"


class SampleOrder(Record):
    """What decides which samples a step trains on."""

    manifest_hash: str
    seed: int = Field(ge=0, lt=2**63)
    sequence_length: int = Field(ge=1, le=2**24)
    weights: dict[str, float]
    """Share of samples by source."""
    global_batch_size: int = Field(ge=1, le=2**32)
    batch_warmup: BatchWarmup | None = None


class RunDescription(Record):
    """run.json: what a run trains on, written before its first step."""

    manifest_url: str
    mixture: dict[str, float]
    """Weights as configured; empty: by tokens."""
    model: dict[str, Any]
    """Settings of the model, the vocabulary's size and the precision."""
    data: SampleOrder
    damaged_shards: str
    """stop or skip."""
    verify_shards: bool


class Summary(Record):
    """summary.json: what came of a run."""

    run_url: str
    step: int
    """The last step."""
    tokens: int
    """Trained on since the run began."""
    first_loss: float | None
    last_loss: float | None
    tokens_per_second: float | None
    """Over this launch; None when it had no step to take."""
    mfu: float | None
    """Of the last steps."""
    skipped_steps: int
    rollbacks: int
    resumed_from: int
    """The step of the checkpoint that this launch began with; 0 when there was none."""
    evaluation: dict[str, dict[str, float]]
    """The last held-out losses and bits_per_byte by source."""
    checkpoint_url: str | None
    best_checkpoint_url: str | None
    """Of the lowest held-out loss."""
    checkpoint_stalls: list[float]
    """Seconds for which each checkpoint stopped the loop."""
    hf_url: str | None = None
    """The model in Hugging Face's format, when the last checkpoint could be written."""
