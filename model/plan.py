"""What a training run needs: parameters, FLOPs, memory by part, time and cost. Arithmetic only, no torch."""

import math
from dataclasses import dataclass

from base.errors import UserError
from model import batches, roofline
from model.config import ModelConfig, TrainConfig
from model.roofline import GPUS, Gpu

BUCKET = 500_000_000
"""Largest number of elements that ZeRO reduces or gathers at a time."""

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Parameters:
    """Parameter counts of a model."""

    unique: int
    """Numbers that are trained, padded vocabulary included."""
    neox: int
    """As GPT-NeoX reports them: the sum over tensor-parallel ranks, in which what every rank holds whole
    (LayerNorms and the biases of the two output projections) counts once a rank."""
    layers: int
    """In the transformer layers and the final LayerNorm: all but the embeddings."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one worker's device, by part and at the three moments of a step that may need most."""

    weights: int
    gradients: int
    """What is there of them when the backward pass ends, ZeRO's buckets and copies included."""
    optimizer: int
    """Adam's two moments and the float32 weights that it updates, where they are not the model's own."""
    activations: int
    """Kept for the backward pass, with activation checkpointing as configured."""
    logits: int
    """The chunked cross-entropy: logits of a chunk, and the gradients it holds until the backward pass."""
    forward: int
    """At the end of the forward pass: states, activations and the loss."""
    backward: int
    """In the backward pass: at its first layer, with all activations, or at its end, with all gradients."""
    update: int
    """In the optimizer's step: states, gradients in float32 and what Adam computes with."""
    host: int
    """Bytes of host memory per worker: the optimizer's states when they are offloaded."""

    @property
    def total(self) -> int:
        """The peak: the parts are not there all at once."""
        return max(self.forward, self.backward, self.update)


@dataclass(frozen=True)
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


def parameters(config: ModelConfig, vocab_size: int) -> Parameters:
    """Parameter counts for a tokenizer of `vocab_size` tokens."""
    hidden, mlp = config.hidden_size, config.mlp_size
    norms = 4 * hidden
    attention = 4 * hidden * hidden + (4 * hidden if config.attention_bias else 0)
    feed_forward = 2 * hidden * mlp + mlp + hidden
    layers = config.num_layers * (norms + attention + feed_forward) + 2 * hidden
    embeddings = (1 if config.tie_embeddings else 2) * config.padded_vocab_size(vocab_size) * hidden
    output_biases = (2 if config.attention_bias else 1) * hidden
    replicated = config.num_layers * (norms + output_biases) + 2 * hidden
    unique = layers + embeddings
    return Parameters(unique, unique + (config.model_parallel_size - 1) * replicated, layers)


def bucket_size(train: TrainConfig, parameters: int) -> int:
    """Elements of ZeRO's reduction bucket, which it allocates whole."""
    settings = train.deepspeed.get("zero_optimization", {})
    return int(settings.get("reduce_bucket_size", min(BUCKET, parameters)))


def flops_per_token(
    config: ModelConfig, vocab_size: int, sequence_length: int, recompute: bool = False
) -> float:
    """FLOPs of forward and backward per token in sequences of `sequence_length`.

    Two per multiply-add and parameter of a matrix in the forward pass, twice that in the backward pass, and
    12 × layers × hidden size × length for attention's two products: the count of PaLM (Chowdhery et al. 2022,
    appendix B), on which MFU is based. It does not discount the causal mask. The embedding look-up is free;
    the output layer counts with its padded vocabulary. With `recompute`, the layers' forward pass counts once
    more (activation checkpointing): hardware FLOPs.
    """
    hidden = config.hidden_size
    layer = 2 * (4 * hidden * hidden + 2 * hidden * config.mlp_size) + 4 * hidden * sequence_length
    output = 2 * hidden * config.padded_vocab_size(vocab_size)
    passes = 4 if recompute else 3
    return float(passes * config.num_layers * layer + 3 * output)


def owned_parameters(config: ModelConfig, vocab_size: int, tensor_parallel: int) -> int:
    """Parameters of one of `tensor_parallel` workers that share every layer.

    The attention's and the MLP's matrices are divided among them, the biases of their first maps too.
    """
    hidden, mlp = config.hidden_size, config.mlp_size
    attention = 4 * hidden * hidden + (3 * hidden if config.attention_bias else 0)
    divided = config.num_layers * (attention + 2 * hidden * mlp + mlp)
    whole = parameters(config, vocab_size).unique - divided
    return whole + divided // tensor_parallel


def layer_bytes(config: ModelConfig, positions: int, bytes_per_value: int, tensor_parallel: int = 1) -> int:
    """Bytes that one layer keeps for its backward pass.

    In multiples of the hidden size per position: its input 1, the LayerNorms' outputs 2, the fused
    query-key-value 3, the rotated query and key 2, attention's output 1; and the MLP's inner values before
    and after the activation. A layer whose residual is not parallel has one more, between attention and MLP.
    A LayerNorm keeps two float32 per position, attention one per head and position. Workers that share the
    layer divide what lies between its linear maps.
    """
    whole = (3 if config.parallel_residual else 4) * config.hidden_size
    divided = (6 * config.hidden_size + 2 * config.mlp_size) // tensor_parallel
    statistics = 4 * (4 + config.num_heads // tensor_parallel)
    return positions * ((whole + divided) * bytes_per_value + statistics)


def activation_bytes(
    config: ModelConfig,
    sequences: int,
    sequence_length: int,
    bytes_per_value: int,
    checkpointing: bool,
    tensor_parallel: int = 1,
) -> int:
    """Bytes kept for the backward pass of `sequences` sequences, without the loss's.

    With checkpointing only the layers' inputs stay. The final LayerNorm keeps its input and output; the mask
    of attention_reset has one byte per pair of positions.
    """
    positions = sequences * sequence_length
    edge = positions * (2 * config.hidden_size * bytes_per_value + 8)
    mask = positions * sequence_length if config.attention_reset else 0
    if checkpointing:
        layer = positions * config.hidden_size * bytes_per_value
    else:
        layer = layer_bytes(config, positions, bytes_per_value, tensor_parallel)
    return config.num_layers * layer + edge + mask


def logits_bytes(
    config: ModelConfig, vocab_size: int, positions: int, chunk: int, bytes_per_value: int, cuda: bool = True
) -> int:
    """Bytes of the chunked cross-entropy for `positions` positions.

    For all: the gradients of the hidden states and, in float32, of the output embedding. Per chunk: the
    logits, in half precision with their float32 copy; or, when that is gone, with the chunk's part of the
    embedding's gradient (a CPU adds it by way of a float32 copy). In the backward pass the two gradients
    exist twice.
    """
    rows, hidden = config.padded_vocab_size(vocab_size), config.hidden_size
    chunk = min(chunk, positions)
    states, embedding = positions * hidden * bytes_per_value, rows * hidden
    half = bytes_per_value < 4
    product = chunk * rows * bytes_per_value
    with_copy = product + (4 * chunk * rows if half else 0)
    with_part = product + (embedding * (bytes_per_value + (0 if cuda else 4)) if half else 0)
    twice = states + embedding * bytes_per_value
    return states + 4 * embedding + max(with_copy, with_part, twice)


def memory(
    config: ModelConfig,
    train: TrainConfig,
    vocab_size: int,
    workers: int | None = None,
    cuda: bool = True,
) -> Memory:
    """Bytes on one of `workers` workers (absent: train.workers), as model.engine sets up DeepSpeed.

    ZeRO 1 divides the optimizer's states among the workers, 2 the gradients too, 3 the weights too
    (Rajbhandari et al. 2020, section 3); tensor parallelism divides the layers before that. What DeepSpeed
    adds: float32 weights beside the model's own with every ZeRO stage, buckets (two on CUDA, where
    communication overlaps), a copy of the gradients that are reduced, the gradients in float32 at the update.
    On a CPU, Adam computes two values per weight that the fused one of CUDA does not store. Precision auto
    counts as float16. Not in it: fragmentation, the CUDA context, what ZeRO 3 gathers of other workers'
    weights (DeepSpeed's stage3_max_live_parameters), offloading's buffers.
    """
    split = train.tensor_parallel
    replicas = (workers or train.workers) // split
    stage, count = train.zero_stage, owned_parameters(config, vocab_size, split)
    width = 4 if train.precision == "fp32" else 2
    divided = [replicas if stage >= least else 1 for least in (1, 2, 3)]
    positions, hidden = train.micro_batch_size * config.max_sequence_length, config.hidden_size
    embedding = config.padded_vocab_size(vocab_size) * hidden
    whole, owned = width * count, width * count // divided[0]
    bucket = width * bucket_size(train, count)
    buckets = bucket * (2 if cuda else 1)

    weights = whole // divided[2]
    master = 0 if stage == 0 and train.precision == "fp32" else 4 * count // divided[0]
    states = master + 8 * count // divided[0]
    optimizer = 0 if train.offload_optimizer else states
    sizes = train.micro_batch_size, config.max_sequence_length, width
    activations = activation_bytes(config, *sizes, train.activation_checkpointing, split)
    logits = logits_bytes(config, vocab_size, positions, train.loss_chunk, width, cuda)

    # Gradients: held while another micro batch is computed, at the start of a backward pass, and at its end.
    accumulates = train.global_batch_size > train.micro_batch_size * replicas
    if stage == 0:
        held, buffers, ended = whole * accumulates, 0, whole + bucket
    elif stage == 1 and not cuda:
        held, buffers = (owned + bucket) * accumulates, bucket * (not accumulates)
        ended = whole + max(bucket, owned)
    elif stage < 3:
        held, buffers = owned * accumulates, buckets
        ended = held + buckets + owned
    else:
        held, buffers = owned + bucket, 0
        ended = held + 2 * bucket
    # The first layer of the backward pass: its activations and, at the MLP, the gradients of its input, of
    # the residual stream and of the inner values; the final LayerNorm's are gone.
    first = activations - positions * (2 * hidden * width + 8)
    first += positions * (2 * hidden + config.mlp_size // split) * width + embedding * width
    if train.activation_checkpointing:
        first += layer_bytes(config, positions, width, split)
    # The update: Adam's two values are those of the largest tensor, which with ZeRO is the flat group of all
    # weights that decay.
    largest = max(embedding, hidden * config.mlp_size // split) if stage == 0 else count // divided[0]
    in_float32 = 0 if stage == 0 and width == 4 or train.offload_optimizer else 4 * count // divided[0]
    reduced = whole if stage == 0 else held if stage == 3 else owned
    adam = 0 if cuda or train.offload_optimizer else 8 * largest
    base = weights + optimizer
    return Memory(
        weights=weights,
        gradients=ended,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        forward=base + held + activations + logits,
        backward=base + max(held + buffers + first, ended),
        update=base + reduced + in_float32 + adam,
        host=states if train.offload_optimizer else 0,
    )


def checkpoint_bytes(config: ModelConfig, train: TrainConfig, vocab_size: int) -> int:
    """Bytes of one checkpoint: Adam's two moments and master weights in float32, and the model's weights.

    ZeRO 3 leaves those out, ZeRO 0 in float32 has no others.
    """
    width = 4 if train.precision == "fp32" else 2
    weights = 0 if train.zero_stage == 3 else width
    master = 0 if train.zero_stage == 0 and width == 4 else 4
    return (8 + master + weights) * parameters(config, vocab_size).unique


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
            found = plan(config, train, vocab_size, workers=replicas * split, gpu=gpu, mfu=mfu)
            if found.days <= days:
                return found.workers
    raise UserError(
        f"{most * split} workers, the most for train.global_batch_size = {train.global_batch_size}"
        f"{', batch_warmup' if train.batch_warmup else ''} and micro_batch_size = {train.micro_batch_size}, "
        f"take {found.days:.1f} days, not {days:g}"
    )
