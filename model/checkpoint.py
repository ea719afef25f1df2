"""Checkpoints of a run: written whole or not at all, verified before they are read. Imports no torch.

<run>/checkpoints/step_00000100/
  checkpoint.json     what the checkpoint is of, and the xxh3-128 of every other file; written last
  state/…             DeepSpeed's files
  damaged.json        in place of checkpoint.json: what was found damaged, and does not count any more
  thrown_away.json    likewise: what lies behind the checkpoint that the run went on from
"""

import contextlib
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator

from base import files, layout
from base.errors import UserError
from base.records import Record
from model.config import CheckpointConfig
from model.guard import GuardState
from model.run import SampleOrder

STATE = "state"
DESCRIPTION = "checkpoint.json"
DAMAGED = "damaged.json"
THROWN_AWAY = "thrown_away.json"
_OF_RANK = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_[^/]*$")
"""DeepSpeed's names of files that a rank alone reads: its data-parallel and its tensor-parallel number."""
MARGIN = 1.05
"""Room for a checkpoint, as a multiple of its bytes."""


class StoredFile(Record):
    """One of DeepSpeed's files."""

    bytes: int
    digest: str
    """xxh3-128, hex."""


class Description(Record):
    """checkpoint.json: what a checkpoint is of."""

    step: int = Field(ge=0, lt=2**48)
    sample: int = Field(ge=0, lt=2**62)
    """The next one."""
    guard: GuardState
    evaluation_loss: float | None
    """The mean over the sources' held-out losses, if the step was evaluated."""
    learning_rate: float | None = None
    """Of the step; version 0.1 did not write it."""
    model: dict[str, Any]
    """Settings of the model, the vocabulary's size and the precision."""
    data: SampleOrder
    world_size: int
    tensor_parallel: int = 1
    zero_stage: int
    files: dict[str, StoredFile]
    """By path below the checkpoint's folder."""

    @field_validator("files")
    @classmethod
    def _paths_stay(cls, stored: dict[str, StoredFile]) -> dict[str, StoredFile]:
        """The files, whose paths do not leave the checkpoint's folder."""
        for path in stored:
            try:
                files.below("checkpoint", path)
            except UserError as error:
                raise ValueError(str(error)) from None
        return stored


@dataclass(frozen=True)
class Identity:
    """What must be the same for a checkpoint to be continued."""

    model: dict[str, Any]
    """Settings of the model, the vocabulary's size and the precision, as JSON values."""
    data: SampleOrder


def folder(run_url: str, step: int) -> str:
    """URL of the checkpoint after `step` steps."""
    return files.join(run_url, "checkpoints", f"step_{step:08d}")


def lacks_room(path: str, needed: int) -> str | None:
    """What to say of a local folder whose disk has no room for a checkpoint of so many bytes, else None."""
    free, wanted = _free(path), int(needed * MARGIN)
    return None if free > wanted else f"{disk(path)}, and a checkpoint needs {wanted:,}"


def disk(path: str) -> str:
    """The room on the disk of a local folder, in words."""
    place = _existing(path)
    while not os.path.ismount(place):
        place = os.path.dirname(place)
    try:
        return f"the disk of {path}, mounted at {place}, has {_free(path):,} free bytes"
    except OSError as error:
        return f"the disk of {path}, mounted at {place}, does not tell its room: {error}"


def _free(path: str) -> int:
    """Free bytes on the disk of a local folder, which need not be there yet."""
    return shutil.disk_usage(_existing(path)).free


def _existing(path: str) -> str:
    """The first folder that is there, of a local one and those above it."""
    place = os.path.abspath(path)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return place


def steps(run_url: str) -> list[int]:
    """Steps that have a checkpoint folder with a description, oldest first."""
    pattern = files.join(run_url, "checkpoints", "step_*", DESCRIPTION)
    names = [layout.name_of(layout.parent_of(url)) for url in files.list_files(pattern)]
    return sorted(int(name.removeprefix("step_")) for name in names if re.fullmatch(r"step_\d{8,}", name))


def read_description(checkpoint_url: str) -> Description:
    """The description of a checkpoint. Raises UserError when it is damaged, OSError when it is not there."""
    return Description.read(files.join(checkpoint_url, DESCRIPTION))


def descriptions(run_url: str) -> Iterator[Description]:
    """The description of each checkpoint, newest first, without those that are damaged."""
    for step in reversed(steps(run_url)):
        try:
            description = read_description(folder(run_url, step))
        except (UserError, FileNotFoundError):
            continue
        yield description


def best(run_url: str, count: int = 1) -> list[int]:
    """Steps of the checkpoints with the lowest held-out loss, best first, at most `count`.

    Those without one do not count, nor those whose loss is not finite.
    """
    every = [(description.evaluation_loss, description.step) for description in descriptions(run_url)]
    losses = [(loss, step) for loss, step in every if loss is not None and math.isfinite(loss)]
    return [step for _, step in sorted(losses)[:count]]


def prune(run_url: str, config: CheckpointConfig, saved: int) -> None:
    """Remove what the policy does not keep of the checkpoints up to the one just saved."""
    written = [step for step in steps(run_url) if step <= saved]
    kept = best(run_url, config.keep_best) if config.keep_best else []
    for step in written[: -config.keep_last]:
        if step not in kept and not (config.keep_every and step % config.keep_every == 0):
            # The description goes first, so that what is left of a killed removal does not look whole.
            files.remove(files.join(folder(run_url, step), DESCRIPTION))
            files.remove(folder(run_url, step))


def own_files(description: Description, rank: int, world: int) -> list[str]:
    """The files of a checkpoint that a rank of `world` answers for: together the ranks have each once.

    With as many ranks as have written it, these are what the rank itself wrote.
    """
    names = []
    for name in description.files:
        match = _OF_RANK.search(name)
        writer = int(match[1]) * description.tensor_parallel + int(match[2]) if match else 0
        if writer % world == rank:
            names.append(name)
    return names


def shared_files(description: Description) -> set[str]:
    """The files of a checkpoint that all ranks read."""
    return {name for name in description.files if not _OF_RANK.search(name)}


def damage(checkpoint_url: str, rank: int = 0, world: int = 1) -> str | None:
    """What is wrong with a checkpoint; None when every file has the digest it was written with.

    Of `world` ranks that ask, each reads its own files.
    """
    try:
        description = read_description(checkpoint_url)
        for name in own_files(description, rank, world):
            if files.digest(files.join(checkpoint_url, name)) != description.files[name].digest:
                return f"{name} has changed since it was written"
    except (OSError, UserError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def throw_away(run_url: str, step: int) -> None:
    """Let the checkpoints after `step` not count any more: the run goes on from there."""
    for later in steps(run_url):
        if later > step:
            set_aside(folder(run_url, later), THROWN_AWAY)


def set_aside(url: str, name: str) -> None:
    """Give the description of a checkpoint another name."""
    filesystem, path = files.split(url)
    with contextlib.suppress(OSError):
        filesystem.mv(files.join(path, DESCRIPTION), files.join(path, name))


def check_description(checkpoint_url: str, expected: Identity) -> Description:
    """The description of a checkpoint, if it continues what `expected` describes.

    A precision that `expected` does not name may be any one. Raises UserError naming the first value that
    differs.
    """
    description = read_description(checkpoint_url)
    for section, written, wanted in (
        ("model", description.model, expected.model),
        ("data", description.data.to_json(), expected.data.to_json()),
    ):
        for name in [*wanted, *(set(written) - set(wanted))]:
            before, value = written.get(name), wanted.get(name)
            if name == "precision" and value is None:
                continue
            if before != value:
                raise UserError(
                    f"checkpoint {checkpoint_url} has {section}.{name} = {before!r}, this run has {value!r}; "
                    "continue with the former value or train under another run name"
                )
    return description
