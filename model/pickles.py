"""The one place where what torch.save has written is read; nothing in such a file can run code."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from base.errors import UserError

REFUSED = "is no file of a checkpoint that training writes, and nothing in it was run"


def load(path: str | Path, map_location: Any = None, mmap: bool | None = None) -> Any:
    """The content of a file of a checkpoint: tensors, plain values and objects of DeepSpeed's few classes.

    A pickle may name any function to be called when it is read, and a checkpoint may come from somebody else.
    Raises UserError, with nothing called, for a file that holds anything else or is no checkpoint's file.
    """
    try:
        with torch.serialization.safe_globals(_classes()):
            content = torch.serialization.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{path} {REFUSED}: {_why(error)}") from None
    _check_names(content, path)
    return content


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """In the block every `torch.load` of the process is `load`, also DeepSpeed's own that ask to run code."""

    def guard(f: Any, map_location: Any = None, *_: Any, mmap: bool | None = None, **__: Any) -> Any:
        return load(f, map_location, mmap)

    before, torch.load = torch.load, guard
    try:
        yield
    finally:
        torch.load = before


def _classes() -> list[Any]:
    """What DeepSpeed's checkpoints hold beside tensors and plain values; to make one does nothing else."""
    import model.accelerator  # noqa: F401 - before DeepSpeed

    # isort: split
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


def _why(error: Exception) -> str:
    """The gist of torch's message, which goes on about how to run the code after all."""
    text = str(error)
    name = text.partition("GLOBAL ")[2].split()
    if name:
        return f"it names {name[0]}"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


def _check_names(value: Any, path: str | Path) -> None:
    """Raise UserError for a parameter's name by which DeepSpeed would write outside of its folder."""
    if isinstance(value, dict):
        for name in value:
            if isinstance(name, str) and ("/" in name or name == ".."):
                raise UserError(f"{path} {REFUSED}: it has a parameter named {name!r}")
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_names(item, path)
