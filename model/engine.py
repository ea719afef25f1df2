"""DeepSpeed's engine: process group, set-up, and what a step does with it.

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

import model.accelerator  # noqa: F401 - before DeepSpeed

# isort: split
import deepspeed
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.utils import groups

from base.errors import UserError
from model.capture import Capture
from model.config import ModelConfig, TrainConfig
from model.deepspeed_settings import deepspeed_config
from model.job import precision_of
from model.neox import NeoX, weight_decay_groups
from model.overrides import VetoedAdamW, correct

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


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
    correct(engine, config)
    engine.checkpoint_engine = Capture()
    # Beside the optimizer's files it would put a script that reads them; there is no setting for that.
    engine._copy_recovery_script = lambda save_path: None
    if config.compile:
        engine.module.compile_parts()
    return engine


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
