"""What a training run needs: parameters, FLOPs, memory by part, time and cost. Arithmetic only, no torch."""

import math
from dataclasses import dataclass

from base.errors import UserError
from model import batches, roofline
from model.config import ModelConfig, TrainConfig
from model.memory import Memory, activation_bytes, checkpoint_bytes, memory
from model.parameters import Parameters, flops_per_token, owned_parameters, parameters
from model.roofline import GPUS, Gpu

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training run in numbers."""

    parameters: Parameters
    padded_vocab_size: int
    tokens: int
    """Tokens trained on."""
    tokens_per_step: int
    """After a warm-up of the batch."""
    flops_per_token: float
    """Forward and backward, attention included: what MFU counts."""
    hardware_flops_per_token: float
    """The same, with the forward pass that activation checkpointing repeats."""
    total_flops: float
    """Of the whole run, as MFU counts them."""
    memory: Memory
    activations_kept: int
    """Bytes of activations per worker without checkpointing."""
    activations_recomputed: int
    """Bytes of activations per worker with checkpointing."""
    workers: int
    mfu: float
    """Model FLOPs utilisation: given, or predicted by model.roofline."""
    step: roofline.Step | None
    """Seconds of a step by part, where MFU is predicted."""
    tokens_per_second: float
    """Of all workers."""
    step_seconds: float
    days: float
    cost: float | None
    """In the currency of the price, if there is one."""
    checkpoint_bytes: int
    """Of one checkpoint on storage."""

    @property
    def recomputation(self) -> float:
        """FLOPs that the device computes for each one that MFU counts."""
        return self.hardware_flops_per_token / self.flops_per_token


def plan(
    config: ModelConfig,
    train: TrainConfig,
    vocab_size: int,
    *,
    workers: int | None = None,
    gpu: Gpu = GPUS["h200"],
    mfu: float | None = None,
    price_per_hour: float | None = None,
) -> Plan:
    """The run of `train` on `workers` workers (absent: train.workers) for a tokenizer of `vocab_size` tokens.

    mfu: model FLOPs utilisation, the share of the GPU's peak that is reached; absent: predicted.
    price_per_hour: of one worker. Raises UserError for a value that makes no sense, and for workers among
    which the batches do not divide.
    """
    workers = train.workers if workers is None else workers
    for name, value, fits, allowed in (
        ("workers", workers, workers >= 1, "at least 1"),
        ("mfu", mfu, mfu is None or 0 < mfu <= 1, "above 0 and at most 1"),
        ("price", price_per_hour, price_per_hour is None or 0 <= price_per_hour < math.inf, "0 or more"),
    ):
        if not fits:
            raise UserError(f"{name} {value:g} must be {allowed}")
    problem = train.misfit(workers)
    if problem is not None:
        raise UserError(problem)
    length = config.max_sequence_length
    padded = config.padded_vocab_size(vocab_size)
    per_token = flops_per_token(config, vocab_size, length)
    tokens_per_step = train.global_batch_size * length
    tokens = batches.first_sample(train.global_batch_size, train.batch_warmup, train.steps) * length
    most = per_token * tokens_per_step / (workers * gpu.tflops * 1e12)
    step = None
    if mfu is None:
        owned = owned_parameters(config, vocab_size, train.tensor_parallel)
        step = roofline.step(config, train, padded, owned, workers, gpu)
        mfu = most / step.total
    rate = tokens_per_step * mfu / most
    seconds = tokens / rate
    width = 4 if train.precision == "fp32" else 2
    kept, recomputed = (
        activation_bytes(config, train.micro_batch_size, length, width, recompute, train.tensor_parallel)
        for recompute in (False, True)
    )
    return Plan(
        parameters=parameters(config, vocab_size),
        padded_vocab_size=padded,
        tokens=tokens,
        tokens_per_step=tokens_per_step,
        flops_per_token=per_token,
        hardware_flops_per_token=flops_per_token(config, vocab_size, length, train.activation_checkpointing),
        total_flops=per_token * tokens,
        memory=memory(config, train, vocab_size, workers, cuda=train.use_gpu != "no"),
        activations_kept=kept,
        activations_recomputed=recomputed,
        workers=workers,
        mfu=mfu,
        step=step,
        tokens_per_second=rate,
        step_seconds=tokens_per_step / rate,
        days=seconds / SECONDS_PER_DAY,
        cost=None if price_per_hour is None else price_per_hour * workers * seconds / 3600,
        checkpoint_bytes=checkpoint_bytes(config, train, vocab_size),
    )


def workers_for(
    config: ModelConfig,
    train: TrainConfig,
    vocab_size: int,
    days: float,
    *,
    gpu: Gpu = GPUS["h200"],
    mfu: float | None = None,
) -> int:
    """The fewest workers that take at most `days`, of the numbers among which the global batch divides.

    Arguments as in `plan`. Raises UserError when even the most of them take longer, or none could.
    """
    if not days > 0:
        raise UserError(f"days {days:g} must be above 0")
    split = train.tensor_parallel
    most = math.gcd(*train.batch_sizes().values()) // train.micro_batch_size
    for replicas in range(1, most + 1):
        if most % replicas == 0:
            planned = plan(config, train, vocab_size, workers=replicas * split, gpu=gpu, mfu=mfu)
            if planned.days <= days:
                return planned.workers
    raise UserError(
        f"{most * split} workers, the most for train.global_batch_size = {train.global_batch_size}"
        f"{', batch_warmup' if train.batch_warmup else ''} and micro_batch_size = {train.micro_batch_size}, "
        f"take {planned.days:.1f} days, not {days:g}"
    )
