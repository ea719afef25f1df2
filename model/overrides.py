"""Where DeepSpeed's optimizers have to do otherwise than they do."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import model.accelerator  # noqa: F401 - before DeepSpeed

# isort: split
import deepspeed
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.utils import is_model_parallel_parameter
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from model.config import TrainConfig


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


def correct(engine: Any, config: TrainConfig) -> None:
    """Make the optimizer of a fresh engine skip steps that are not finite, alike at every ZeRO stage."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "check_grad_overflow"):
        optimizer.check_grad_overflow = True
    if isinstance(optimizer, DeepSpeedZeroOptimizer) and not config.offload_optimizer:
        _one_look_at_gradients(optimizer)
    if isinstance(optimizer, FP16_UnfusedOptimizer):  # ZeRO-0 in half precision
        # It has taken a step on zero gradients to allocate its state: weights decayed, Adam counts one step.
        optimizer.optimizer.state.clear()
        optimizer.refresh_fp32_params()
        if engine.fp16_enabled() and not config.loss_scale.static:
            _follow_hysteresis(optimizer, config)
    if hasattr(optimizer, "loss_scaler"):
        # Overflow at the smallest scale would raise with gradients left behind; the loop's guard sees to it.
        optimizer.loss_scaler.raise_error_at_min_scale = False


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
