"""What a training run is, and the checks that need no model.

Imports no DeepSpeed, and torch only for a run that has begun: they take seconds, and a mistake should not.
"""

import json
import logging
from dataclasses import dataclass, field

from base import files
from base.claims import Claim
from base.errors import UserError
from model import batches, checkpoint
from model.checkpoint import Identity
from model.config import ModelConfig, TrainConfig
from model.corpus import Corpus
from model.loader import Loader
from model.memory import checkpoint_bytes
from model.resume import starting_step
from model.run import SampleOrder

logger = logging.getLogger("piledriver.job")


@dataclass(frozen=True)
class TrainJob:
    """One training run."""

    model: ModelConfig
    train: TrainConfig
    manifest_url: str
    run_url: str
    """Folder of the run: journal, checkpoints, summary."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Weights of the sources; by tokens when empty."""
    claim: Claim | None = None
    """Who may write the run; None where nobody else can."""

    def check_claim(self) -> None:
        """Raise UserError if another command trains the run now."""
        if self.claim is not None:
            self.claim.check()

    def samples(self, step: int, stop: int) -> tuple[int, int]:
        """First sample of 0-based `step`, and of `stop`."""
        begin, end = (
            batches.first_sample(self.train.global_batch_size, self.train.batch_warmup, number)
            for number in (step, stop)
        )
        return begin, end


def precision_of(config: TrainConfig) -> str:
    """fp16, bf16 or fp32, with auto decided by the device.

    oneDNN multiplies bf16 fast with AVX-512 and later; with AVX2 alone it is far slower than fp32.
    """
    if config.precision != "auto":
        return config.precision
    import torch

    if torch.cuda.is_available():
        return "fp16"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def check(job: TrainJob) -> Loader:
    """The loader of a job, after all that can be checked without building the model.

    Raises UserError for a model, corpus, mixture or resumed run that does not fit.
    """
    split, model = job.train.tensor_parallel, job.model
    if model.num_heads % split or model.mlp_size % split:
        raise UserError(
            f"train.tensor_parallel = {split} must divide model.num_heads = {model.num_heads} and the MLP's "
            f"width {model.mlp_size}"
        )
    if job.train.optimizer.warmup_steps > job.train.steps:
        logger.warning(
            "the run ends in its warm-up: train.optimizer.warmup_steps is %d, train.steps %d",
            job.train.optimizer.warmup_steps,
            job.train.steps,
        )
    if job.train.deepspeed:
        from model.deepspeed_keys import check_keys

        check_keys(job.train.deepspeed)
    corpus = Corpus.open(job.manifest_url, verify=job.train.verify_shards)
    loader = Loader(
        corpus,
        job.model.max_sequence_length,
        seed=job.train.seed,
        weights=job.mixture,
        global_batch_size=job.train.global_batch_size,
        vocab_size=job.model.padded_vocab_size(corpus.tokenizer.vocab_size),
        skip_damaged=job.train.damaged_shards == "skip",
    )
    newest = next(checkpoint.descriptions(job.run_url), None)
    if newest is not None:
        expected = identity(job, loader)
        if job.train.precision == "auto":  # the workers decide it: their machines may be other ones
            del expected.model["precision"]
        checkpoint.check_description(checkpoint.folder(job.run_url, newest.step), expected)
        starting_step(job.run_url, job.train)
    return loader


def identity(job: TrainJob, loader: Loader) -> Identity:
    """What must be the same for a checkpoint to be continued: architecture, and what decides the samples."""
    data = SampleOrder(
        manifest_hash=loader.corpus.hash,
        seed=job.train.seed,
        sequence_length=loader.sequence_length,
        weights=loader.weights,
        global_batch_size=job.train.global_batch_size,
        batch_warmup=job.train.batch_warmup,
    )
    model = {**job.model.model_dump(), "vocab_size": loader.corpus.tokenizer.vocab_size}
    model["precision"] = precision_of(job.train)
    return Identity(json.loads(json.dumps(model)), data)


def planned_bytes(job: TrainJob, vocab_size: int, precision: str) -> int:
    """Bytes that one checkpoint of a run will have, the fewest where `auto` is not decided yet."""
    choices = ("fp32", "fp16") if precision == "auto" else (precision,)
    settled = [job.train.model_copy(update={"precision": choice}) for choice in choices]
    return min(checkpoint_bytes(job.model, train, vocab_size) for train in settled)


def missing_room(job: TrainJob, vocab_size: int, precision: str) -> str | None:
    """Why the disk of a run's folder cannot hold one checkpoint; None if it can, or the folder is remote."""
    folder = files.local_path(files.join(job.run_url, "checkpoints"))
    if folder is None:
        return None
    problem = checkpoint.lacks_room(folder, planned_bytes(job, vocab_size, precision))
    return f"{problem}; make room there or choose another storage" if problem is not None else None
