"""The one place where what torch.save has written is read."""

from pathlib import Path
from typing import Any

import torch


def load(path: str | Path, map_location: Any = None, mmap: bool | None = None) -> Any:
    """The content of a file of a checkpoint: DeepSpeed's own hold its classes and settings beside tensors."""
    return torch.load(path, map_location=map_location, weights_only=False, mmap=mmap)
