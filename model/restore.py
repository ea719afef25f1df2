"""Reading checkpoints, whatever number of workers and ZeRO stage has written them."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash
from torch import Tensor

from base import files, layout
from base.damage import reached
from base.errors import UserError
from model import checkpoint, pickles, ranks, universal
from model.checkpoint import STATE, Description

logger = logging.getLogger("piledriver.checkpoint")


@contextlib.contextmanager
def local_copy(checkpoint_url: str) -> Iterator[str]:
    """The local folder of a checkpoint; a remote one is downloaded for the length of the block."""
    path = files.local_path(checkpoint_url)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="piledriver-checkpoint-") as temporary:
        yield _download(checkpoint_url, temporary)


def _download(checkpoint_url: str, target: str) -> str:
    filesystem, remote = files.split(checkpoint_url)
    filesystem.get(remote, target, recursive=True)
    inner = os.path.join(target, layout.name_of(remote))
    return inner if os.path.isdir(inner) else target


@contextlib.contextmanager
def _shared_copy(
    checkpoint_url: str, description: Description, everything: bool
) -> Iterator[tuple[str, bool]]:
    """The local folder of a checkpoint, one for all ranks that see it, and whether this rank leads them.

    Of a remote one each rank downloads its own files, and the leader what all of a machine read; the others
    are there and empty, since DeepSpeed looks for their names. All ranks call it.

    everything: all files are downloaded, once a machine.
    """
    path = files.local_path(checkpoint_url)
    if path is not None:
        yield path, ranks.rank() == 0
        return
    leads = int(os.environ.get("LOCAL_RANK", "0")) == 0
    name = f"piledriver-checkpoint-{xxhash.xxh3_64_hexdigest(checkpoint_url.encode())}"
    folder = os.path.join(tempfile.gettempdir(), name)
    if leads:
        shutil.rmtree(folder, ignore_errors=True)
        for stored in description.files:
            os.makedirs(os.path.dirname(os.path.join(folder, stored)), exist_ok=True)
            if not everything:
                Path(folder, stored).touch()
    ranks.barrier()
    try:
        wanted = set() if everything else set(checkpoint.own_files(description, ranks.rank(), ranks.world()))
        if leads:
            wanted |= set(description.files) if everything else checkpoint.shared_files(description)
        for stored in sorted(wanted):
            _download_file(checkpoint_url, stored, description.files[stored].digest, folder)
        ranks.barrier()
        yield folder, leads
    finally:
        ranks.barrier()
        if leads:
            shutil.rmtree(folder, ignore_errors=True)


def _download_file(checkpoint_url: str, name: str, digest: str, folder: str) -> None:
    filesystem, remote = files.split(files.join(checkpoint_url, name))
    target = os.path.join(folder, name)
    with reached(checkpoint_url):
        filesystem.get_file(remote, target)
    if files.digest(target) != digest:
        raise UserError(f"{files.join(checkpoint_url, name)} has changed since it was written")


def latest(run_url: str, most: int | None = None) -> str | None:
    """URL of the newest whole checkpoint of a run, of step `most` at most, or None. All ranks call it.

    Each rank reads its own files. Damaged checkpoints that are newer are named in a warning and set aside, so
    that the policy does not keep them in place of whole ones.
    """
    rank, world = ranks.rank(), ranks.world()
    for step in reversed(ranks.agree(checkpoint.steps(run_url) if rank == 0 else None)):
        url = checkpoint.folder(run_url, step)
        problems = [told for told in ranks.gather(checkpoint.damage(url, rank, world)) if told is not None]
        if problems:
            if rank == 0:
                logger.warning("checkpoint %s is damaged and left out: %s", url, problems[0])
                checkpoint.set_aside(url, checkpoint.DAMAGED)
        elif most is None or step <= most:
            return url
    return None


def needs_conversion(description: Description, world: int, zero_stage: int) -> bool:
    """Whether a checkpoint has another layout than so many workers at a ZeRO stage write."""
    if description.zero_stage != zero_stage:
        return True
    return bool(zero_stage and description.world_size != world)


def load(engine: Any, checkpoint_url: str, zero_stage: int, tensor_parallel: int = 1) -> None:
    """Load model and optimizer; all ranks call it.

    A checkpoint that was written by another number of workers or at another ZeRO stage goes through its
    universal form, see `model.universal`. Raises UserError for another number of workers where layers are
    split among them and for a file that could run code, RuntimeError when what the description promises was
    not loaded.
    """
    description = checkpoint.read_description(checkpoint_url)
    convert = needs_conversion(description, ranks.world(), zero_stage)
    before = description.tensor_parallel
    if before != tensor_parallel or (before > 1 and convert):
        raise UserError(
            f"checkpoint {checkpoint_url} was written by {description.world_size} workers with "
            f"train.tensor_parallel = {before} and train.zero_stage = {description.zero_stage}; "
            "with tensor parallelism a run is continued by as many workers with the same settings only"
        )
    copy = _shared_copy(checkpoint_url, description, everything=convert or tensor_parallel > 1)
    with copy as (path, leads), contextlib.ExitStack() as stack:
        if convert:
            path = stack.enter_context(_universal(path, description.zero_stage, engine, leads))
        groups = engine.optimizer.param_groups
        settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        if convert and zero_stage == 0:
            universal.load_stage_0(Path(path, STATE), engine)
            loaded = True
        else:
            engine._config.load_universal_checkpoint = convert
            with pickles.guarded():
                loaded = engine.load_checkpoint(path, tag=STATE)[0] is not None
        # DeepSpeed's universal ZeRO-3 gives the first group's settings to every group (norms would decay) and
        # one step counter to all of them, which then counts once for each.
        for group, values in zip(engine.optimizer.param_groups, settings, strict=True):
            group.update(values)
        for state in getattr(engine.optimizer, "optimizer", engine.optimizer).state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].clone()
        if convert:
            universal.check_loaded(Path(path, STATE), engine)
        ranks.barrier()
        if not loaded or engine.global_steps != description.step:
            raise RuntimeError(
                f"checkpoint {checkpoint_url} was not loaded: DeepSpeed is at step {engine.global_steps}"
            )


@contextlib.contextmanager
def _universal(path: str, zero_stage: int, engine: Any, leads: bool) -> Iterator[str]:
    """A temporary universal checkpoint for `engine`, made of the one of `zero_stage` in the folder `path`."""
    target = str(Path(path).with_name(f"{files.TEMPORARY}{Path(path).name}.universal"))
    if leads:
        universal.convert(Path(path, STATE), Path(target, STATE), zero_stage, engine)
    ranks.barrier()
    try:
        yield target
    finally:
        ranks.barrier()
        if leads:
            shutil.rmtree(target, ignore_errors=True)


def consolidated_state(checkpoint_url: str) -> dict[str, Tensor]:
    """Whole fp32 weights by parameter name, on the CPU: the master weights of a run in half precision."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    description = checkpoint.read_description(checkpoint_url)
    with local_copy(checkpoint_url) as path:
        if description.zero_stage == 0:
            return universal.weights_of_stage_0(Path(path, STATE), description.model)
        if description.tensor_parallel > 1:
            with tempfile.TemporaryDirectory(prefix="piledriver-universal-") as temporary:
                universal.extract(Path(path, STATE), Path(temporary, STATE))
                return universal.weights(Path(temporary, STATE))
        with (
            open(os.devnull, "w") as bars,
            contextlib.redirect_stdout(None),
            contextlib.redirect_stderr(bars),
            pickles.guarded(),
        ):
            return dict(get_fp32_state_dict_from_zero_checkpoint(path, tag=STATE))
