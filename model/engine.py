"""DeepSpeed set-up: process group, engine, learning-rate schedules.

Nothing here compiles a C++ operator: the optimizer is torch's AdamW, fused on CUDA.
"""

import importlib
import logging
import math
import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.utils import is_model_parallel_parameter
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from deepspeed.utils import groups

from base.errors import UserError
from model.config import ModelConfig, OptimizerConfig, TrainConfig
from model.job import precision_of
from model.neox import NeoX, weight_decay_groups
from model.plan import bucket_size

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of 0-based `step` of `steps`.

    Linear warm-up, then cosine decay (Loshchilov & Hutter 2017), warmup-stable-decay (Hu et al. 2024,
    MiniCPM; here with a linear decay) or a constant. The linear decay reaches the smallest rate in the last
    step. The cosine would in the one after it; GPT-NeoX's falls towards 0 instead and stops at the smallest
    rate.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = config.learning_rate - config.min_learning_rate
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        return config.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    start = max(steps - max(1, round(steps * config.decay_fraction)), config.warmup_steps)
    progress = (step + 1 - start) / (steps - start)
    return config.learning_rate - span * min(max(progress, 0.0), 1.0)


def initialize_distributed() -> tuple[int, int]:
    """Join the process group that RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR describe; (rank, world size).

    A process group that exists already (Ray Train makes one) is used. Without the variables this process is
    alone.
    """
    # DeepSpeed would compile its shared-memory collectives on first use, which takes a minute and only serves
    # inference.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
    # Its messages would drown the run's own; what matters of them is in the journal.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
    }.items():
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = "0" if os.environ["WORLD_SIZE"] == "1" else "29500"
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()


def deepspeed_config(config: TrainConfig, world: int, parameters: int) -> dict[str, Any]:
    """The settings DeepSpeed gets for `world` workers and a model of so many parameters."""
    precision = precision_of(config)
    bucket = bucket_size(config, parameters)
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": torch.cuda.is_available(),
    }
    if config.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = bucket // 10
        # Its replacement of torch's linear outlives the engine and rounds before it adds the bias.
        zero["memory_efficient_linear"] = False
        zero.pop("allgather_bucket_size")
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    zero.update(config.deepspeed.get("zero_optimization", {}))
    scale = config.loss_scale
    return {
        **config.deepspeed,
        "train_batch_size": config.global_batch_size,
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.global_batch_size
        * config.tensor_parallel
        // (config.micro_batch_size * world),
        "gradient_clipping": config.optimizer.gradient_clipping,
        "steps_per_print": None,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "fp16": {
            "enabled": precision == "fp16",
            "loss_scale": scale.static,
            "initial_scale_power": scale.initial_power,
            "loss_scale_window": scale.window,
            "hysteresis": scale.hysteresis,
            "min_loss_scale": scale.minimum,
        },
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": True},
        **tensor_parallel(config.tensor_parallel),
    }


def tensor_parallel(size: int) -> dict[str, Any]:
    """DeepSpeed's settings that split every layer among `size` workers; none for 1.

    The first linear map of attention and MLP is split by rows of its weight, the second by columns. Rows of
    the fused query, key and value stand head by head, so that equal parts of them are whole heads.
    """
    if size == 1:
        return {}
    first = {"patterns": [r".*\.query_key_value\.weight$", r".*\.dense_h_to_4h\.weight$"]}
    second = {"patterns": [r".*\.attention\.dense\.weight$", r".*\.dense_4h_to_h\.weight$"]}
    specs = [{**first, "partition_type": "column"}, {**second, "partition_type": "row"}]
    return {
        "tensor_parallel": {
            "autotp_size": size,
            "partition_config": {"use_default_specs": False, "layer_specs": specs},
        }
    }


class VetoedAdamW(torch.optim.AdamW):
    """AdamW whose steps can be refused when the gradients are whole: then nothing changes, as with zero rate.

    DeepSpeed knows the gradient norm only inside its own step, just before it calls this.
    """

    veto: Callable[[], bool] | None = None

    def step(self, closure: Any = None) -> Any:
        """One update, unless `veto` says no."""
        if self.veto is not None and self.veto():
            return None
        return super().step(closure)


def build_engine(
    model_config: ModelConfig,
    config: TrainConfig,
    vocab_size: int,
    end_of_document_id: int,
    world: int,
) -> Any:
    """A DeepSpeed engine around a freshly initialised NeoX model, the same for any world size and ZeRO stage.

    It skips optimizer steps whose gradients are not finite, whatever the precision.
    """
    precision = precision_of(config)
    accelerator = get_accelerator()
    if config.compile and precision != "fp32" and accelerator.device_name() == "cpu":
        # Two biases that are added have one gradient: inductor then declares a C++ variable twice.
        raise UserError(
            f"train.compile: on a CPU torch {torch.__version__} compiles train.precision fp32 alone, "
            f"not {precision}"
        )
    if precision == "fp16" and accelerator.device_name() == "cpu":
        # torch computes float16 on any CPU, slowly; DeepSpeed only asks whether it is fast there.
        accelerator.is_fp16_supported = MethodType(lambda self: True, accelerator)
    options: dict[str, Any] = {
        "end_of_document_id": end_of_document_id,
        "activation_checkpointing": config.activation_checkpointing,
        "loss_chunk": config.loss_chunk,
    }
    with torch.device("meta"):
        parameters = sum(p.numel() for p in NeoX(model_config, vocab_size, seed=None, **options).parameters())
    settings = deepspeed_config(config, world, parameters)
    partitioned = (
        deepspeed.zero.Init(config_dict_or_path=settings)  # given a dtype, it takes bf16 on a CPU
        if config.zero_stage == 3
        else nullcontext()
    )
    with partitioned:
        model = NeoX(model_config, vocab_size, seed=None, **options)
    model.initialize(config.seed)
    optimizer = VetoedAdamW(
        weight_decay_groups(model, config.optimizer.weight_decay),  # type: ignore[arg-type]
        lr=config.optimizer.learning_rate,
        betas=config.optimizer.betas,
        eps=config.optimizer.epsilon,
        fused=torch.cuda.is_available() and not config.offload_optimizer,
    )
    if config.tensor_parallel > 1:  # DeepSpeed needs the groups before it checks the batch sizes
        groups._init_tp_mesh_device(config.tensor_parallel)
    mpu = groups if config.tensor_parallel > 1 else None
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=settings, mpu=mpu, dist_init_required=False
    )
    if hasattr(engine.optimizer, "check_grad_overflow"):
        engine.optimizer.check_grad_overflow = True
    if isinstance(engine.optimizer, DeepSpeedZeroOptimizer) and not config.offload_optimizer:
        _one_look_at_gradients(engine.optimizer)
    if isinstance(engine.optimizer, FP16_UnfusedOptimizer):  # ZeRO-0 in half precision
        # It has taken a step on zero gradients to allocate its state: weights decayed, Adam counts one step.
        engine.optimizer.optimizer.state.clear()
        engine.optimizer.refresh_fp32_params()
        if precision == "fp16" and not config.loss_scale.static:
            _follow_hysteresis(engine.optimizer, config)
    if hasattr(engine.optimizer, "loss_scaler"):
        # Overflow at the smallest scale would raise with gradients left behind; the loop's guard sees to it.
        engine.optimizer.loss_scaler.raise_error_at_min_scale = False
    if config.compile:
        engine.module.compile_parts()
    return engine


def _one_look_at_gradients(optimizer: DeepSpeedZeroOptimizer) -> None:
    """Make ZeRO 1 and 2 read the gradients once for their norm, instead of twice with many kernels a tensor.

    DeepSpeed looks for values that are not finite before it takes the norm, waiting for the GPU; but then the
    norm is not finite, and it calls that an overflow too. Its norms are those of copies in float64.
    """

    def norm(gradients: list[Tensor], parameters: list[Tensor], norm_type: float = 2) -> Tensor:
        whole = (gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False))
        counted = [
            gradient
            for gradient, parameter in zip(whole, parameters, strict=False)
            if is_model_parallel_parameter(parameter) or optimizer.model_parallel_rank == 0
        ]
        total = torch.zeros((), dtype=torch.float32, device=optimizer.device)
        if counted:
            norms = torch.stack(torch._foreach_norm(counted, 2.0, dtype=torch.float32))
            total = norms.double().square().sum().float()
        deepspeed.comm.all_reduce(total, group=optimizer.dp_process_group)
        optimizer._model_parallel_all_reduce(total, deepspeed.comm.ReduceOp.SUM)
        return total.sqrt()

    optimizer.has_overflow = lambda partition_gradients=True: False
    optimizer.get_grad_norm_direct = norm


def _follow_hysteresis(optimizer: FP16_UnfusedOptimizer, config: TrainConfig) -> None:
    """Give ZeRO-0's FP16 optimizer the loss-scale rule of the other stages: its own one has no hysteresis."""
    state = optimizer.loss_scale_config
    scaler = DynamicLossScaler(
        state.cur_scale,
        config.loss_scale.window,
        config.loss_scale.minimum,
        config.loss_scale.hysteresis,
        False,
        raise_error_at_min_scale=False,
    )

    def update(skip: bool) -> None:
        scaler.update_scale(skip)
        state.cur_scale = scaler.cur_scale

    save, load = optimizer.state_dict, optimizer.load_state_dict

    def load_state_dict(content: dict[str, Any], load_optimizer_states: bool = True) -> None:
        scaler.__dict__.update(content["piledriver_loss_scaler"])
        load(content, load_optimizer_states)

    optimizer._update_scale = update
    optimizer.state_dict = lambda: {**save(), "piledriver_loss_scaler": dict(vars(scaler))}
    optimizer.load_state_dict = load_state_dict


def loss_scale(engine: Any) -> float:
    """The scale that the next loss is multiplied by; 1 without FP16."""
    return float(engine.optimizer.loss_scale) if engine.fp16_enabled() else 1.0


def backward(engine: Any, loss: Tensor) -> None:
    """The backward pass of one micro batch's loss."""
    if isinstance(engine.optimizer, FP16_UnfusedOptimizer) and engine.fp16_enabled():
        # DeepSpeed 0.19 divides the gradients of its ZeRO-0 FP16 optimizer by a scale it never applied.
        loss = loss.float() * engine.optimizer.loss_scale
    engine.backward(loss)


def apply_step(engine: Any, rate: float, veto: Callable[[float], bool]) -> tuple[float, bool]:
    """One optimizer step: the global gradient norm before clipping, and whether it was finite.

    The step is skipped when the norm is not finite, or veto(norm). Call it at the accumulation boundary,
    after the backward pass.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    plain = not hasattr(engine.optimizer, "overflow")  # ZeRO-0 in fp32: torch's own optimizer
    if plain:
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm) or veto(norm):
            engine.zero_grad()
            engine.micro_steps += 1
            engine.global_steps += 1
            engine.skipped_steps += 1
            return norm, math.isfinite(norm)
        engine.step()
        return norm, True
    unscale = loss_scale(engine) if isinstance(engine.optimizer, FP16_UnfusedOptimizer) else 1.0
    verdict: list[bool] = []

    def refused() -> bool:  # ZeRO-3 asks for each group of parameters
        if not verdict:
            verdict.append(veto(float(engine.optimizer._global_grad_norm) / unscale))
        return verdict[0]

    inner = engine.optimizer.optimizer
    inner.veto = refused
    try:
        engine.step()
    finally:
        inner.veto = None
    if engine.optimizer.overflow:
        return math.inf, False
    return float(engine.get_global_grad_norm() or 0.0) / unscale, True
