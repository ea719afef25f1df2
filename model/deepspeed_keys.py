"""Which DeepSpeed settings may be given besides those of the train section."""

import os
from typing import Any

import torch
from pydantic import ValidationError

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from base.errors import UserError

SECTIONS = {"zero_optimization": DeepSpeedZeroConfig, "comms_logger": CommsLoggerConfig}
VALUES = {
    "communication_data_type",
    "dump_state",
    "gradient_predivide_factor",
    "memory_breakdown",
    "prescale_gradients",
    "wall_clock_breakdown",
}
DECIDED = {
    "train_batch_size": "global_batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch_size",
    "gradient_accumulation_steps": "global_batch_size",
    "gradient_clipping": "optimizer.gradient_clipping",
    "optimizer": "optimizer",
    "scheduler": "optimizer.schedule",
    "fp16": "precision and train.loss_scale",
    "bf16": "precision",
    "zero_optimization.stage": "zero_stage",
    "zero_optimization.offload_optimizer": "offload_optimizer",
    "zero_optimization.compute_grad_norm": "guard, which needs the norm,",
    "activation_checkpointing": "activation_checkpointing",
}
"""Settings that have a field of their own in the train section."""


def check_keys(settings: dict[str, Any]) -> None:
    """Raise UserError naming the first key that DeepSpeed does not know, or that has a field of its own."""
    for name, value in settings.items():
        _check_decided(name)
        if name not in VALUES and name not in SECTIONS:
            known = ", ".join(sorted([*SECTIONS, *VALUES]))
            raise UserError(f"train.deepspeed.{name}: unknown or not supported; known are {known}")
        if name in SECTIONS:
            if not isinstance(value, dict):
                raise UserError(f"train.deepspeed.{name} = {value!r}: it is a section")
            for key in value:
                _check_decided(f"{name}.{key}")
            try:
                SECTIONS[name](strict=True, **value)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in (name, *first["loc"]))
                unknown = first["type"] == "extra_forbidden"
                problem = "DeepSpeed does not know this key" if unknown else first["msg"]
                raise UserError(f"train.deepspeed.{place}: {problem}") from None


def _check_decided(name: str) -> None:
    if name in DECIDED:
        raise UserError(f"train.deepspeed.{name}: set train.{DECIDED[name]} instead")
