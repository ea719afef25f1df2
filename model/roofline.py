"""How long a training step takes on GPUs: each part by what bounds it (Williams, Waterman, Patterson 2009).

Matrix products and attention are bounded by the processor, all else in a layer and the optimizer by device
memory, communication by the links between GPUs. The shares of the data sheets' peaks that are reached are the
constants below, fitted to steps of StableLM's 3B and of four of its layers on one H200 in float16
(benchmarks/results/train_recipe_16.json and _4.json), which they give within one percent. What more than one
GPU takes was not measured.
"""

from dataclasses import dataclass

from model.config import ModelConfig, TrainConfig

MATRIX_SHARE = 0.705
"""Of the peak, by the products of layers and output embedding."""
ATTENTION_SHARE = 0.377
"""Of the peak, by cuDNN's attention, forward and backward."""
BANDWIDTH_SHARE = 0.85
"""Of device memory's and the links' bandwidth, by long reads and writes."""
UPDATE_SHARE = 0.36
"""Of device memory's bandwidth, by DeepSpeed's many passes over gradients and weights, pauses included."""
EAGER = 2.5
"""How much longer elementwise work takes when torch.compile does not fuse it."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU by its data sheet, and how many of them share fast links."""

    tflops: float
    """Dense FP16 and BF16 TFLOP/s."""
    terabytes_per_second: float
    """Of device memory."""
    memory_gib: float
    """What a program can use of device memory."""
    link_gigabytes_per_second: float
    """To the other GPUs of its machine, in one direction."""
    network_gigabytes_per_second: float
    """To other machines, for each GPU: one 400 Gb/s (A100: 200 Gb/s) adapter a GPU."""
    machine: int = 8
    """GPUs of one machine."""


GPUS = {
    "h200": Gpu(
        tflops=989,
        terabytes_per_second=4.8,
        memory_gib=139,
        link_gigabytes_per_second=450,
        network_gigabytes_per_second=50,
    ),
    "h100": Gpu(
        tflops=989,
        terabytes_per_second=3.35,
        memory_gib=78,
        link_gigabytes_per_second=450,
        network_gigabytes_per_second=50,
    ),
    "a100": Gpu(
        tflops=312,
        terabytes_per_second=2.04,
        memory_gib=78,
        link_gigabytes_per_second=300,
        network_gigabytes_per_second=25,
    ),
}
"""SXM parts, as NVIDIA's data sheets give them."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of one optimizer step on each worker, by part; nothing overlaps but what is said to."""

    matrices: float
    attention: float
    elementwise: float
    """LayerNorm, rotary embedding, activation, residual sums, loss."""
    optimizer: float
    communication: float
    """What no computation hides: tensor parallelism, weights that are gathered, gradients that are reduced
    for longer than the backward pass takes."""

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.matrices + self.attention + self.elementwise + self.optimizer + self.communication


def step(
    config: ModelConfig, train: TrainConfig, padded_vocab: int, owned: int, workers: int, gpu: Gpu
) -> Step:
    """One step of `train` on `workers` GPUs, of which each has `owned` parameters before ZeRO divides them.

    FLOPs are those that the GPU computes: attention without what the causal mask discards, and the forward
    pass of layers once more with activation checkpointing. Elementwise work counts the hidden-size values
    that kernels read and write for a position of a layer: 23 forward (two LayerNorms 4, rotary embedding 5,
    GELU 8, residual sums 6), twice that backward. Precision fp32 counts as TF32, at half the peak.
    """
    split = train.tensor_parallel
    replicas = workers // split
    hidden, length, layers = config.hidden_size, config.max_sequence_length, config.num_layers
    width, peak = (4, gpu.tflops / 2) if train.precision == "fp32" else (2, gpu.tflops)
    tokens = train.global_batch_size // replicas * length
    passes = 4 if train.activation_checkpointing else 3
    layer = 2 * (4 * hidden * hidden + 2 * hidden * config.mlp_size) / split
    matrices = tokens * (passes * layers * layer + 3 * 2 * hidden * padded_vocab)
    attention = tokens * passes * layers * 2 * hidden * length / split
    # The positions that a tensor-parallel worker does not divide are small beside those that it does.
    moved = tokens * layers * passes * 23 * hidden * width / split
    # The loss: logits written, read and written again as float32 and as a gradient, once a token.
    moved += tokens * padded_vocab * (3 * width + 4 * 4)
    if not train.compile:
        moved *= EAGER
    bandwidth = gpu.terabytes_per_second * 1e12
    # Gradients are copied to a bucket, averaged, copied from it, flattened and read for their norm, each in
    # the model's width; cast to float32 and scaled; Adam reads four values, writes three; weights are cast.
    divided = owned / (replicas if train.zero_stage else 1)
    updated = divided * (10 * width + 4 + 8 + 7 * 4 + 4 - width)
    matrix_seconds = matrices / (peak * 1e12 * MATRIX_SHARE)
    attention_seconds = attention / (peak * 1e12 * ATTENTION_SHARE)
    hidden_behind = (matrix_seconds + attention_seconds) * 2 / passes
    return Step(
        matrices=matrix_seconds,
        attention=attention_seconds,
        elementwise=moved / (bandwidth * BANDWIDTH_SHARE),
        optimizer=updated / (bandwidth * UPDATE_SHARE),
        communication=_communication(
            train,
            gpu,
            layers_hidden=layers * hidden,
            tokens=tokens,
            owned=owned,
            split=split,
            replicas=replicas,
            width=width,
            hidden_behind=hidden_behind,
        ),
    )


def _communication(
    train: TrainConfig,
    gpu: Gpu,
    *,
    layers_hidden: int,
    tokens: int,
    owned: int,
    split: int,
    replicas: int,
    width: int,
    hidden_behind: float,
) -> float:
    """Seconds of communication that the backward pass of `hidden_behind` seconds does not hide."""
    link = gpu.link_gigabytes_per_second * 1e9 * BANDWIDTH_SHARE
    across = gpu.network_gigabytes_per_second * 1e9 * BANDWIDTH_SHARE
    # Tensor parallelism: a reduced sum of each layer forward and one backward, twice the bytes each.
    speed = link if split <= gpu.machine else across
    passes = 3 if train.activation_checkpointing else 2
    tensor = passes * 2 * (split - 1) / split * tokens * layers_hidden * width / speed
    share = (replicas - 1) / replicas
    speed = link if split * replicas <= gpu.machine else across
    micro_steps = train.global_batch_size // (train.micro_batch_size * replicas)
    once = owned * width * share / speed
    reduced = once * (micro_steps if train.zero_stage >= 2 else 1)
    # ZeRO 0 sums gradients where the others scatter sums and gather weights; 3 gathers them in both passes.
    gathered = once * (2 * micro_steps if train.zero_stage == 3 else 1)
    exposed = max(reduced - hidden_behind, 0.0)
    if train.zero_stage == 3:
        exposed = max(reduced + gathered - 1.5 * hidden_behind, 0.0)
        gathered = 0.0
    return tensor + exposed + gathered
