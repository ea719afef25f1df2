"""What a training run needs: parameters, FLOPs, memory by part, time and cost. Arithmetic only, no torch."""

from dataclasses import dataclass

from model.config import ModelConfig, TrainConfig

H200_PEAK_TFLOPS = 989.0
"""Dense FP16 and BF16 TFLOP/s of an H100 or H200 SXM (NVIDIA data sheet)."""

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
    """Bytes on one worker's device, by part."""

    weights: int
    gradients: int
    optimizer: int
    """Adam's two moments and, in half precision, the float32 weights."""
    activations: int
    """Kept for the backward pass, with activation checkpointing as configured."""
    logits: int
    """The chunked cross-entropy: logits of a chunk, and the gradients it holds until the backward pass."""
    host: int
    """Bytes of host memory per worker: the optimizer's states when they are offloaded."""

    @property
    def total(self) -> int:
        """Bytes on the device, all parts together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True)
class Plan:
    """A training run in numbers."""

    parameters: Parameters
    padded_vocab_size: int
    tokens: int
    """Tokens trained on."""
    tokens_per_step: int
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
    tokens_per_second: float
    """Of all workers."""
    step_seconds: float
    days: float
    cost: float | None
    """In the currency of the price, if there is one."""


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


def activation_bytes(
    config: ModelConfig, sequences: int, sequence_length: int, bytes_per_value: int, checkpointing: bool
) -> int:
    """Bytes kept for the backward pass of `sequences` sequences, without the loss's.

    A layer keeps, in multiples of the hidden size per position: its input 1, the LayerNorms' outputs 2, the
    fused query-key-value 3, the rotated query and key 2, attention's output 1; and the MLP's inner values
    before and after the activation. A layer whose residual is not parallel has one more, between attention
    and MLP. A LayerNorm keeps two float32 per position, attention one per head and position. With
    checkpointing only the layers' inputs stay, and one layer at a time is recomputed. The mask of
    attention_reset has one byte per pair of positions.
    """
    positions = sequences * sequence_length
    hidden, mlp = config.hidden_size, config.mlp_size
    values = (9 if config.parallel_residual else 10) * hidden + 2 * mlp
    statistics = 4 * (4 + config.num_heads)
    layer = positions * (values * bytes_per_value + statistics)
    edge = positions * (2 * hidden * bytes_per_value + 8)  # the final LayerNorm's input and output
    mask = positions * sequence_length if config.attention_reset else 0
    if checkpointing:
        inputs = config.num_layers * positions * hidden * bytes_per_value
        return inputs + layer + edge + mask
    return config.num_layers * layer + edge + mask


def logits_bytes(
    config: ModelConfig, vocab_size: int, positions: int, chunk: int, bytes_per_value: int
) -> int:
    """Bytes of the chunked cross-entropy for `positions` positions.

    Per chunk: logits and their gradient, in half precision also the float32 copy. For all: the gradients of
    the hidden states and, in float32, of the output embedding, whose part from one chunk exists beside it.
    """
    rows, hidden = config.padded_vocab_size(vocab_size), config.hidden_size
    chunk = min(chunk, positions)
    per_chunk = chunk * rows * (2 * bytes_per_value + (4 if bytes_per_value < 4 else 0))
    return per_chunk + positions * hidden * bytes_per_value + rows * hidden * (4 + bytes_per_value)


def memory(config: ModelConfig, train: TrainConfig, vocab_size: int, workers: int | None = None) -> Memory:
    """Bytes on one of `workers` workers (absent: train.workers), after Rajbhandari et al. 2020, section 3.

    ZeRO 1 divides the optimizer's states among the workers, 2 the gradients too, 3 the weights too. Precision
    auto counts as float16. Fragmentation, communication buckets and the CUDA context are not in it.
    """
    workers = workers or train.workers
    count = parameters(config, vocab_size).unique
    width = 4 if train.precision == "fp32" else 2
    share = [workers if train.zero_stage >= stage else 1 for stage in (3, 2, 1)]
    states = (8 if train.precision == "fp32" else 12) * count // share[2]
    positions = train.micro_batch_size * config.max_sequence_length
    return Memory(
        weights=width * count // share[0],
        gradients=width * count // share[1],
        optimizer=0 if train.offload_optimizer else states,
        activations=activation_bytes(
            config, train.micro_batch_size, config.max_sequence_length, width, train.activation_checkpointing
        ),
        logits=logits_bytes(config, vocab_size, positions, train.loss_chunk, width),
        host=states if train.offload_optimizer else 0,
    )


def plan(
    config: ModelConfig,
    train: TrainConfig,
    vocab_size: int,
    *,
    workers: int | None = None,
    mfu: float = 0.45,
    peak_tflops: float | None = None,
    price_per_hour: float | None = None,
) -> Plan:
    """The run of `train` on `workers` workers (absent: train.workers) for a tokenizer of `vocab_size` tokens.

    mfu: model FLOPs utilisation, the share of peak_tflops (per worker; absent: train.peak_tflops, else an
    H200's) that is reached. price_per_hour: of one worker.
    """
    workers = workers or train.workers
    peak = peak_tflops or train.peak_tflops or H200_PEAK_TFLOPS
    length = config.max_sequence_length
    per_token = flops_per_token(config, vocab_size, length)
    tokens_per_step = train.global_batch_size * length
    tokens = train.steps * tokens_per_step
    rate = workers * peak * 1e12 * mfu / per_token
    seconds = tokens / rate
    width = 4 if train.precision == "fp32" else 2
    kept, recomputed = (
        activation_bytes(config, train.micro_batch_size, length, width, checkpointing)
        for checkpointing in (False, True)
    )
    return Plan(
        parameters=parameters(config, vocab_size),
        padded_vocab_size=config.padded_vocab_size(vocab_size),
        tokens=tokens,
        tokens_per_step=tokens_per_step,
        flops_per_token=per_token,
        hardware_flops_per_token=flops_per_token(config, vocab_size, length, train.activation_checkpointing),
        total_flops=per_token * tokens,
        memory=memory(config, train, vocab_size, workers),
        activations_kept=kept,
        activations_recomputed=recomputed,
        workers=workers,
        tokens_per_second=rate,
        step_seconds=tokens_per_step / rate,
        days=seconds / SECONDS_PER_DAY,
        cost=None if price_per_hour is None else price_per_hour * workers * seconds / 3600,
    )
