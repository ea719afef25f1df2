"""The first values of a model's parameters."""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import torch
import xxhash
from torch import Tensor, nn

from model.config import ModelConfig


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Set every parameter as the configuration's init methods say.

    Values are the same on any device, in any dtype and at any ZeRO stage: each matrix has a random stream of
    its own, by (seed, name), and is drawn on the CPU in float32. small_init: Nguyen & Salazar 2019
    (arXiv:1910.05895); wang_init: Wang & Komatsuzaki 2021 (GPT-J). Embeddings are initialised as the matrices
    are (GPT-NeoX does so).
    """
    inner = math.sqrt(2 / (5 * config.hidden_size)) if config.init_method == "small_init" else 0.02
    output = 2 / (config.num_layers * math.sqrt(config.hidden_size))

    def draw(named: tuple[str, nn.Parameter]) -> Tensor:
        name, parameter = named
        shape = getattr(parameter, "ds_shape", parameter.shape)
        if name.endswith("norm.weight"):
            return torch.ones(shape)
        if name.endswith(".bias"):
            return torch.zeros(shape)
        is_output = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
        std = output if is_output and config.output_init_method == "wang_init" else inner
        stream = xxhash.xxh3_64_intdigest(f"{seed}/{name}".encode()) >> 1
        generator = torch.Generator().manual_seed(stream)
        return torch.empty(shape, dtype=torch.float32).normal_(0, std, generator=generator)

    parameters, threads = list(model.named_parameters()), min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(parameters), threads):  # as many matrices exist at one time
            some = parameters[start : start + threads]
            for (_, parameter), values in zip(some, pool.map(draw, some), strict=True):
                _assign(parameter, values)


def _assign(parameter: nn.Parameter, values: Tensor) -> None:
    if hasattr(parameter, "ds_id"):  # partitioned by deepspeed.zero.Init
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(values)
    else:
        parameter.copy_(values)
