"""Bytes of a training run: on a worker's device, part by part, and of a checkpoint. Arithmetic, no torch."""

from dataclasses import dataclass

from model.config import ModelConfig, TrainConfig
from model.parameters import owned_parameters, parameters

BUCKET = 500_000_000
"""Largest number of elements that ZeRO reduces or gathers at a time."""


@dataclass(frozen=True, kw_only=True)
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


def bucket_size(train: TrainConfig, parameters: int) -> int:
    """Elements of ZeRO's reduction bucket, which it allocates whole."""
    settings = train.deepspeed.get("zero_optimization", {})
    return int(settings.get("reduce_bucket_size", min(BUCKET, parameters)))


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
    config: ModelConfig,
    vocab_size: int,
    *,
    positions: int,
    chunk: int,
    bytes_per_value: int,
    cuda: bool = True,
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
    logits = logits_bytes(
        config, vocab_size, positions=positions, chunk=train.loss_chunk, bytes_per_value=width, cuda=cuda
    )

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
