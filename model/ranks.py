"""What the processes of a training run tell each other; one process alone needs no process group."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor


def rank() -> int:
    """The number of this process."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def gather(value: Any) -> list[Any]:
    """`value` of every rank, on every rank."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def agree(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if not torch.distributed.is_initialized():
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def total(values: Tensor, device: Any) -> Tensor:
    """The sum over all ranks, on the CPU; `device` is where they add."""
    if world() == 1:
        return values
    shared = values.to(device)
    torch.distributed.all_reduce(shared)
    return shared.cpu()
