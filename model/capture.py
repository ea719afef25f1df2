"""What DeepSpeed writes into a checkpoint, copied to host memory."""

import copy
from typing import Any

import torch
from torch import Tensor

import model.accelerator  # noqa: F401 - before DeepSpeed

# isort: split
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

from model import pickles


class HostMemory:
    """Memory for copies of a GPU's tensors, locked for it; what one checkpoint has locked serves the next."""

    def __init__(self) -> None:
        """None is locked yet."""
        self._all: dict[Any, list[Tensor]] = {}
        self._free: dict[Any, list[Tensor]] = {}

    def free(self) -> None:
        """Nobody reads the copies any more."""
        self._free = {key: list(tensors) for key, tensors in self._all.items()}

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy, which is there when the GPU's current stream has come so far."""
        key = (tensor.shape, tensor.stride(), tensor.dtype)
        if not self._free.get(key):
            fresh = torch.empty_strided(*key[:2], dtype=tensor.dtype, pin_memory=True)
            self._all.setdefault(key, []).append(fresh)
            return fresh.copy_(tensor, non_blocking=True)
        return self._free[key].pop().copy_(tensor, non_blocking=True)


def snapshot(value: Any, seen: dict[Any, Tensor], memory: HostMemory) -> Any:
    """A copy in host memory, tensors that share their values sharing them again."""
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() == 0 or key not in seen:
            tensor = value.detach()
            seen[key] = memory.copy(tensor) if tensor.is_cuda else tensor.to("cpu", copy=True)
        return seen[key]
    if isinstance(value, dict):
        result = copy.copy(value)
        for key, item in value.items():
            result[key] = snapshot(item, seen, memory)
        return result
    if type(value) in (list, tuple):
        return type(value)(snapshot(item, seen, memory) for item in value)
    return copy.deepcopy(value)


class Capture(CheckpointEngine):  # type: ignore[misc]
    """DeepSpeed's way to files: what it saves is copied to host memory, for others to write."""

    def __init__(self) -> None:
        """Nothing is captured yet."""
        super().__init__()
        self._captured: list[tuple[Any, str]] = []
        self._memory = HostMemory()

    def take(self) -> list[tuple[Any, str]]:
        """States and the paths that DeepSpeed gave them, since the last call; `create` makes them invalid."""
        captured, self._captured = self._captured, []
        return captured

    def create(self, info: CheckpointCommitInfo) -> None:
        """Begin a checkpoint: the memory of the one before is used again."""
        self._memory.free()

    def save(self, state_dict: Any, path: str) -> None:
        """Copy a state."""
        self._captured.append((snapshot(state_dict, {}, self._memory), path))

    def load(self, path: str, map_location: Any = None) -> Any:
        """The state in a file."""
        return pickles.load(path, map_location)

    def commit(self, info: CheckpointCommitInfo) -> bool:
        """DeepSpeed has saved all; it is written later."""
        return True
