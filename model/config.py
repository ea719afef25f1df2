"""Settings of the model and of training. Imports no torch, so that a bad file fails at once."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from base.settings import Section


class ModelConfig(Section):
    """GPT-NeoX architecture (Black et al. 2022, arXiv:2204.06745)."""

    hidden_size: int = Field(192, ge=8, le=2**20)
    """Width of the residual stream."""
    num_layers: int = Field(4, ge=1, le=2**12)
    """Transformer layers."""
    num_heads: int = Field(6, ge=1, le=2**16)
    """Attention heads; must divide hidden_size."""
    intermediate_size: int | None = Field(None, ge=8, le=2**24)
    """Width of the MLP; 4 × hidden_size when absent."""
    max_sequence_length: int = Field(256, ge=8, le=2**24)
    """Positions of a training sequence."""
    rotary_fraction: float = Field(0.25, gt=0, le=1)
    """Share of each head's dimensions that is rotated (GPT-NeoX: rotary_pct)."""
    rotary_base: float = Field(10000.0, gt=0)
    """Base of the rotary frequencies."""
    parallel_residual: bool = True
    """Attention and MLP read the same input and are added together (GPT-NeoX: gpt_j_residual)."""
    attention_bias: bool = True
    """Biases in the attention's two linear maps."""
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    """Activation of the MLP: exact GELU, or its tanh approximation (GPT-NeoX's fused kernel)."""
    layer_norm_epsilon: float = Field(1e-5, gt=0)
    """Epsilon of the LayerNorms."""
    vocab_multiple: int = Field(128, ge=1, le=2**20)
    """The vocabulary is padded to a multiple of this × model_parallel_size (GPT-NeoX:
    make_vocab_size_divisible_by)."""
    model_parallel_size: int = Field(1, ge=1, le=2**16)
    """Tensor-parallel ranks that the vocabulary is padded for and that GPT-NeoX's parameter count assumes
    (GPT-NeoX: model-parallel-size). It does not split the model."""
    tie_embeddings: bool = False
    """Share input and output embeddings."""
    init_method: Literal["normal", "small_init"] = "small_init"
    """Initialisation of matrices: normal(0, 0.02), or sqrt(2 / (5 hidden)) (Nguyen & Salazar 2019)."""
    output_init_method: Literal["normal", "wang_init"] = "wang_init"
    """Initialisation of output projections: as init_method, or 2 / (layers sqrt(hidden)) (Wang 2021)."""
    attention_reset: bool = False
    """Do not attend across document ends within a packed sequence."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide hidden_size {self.hidden_size}")
        if self.rotary_size < 2 or self.rotary_size % 2:
            raise ValueError(
                f"rotary_fraction {self.rotary_fraction} rotates {self.rotary_size} of a head's "
                f"{self.head_size} dimensions; it must be an even number of at least 2"
            )
        return self

    @property
    def head_size(self) -> int:
        """Dimensions of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def rotary_size(self) -> int:
        """Dimensions of each head that are rotated."""
        return int(self.head_size * self.rotary_fraction)

    @property
    def mlp_size(self) -> int:
        """Width of the MLP."""
        return self.intermediate_size or 4 * self.hidden_size

    def padded_vocab_size(self, vocab_size: int) -> int:
        """Rows of the embedding matrices for a tokenizer of `vocab_size` tokens."""
        multiple = self.vocab_multiple * self.model_parallel_size
        return -(-vocab_size // multiple) * multiple


class OptimizerConfig(Section):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    min_learning_rate: float = Field(1e-4, ge=0)
    """Learning rate at the end of the schedule; at most learning_rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's decay rates, each from 0 to below 1."""
    epsilon: float = Field(1e-8, gt=0)
    """Adam's epsilon."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay, not on norms and biases."""
    gradient_clipping: float = Field(1.0, ge=0)
    """Largest global gradient norm; 0 switches clipping off."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Learning-rate schedule after the warm-up."""
    warmup_steps: int = Field(20, ge=0)
    """Steps of linear warm-up."""
    decay_fraction: float = Field(0.2, gt=0, le=1)
    """Share of all steps in which the wsd schedule decays; a longer warm-up leaves it fewer."""

    @model_validator(mode="after")
    def _rates_fall(self) -> "OptimizerConfig":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {list(self.betas)} must each be at least 0 and below 1")
        if self.schedule != "constant" and self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate:g} must not be above learning_rate "
                f"{self.learning_rate:g}"
            )
        return self


class LossScaleConfig(Section):
    """FP16 loss scaling (Micikevicius et al. 2018)."""

    static: float = Field(0.0, ge=0)
    """A constant loss scale; 0 for dynamic scaling."""
    initial_power: int = Field(16, ge=0, le=32)
    """The dynamic scale starts at 2 to this power."""
    window: int = Field(1000, ge=1)
    """Steps without overflow after which the scale doubles."""
    hysteresis: int = Field(2, ge=1)
    """Overflows before the scale is halved."""
    minimum: float = Field(1.0, gt=0)
    """The scale never falls below this."""


class CheckpointConfig(Section):
    """When checkpoints are written and which are kept."""

    every: int = Field(100, ge=1)
    """Steps between checkpoints."""
    keep_last: int = Field(2, ge=1)
    """Newest checkpoints that stay."""
    keep_every: int | None = Field(None, ge=1)
    """Checkpoints at multiples of this step stay for good."""
    keep_best: int = Field(0, ge=0)
    """So many checkpoints with the lowest held-out loss stay too; only steps that were evaluated count."""
    stop_after_failures: int = Field(3, ge=0)
    """Training stops when the run has no checkpoint and so many in a row could not be written; 0 goes on."""
    asynchronous: bool = True
    """Copy the state to host memory and write it while training goes on."""


class GuardConfig(Section):
    """Steps that are not taken, and runs that hang."""

    sigmas: float = Field(6.0, ge=0)
    """A step whose loss or gradient norm is this many standard deviations above the mean of the latest ones
    is skipped; 0 skips only what is not finite."""
    window: int = Field(128, ge=4)
    """The latest accepted steps that mean and deviation are taken of; half as many are needed to begin."""
    rollback_after: int = Field(8, ge=0)
    """Skipped steps one after the other after which the weights go back to the last checkpoint and the
    samples since then are left out; 0 never goes back. FP16 overflows above the smallest loss scale do not
    count."""
    max_rollbacks: int = Field(2, ge=1)
    """Returns to one checkpoint before training stops."""
    hang_seconds: float = Field(1800.0, ge=0)
    """A worker that makes no progress for so long writes its stacks to <run>/hangs and ends; 0 waits for
    ever."""


class SamplesConfig(Section):
    """Texts that the model continues at each evaluation."""

    prompts: list[str] = []
    """What it continues; absent: the beginnings of held-out documents of four sources."""
    tokens: int = Field(32, ge=0)
    """Tokens of a continuation, at most half of max_sequence_length; 0 switches samples off."""

    @field_validator("prompts")
    @classmethod
    def _are_text(cls, prompts: list[str]) -> list[str]:
        for number, prompt in enumerate(prompts):
            if any("\ud800" <= character <= "\udfff" for character in prompt):
                raise ValueError(f"prompt {number} holds half of a surrogate pair, which is no text")
        return prompts


class BatchWarmup(Section):
    """Growth of the global batch at the beginning, as a staircase (GPT-NeoX: rampup_batch_size)."""

    start: int = Field(ge=1)
    """Sequences in the first step."""
    increment: int = Field(ge=1)
    """Sequences that each stair adds."""
    steps: int = Field(ge=1)
    """Steps until global_batch_size is reached."""


class TrainConfig(Section):
    """Pretraining."""

    steps: int = Field(200, ge=1)
    """Optimizer steps."""
    global_batch_size: int = Field(16, ge=1)
    """Sequences in one optimizer step, over all workers."""
    batch_warmup: BatchWarmup | None = None
    """Smaller batches at the beginning."""
    micro_batch_size: int = Field(8, ge=1)
    """Sequences in one forward pass of one worker."""
    seed: int = Field(1234, ge=0)
    """Seed of the initialisation and of the order of samples."""
    precision: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    """auto: fp16 on CUDA, bf16 on a CPU with AVX-512 or the like, else fp32."""
    export_precision: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    """Of the model in Hugging Face format, whatever the zero_stage. auto: that of the run; fp32: its master
    weights, twice as large as in half precision."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage (Rajbhandari et al. 2020)."""
    tensor_parallel: int = Field(1, ge=1)
    """Workers that share each layer: attention heads and the MLP's width are split among them (Shoeybi et
    al. 2019, by DeepSpeed's AutoTP), embeddings are not. Needs zero_stage 1 or 2."""
    offload_optimizer: bool = False
    """Keep optimizer states in host memory."""
    activation_checkpointing: bool = False
    """Recompute each layer's activations in the backward pass."""
    compile: bool = False
    """Run layers and loss through torch.compile: a tenth faster on a GPU. On a CPU in fp32 alone; not with
    zero_stage 3, whose hooks inside the layers leave nothing to compile."""
    loss_chunk: int = Field(1024, ge=1)
    """Positions whose logits exist at one time in the chunked cross-entropy."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer and schedule."""
    loss_scale: LossScaleConfig = LossScaleConfig()
    """FP16 loss scaling."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints."""
    damaged_shards: Literal["stop", "skip"] = "stop"
    """A shard that cannot be read: stop, or train on other samples of its source instead."""
    verify_shards: bool = False
    """Compare each shard with its digest when it is first read; every worker then reads it whole."""
    deepspeed: dict[str, Any] = {}
    """DeepSpeed settings beyond these, by DeepSpeed's names, such as {zero_optimization: {sub_group_size:
    1000000}}; those that this section decides, and unknown ones, are errors."""
    guard: GuardConfig = GuardConfig()
    """Spikes, values that are not finite, hangs."""
    rate_jump: Literal["stop", "accept"] = "stop"
    """When the learning rate of a run that is continued would leave its curve, because steps or optimizer are
    others now: stop with one sentence, or accept that."""
    log_every: int = Field(10, ge=1)
    """Steps between logged metrics."""
    evaluate_every: int = Field(100, ge=1)
    """Steps between evaluations of held-out loss."""
    evaluate_batches: int = Field(4, ge=0)
    """Micro batches per source in an evaluation; 0 switches it off."""
    samples: SamplesConfig = SamplesConfig()
    """Samples of text at each evaluation; not with ZeRO 3."""
    workers: int = Field(1, ge=1)
    """Training processes (one a GPU, or CPU processes)."""
    min_workers: int | None = Field(None, ge=1)
    """Train with as few workers as this when the cluster has no room for more, and with up to `workers` when
    it has; absent: always with `workers`."""
    resize_seconds: float = Field(60.0, gt=0)
    """Seconds between looks whether the cluster has room for more workers, with min_workers."""
    cpus_per_worker: int = Field(1, ge=1)
    """CPU cores, and torch threads on CPU, of a worker."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: GPUs when the cluster has enough of them, or starts nodes that have."""
    max_failures: int = Field(3, ge=0)
    """Times Ray Train restarts the workers after a failure."""
    peak_tflops: float | None = Field(None, gt=0)
    """Peak TFLOP/s of one worker for MFU; measured by a short matrix product when absent."""

    @model_validator(mode="after")
    def _settings_fit(self) -> "TrainConfig":
        self._check_tensor_parallel()
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile needs zero_stage 0, 1 or 2, not 3")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3, not 0")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} must not be above workers {self.workers}")
        for workers in range(self.min_workers or self.workers, self.workers + 1):
            problem = self.misfit(workers)
            if problem is not None:
                least = self.min_workers
                elastic = f", for every number of workers from min_workers {least} on" if least else ""
                raise ValueError(problem + elastic)
        if self.batch_warmup is not None:
            rise = self.global_batch_size - self.batch_warmup.start
            if rise <= 0 or rise % self.batch_warmup.increment:
                raise ValueError(
                    f"batch_warmup must lead from start {self.batch_warmup.start} to global_batch_size "
                    f"{self.global_batch_size} by whole increments of {self.batch_warmup.increment}"
                )
        return self

    def batch_sizes(self) -> dict[str, int]:
        """What workers must share evenly, by setting: every global batch is a sum of these."""
        sizes = {"global_batch_size": self.global_batch_size}
        if self.batch_warmup is not None:
            sizes["batch_warmup.start"] = self.batch_warmup.start
            sizes["batch_warmup.increment"] = self.batch_warmup.increment
        return sizes

    def misfit(self, workers: int) -> str | None:
        """Why so many workers cannot share every global batch evenly; None when they can."""
        if workers % self.tensor_parallel:
            return f"workers {workers} must be a multiple of tensor_parallel {self.tensor_parallel}"
        per_pass = self.micro_batch_size * workers // self.tensor_parallel
        product, values = "micro_batch_size × workers", f"{self.micro_batch_size} × {workers}"
        if self.tensor_parallel > 1:
            product, values = f"{product} / tensor_parallel", f"{values} / {self.tensor_parallel}"
        for name, size in self.batch_sizes().items():
            if size % per_pass:
                return f"{name} {size} must be a multiple of {product} = {values} = {per_pass}"
        return None

    def _check_tensor_parallel(self) -> None:
        if self.tensor_parallel == 1:
            return
        if self.zero_stage not in (1, 2):
            raise ValueError(f"tensor_parallel needs zero_stage 1 or 2, not {self.zero_stage}")
        if self.min_workers not in (None, self.workers):
            raise ValueError("tensor_parallel needs a fixed number of workers: leave min_workers out")
