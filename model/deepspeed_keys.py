"""Which DeepSpeed settings may be given besides those of the train section."""

from typing import Any, Literal

from pydantic import ConfigDict, PositiveFloat, ValidationError

import model.accelerator  # noqa: F401 - before DeepSpeed

# isort: split
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.runtime.config_utils import DeepSpeedConfigModel
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from base.errors import UserError

SECTIONS = {"zero_optimization": DeepSpeedZeroConfig, "comms_logger": CommsLoggerConfig}


class Values(DeepSpeedConfigModel):  # type: ignore[misc]
    """Settings outside of sections, with the values that DeepSpeed takes: it has no class for them."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    communication_data_type: Literal["fp16", "bf16", "fp32"] | None = None
    dump_state: bool = False
    gradient_predivide_factor: PositiveFloat = 1.0
    memory_breakdown: bool = False
    prescale_gradients: bool = False
    wall_clock_breakdown: bool = False


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
    "zero_optimization.cpu_offload": "offload_optimizer",
    "zero_optimization.compute_grad_norm": "guard, which needs the norm,",
    "activation_checkpointing": "activation_checkpointing",
}
"""Settings that have a field of their own in the train section."""
REFUSED = {
    "zero_optimization.offload_param",
    "zero_optimization.cpu_offload_param",
    "zero_optimization.cpu_offload_use_pin_memory",
}
"""Offloading that training here does not support."""


def check_keys(settings: dict[str, Any]) -> None:
    """Raise UserError naming the first key or value that DeepSpeed does not take or that is set elsewhere."""
    for name, value in settings.items():
        _check_name(name)
        if name in Values.model_fields:
            _check_values(Values, {name: value}, ())
        elif name not in SECTIONS:
            known = ", ".join(sorted([*SECTIONS, *Values.model_fields]))
            raise UserError(f"train.deepspeed.{name}: unknown or not supported; known are {known}")
        elif not isinstance(value, dict):
            raise UserError(f"train.deepspeed.{name} = {value!r}: it is a section")
        else:
            for key in value:
                _check_name(f"{name}.{key}")
            _check_values(SECTIONS[name], value, (name,))


def _check_values(section: Any, values: dict[str, Any], place: tuple[str, ...]) -> None:
    try:
        section(strict=True, **values)
    except ValidationError as error:
        first = error.errors()[0]
        unknown = first["type"] == "extra_forbidden"
        problem = "DeepSpeed does not know this key" if unknown else f"{first['input']!r}: {first['msg']}"
        key = ".".join(str(part) for part in (*place, *first["loc"]))
        raise UserError(f"train.deepspeed.{key}{': ' if unknown else ' = '}{problem}") from None


def _check_name(name: str) -> None:
    if name in DECIDED:
        raise UserError(f"train.deepspeed.{name}: set train.{DECIDED[name]} instead")
    if name in REFUSED:
        raise UserError(f"train.deepspeed.{name}: not supported; only train.offload_optimizer offloads")
