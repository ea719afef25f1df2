"""The settings that DeepSpeed gets."""

from typing import Any

import torch

from model.config import TrainConfig
from model.job import precision_of
from model.memory import bucket_size


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
