"""Checkpoints of a run: written whole or not at all, verified before they are read.

<run>/checkpoints/step_00000100/
  checkpoint.json     what the checkpoint is of, and the xxh3-128 of every other file; written last
  state/…             DeepSpeed's files
"""

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch.distributed
import xxhash
from torch import Tensor

from base import files
from base.errors import UserError
from model.config import CheckpointConfig

logger = logging.getLogger("piledriver.checkpoint")

STATE = "state"
DESCRIPTION = "checkpoint.json"


def folder(run_url: str, step: int) -> str:
    """URL of the checkpoint after `step` steps."""
    return files.join(run_url, "checkpoints", f"step_{step:08d}")


def steps(run_url: str) -> list[int]:
    """Steps that have a checkpoint folder with a description, oldest first."""
    pattern = files.join(run_url, "checkpoints", "step_*", DESCRIPTION)
    return sorted(int(url.rsplit("/", 2)[1].removeprefix("step_")) for url in files.list_files(pattern))


def _digest(url: str) -> str:
    filesystem, path = files.split(url)
    state = xxhash.xxh3_128()
    with filesystem.open(path, "rb") as content:
        while piece := content.read(8 * 2**20):
            state.update(piece)
    return state.hexdigest()


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _relative_files(root: str) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*") if path.is_file())


def _barrier() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _gather(value: Any) -> list[Any]:
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


def save(engine: Any, run_url: str, step: int, description: dict[str, Any], config: CheckpointConfig) -> bool:
    """Write the checkpoint after `step` steps and drop those that `config` does not keep. All ranks call it.

    description: JSON values that describe the state, for `check_description`. Returns False, with a warning,
    when there is no room for it; the last one stays.
    """
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    target = folder(run_url, step)
    local = files.local_path(target)
    leader = int(os.environ.get("LOCAL_RANK", "0")) == 0 if local is None else rank == 0
    if local is None:  # one temporary folder a machine, uploaded by its first process
        name = f"piledriver-{xxhash.xxh3_64_hexdigest(run_url.encode())}-{step}"
        temporary = os.path.join(tempfile.gettempdir(), name)
    else:
        temporary = os.path.join(os.path.dirname(local), f"{files.TEMPORARY}step_{step:08d}")
    fits = True
    if leader:
        shutil.rmtree(temporary, ignore_errors=True)
        os.makedirs(temporary, exist_ok=True)
        needed = sum(file.get("bytes", 0) for file in _previous(run_url).get("files", {}).values())
        free = shutil.disk_usage(temporary).free
        fits = free > needed * 1.05
        if not fits:
            logger.warning(
                "no checkpoint at step %d: %s has %d free bytes, %d are needed", step, temporary, free, needed
            )
    if not all(_gather(fits)):
        return False
    engine.save_checkpoint(temporary, tag=STATE, save_latest=False)
    entries: dict[str, dict[str, Any]] = {}
    if leader:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(temporary, "zero_to_fp32.py"))
        for name in _relative_files(temporary):
            path = os.path.join(temporary, name)
            _flush(path)
            entries[name] = {"bytes": os.path.getsize(path), "digest": _digest(path)}
            if local is None:
                filesystem, remote = files.split(files.join(target, name))
                filesystem.makedirs(remote.rsplit("/", 1)[0], exist_ok=True)
                filesystem.put_file(path, remote)
    gathered = _gather(entries)
    if rank == 0:
        everything = {name: entry for part in gathered for name, entry in part.items()}
        content = {"step": step, **description, "files": dict(sorted(everything.items()))}
        if local is None:
            files.write_json(files.join(target, DESCRIPTION), content)
        else:
            files.write_json(os.path.join(temporary, DESCRIPTION), content)
            _flush(temporary)
            shutil.rmtree(local, ignore_errors=True)
            os.rename(temporary, local)
            _flush(os.path.dirname(local))
        _prune(run_url, config)
    if local is None and leader:
        shutil.rmtree(temporary, ignore_errors=True)
    _barrier()
    return True


def _previous(run_url: str) -> dict[str, Any]:
    found = steps(run_url)
    content: dict[str, Any] = (
        files.read_json(files.join(folder(run_url, found[-1]), DESCRIPTION)) if found else {}
    )
    return content


def _prune(run_url: str, config: CheckpointConfig) -> None:
    found = steps(run_url)
    for step in found[: -config.keep_last]:
        if not (config.keep_every and step % config.keep_every == 0):
            # The description goes first, so that what is left of a killed removal does not look whole.
            files.remove(files.join(folder(run_url, step), DESCRIPTION))
            files.remove(folder(run_url, step))


def damage(checkpoint_url: str) -> str | None:
    """What is wrong with a checkpoint; None when every file has the digest it was written with."""
    try:
        description = files.read_json(files.join(checkpoint_url, DESCRIPTION))
        for name, entry in description["files"].items():
            if _digest(files.join(checkpoint_url, name)) != entry["digest"]:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def latest(run_url: str) -> str | None:
    """URL of the newest whole checkpoint of a run or None; damaged ones are named in a warning."""
    for step in reversed(steps(run_url)):
        url = folder(run_url, step)
        problem = damage(url)
        if problem is None:
            return url
        logger.warning("checkpoint %s is damaged and left out: %s", url, problem)
    return None


def check_description(checkpoint_url: str, expected: dict[str, Any]) -> dict[str, Any]:
    """The description of a checkpoint, if it continues what `expected` describes.

    Raises UserError naming the first value that differs.
    """
    content: dict[str, Any] = files.read_json(files.join(checkpoint_url, DESCRIPTION))
    for section in ("model", "data"):
        for name in [*expected[section], *(set(content[section]) - set(expected[section]))]:
            before, value = content[section].get(name), expected[section].get(name)
            if before != value:
                raise UserError(
                    f"checkpoint {checkpoint_url} has {section}.{name} = {before!r}, this run has {value!r}; "
                    "continue with the former value or train under another run name"
                )
    return content


@contextlib.contextmanager
def local_copy(checkpoint_url: str) -> Any:
    """The local folder of a checkpoint; a remote one is downloaded for the length of the block."""
    path = files.local_path(checkpoint_url)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="piledriver-checkpoint-") as temporary:
        filesystem, remote = files.split(checkpoint_url)
        filesystem.get(remote, temporary, recursive=True)
        inner = os.path.join(temporary, remote.rstrip("/").rsplit("/", 1)[-1])
        yield inner if os.path.isdir(inner) else temporary


def needs_conversion(description: dict[str, Any], world: int, zero_stage: int) -> bool:
    """Whether a checkpoint has another layout than so many workers at a ZeRO stage write.

    Raises UserError between ZeRO 0 and the others: the former has no universal form.
    """
    before = description["zero_stage"]
    if before != zero_stage and 0 in (before, zero_stage):
        raise UserError(
            f"train.zero_stage = {zero_stage}: the run's checkpoint was written with stage {before}, and "
            "DeepSpeed cannot convert between 0 and the other stages; keep the stage or use another run name"
        )
    return bool(zero_stage and (description["world_size"] != world or before != zero_stage))


def load(engine: Any, checkpoint_url: str, zero_stage: int) -> None:
    """Load model and optimizer; all ranks call it.

    A checkpoint that was written by another number of workers or ZeRO stage goes through DeepSpeed's
    universal checkpoint (Lian et al. 2024, arXiv:2406.18820). Raises RuntimeError when DeepSpeed did not load
    what the description promises.
    """
    description = files.read_json(files.join(checkpoint_url, DESCRIPTION))
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    convert = needs_conversion(description, world, zero_stage)
    engine._config.load_universal_checkpoint = convert
    with local_copy(checkpoint_url) as path, contextlib.ExitStack() as stack:
        if convert:
            path = stack.enter_context(_universal(path, engine))
        groups = engine.optimizer.param_groups
        settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        loaded, _ = engine.load_checkpoint(path, tag=STATE)
        # DeepSpeed's universal ZeRO-3 gives the first group's settings to every group (norms would decay) and
        # one step counter to all of them, which then counts once for each.
        for group, values in zip(engine.optimizer.param_groups, settings, strict=True):
            group.update(values)
        for state in getattr(engine.optimizer, "optimizer", engine.optimizer).state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].clone()
        if convert:
            _check_loaded(Path(path, STATE), engine)
        _barrier()
        if loaded is None or engine.global_steps != description["step"]:
            raise RuntimeError(
                f"checkpoint {checkpoint_url} was not loaded: DeepSpeed is at step {engine.global_steps}"
            )


@contextlib.contextmanager
def _universal(path: str, engine: Any) -> Any:
    """A temporary universal checkpoint, for `engine` to load, made of the one in the local folder `path`."""
    from argparse import Namespace

    from deepspeed.checkpoint.ds_to_universal import main

    leader = int(os.environ.get("LOCAL_RANK", "0")) == 0
    target = path.rstrip("/") + ".universal"
    if leader:
        shutil.rmtree(target, ignore_errors=True)
        arguments = Namespace(
            input_folder=os.path.join(path, STATE),
            output_folder=os.path.join(target, STATE),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
        with contextlib.redirect_stdout(None):
            main(arguments)
        _complete(Path(target, STATE), engine)
    _barrier()
    try:
        yield target
    finally:
        _barrier()
        if leader:
            shutil.rmtree(target, ignore_errors=True)


def _complete(root: Path, engine: Any) -> None:
    """Make a universal checkpoint readable by any ZeRO stage; as converted, only its own can."""
    # The step and the like are read from a file that the stages name differently; weights come from zero/.
    facts = min(root.glob("*_model_states.pt"))
    for worker in range(torch.distributed.get_world_size()):
        prefix = f"zero_pp_rank_{worker}_" if engine.zero_optimization_partition_weights() else ""
        wanted = root / f"{prefix}mp_rank_00_model_states.pt"
        if not wanted.exists():
            wanted.symlink_to(facts.resolve())
    common = torch.load(root / "zero" / "optimizer_state.pt", weights_only=False)
    for name, parameter in engine.module.named_parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        for key in ("fp32", "exp_avg", "exp_avg_sq"):
            path = root / "zero" / name / f"{key}.pt"
            content = torch.load(path, weights_only=False)
            if isinstance(content, Tensor):  # ZeRO-3 leaves them flat
                values = content.detach()[: shape.numel()].view(shape).clone()
                torch.save({"param": values, "cat_dim": 0}, path)
        if (path := root / "zero" / name / "step.pt").exists():
            updates = torch.load(path, weights_only=False)
        else:
            updates = common["optimizer_state_dict"]["state"][0]["step"].clone()
            torch.save(updates, path)
    common["optimizer_state_dict"] = {"state": {0: {"step": updates}}, "param_groups": common["param_groups"]}
    from deepspeed import __version__

    common.setdefault("ds_version", __version__)
    common.pop("fp32_flat_groups", None)
    torch.save(common, root / "zero" / "optimizer_state.pt")


def _check_loaded(root: Path, engine: Any) -> None:
    """Compare all master weights with the universal checkpoint; RuntimeError names one that differs."""
    from deepspeed.utils import safe_get_full_fp32_param

    for name, parameter in engine.module.named_parameters():
        values = safe_get_full_fp32_param(parameter)
        expected = torch.load(root / "zero" / name / "fp32.pt", weights_only=False)["param"]
        if values is None or not torch.equal(values.cpu().view(-1), expected.view(-1)):
            raise RuntimeError(f"DeepSpeed did not load {name} from the universal checkpoint {root}")


def consolidated_state(checkpoint_url: str) -> dict[str, Tensor]:
    """Whole weights by parameter name, on the CPU; fp32, but for ZeRO 0 the dtype of the run."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    description = files.read_json(files.join(checkpoint_url, DESCRIPTION))
    with local_copy(checkpoint_url) as path:
        if description["zero_stage"] == 0:
            # DeepSpeed's own pickles hold its classes and settings.
            content = torch.load(
                os.path.join(path, STATE, "mp_rank_00_model_states.pt"),
                map_location="cpu",
                weights_only=False,
            )
            state: dict[str, Tensor] = content["module"]
            return state
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(open(os.devnull, "w")):
            return dict(get_fp32_state_dict_from_zero_checkpoint(path, tag=STATE))
