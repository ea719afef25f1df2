"""Checkpoints of a run: written whole or not at all, verified before they are read.

<run>/checkpoints/step_00000100/
  checkpoint.json     what the checkpoint is of, and the xxh3-128 of every other file; written last
  state/…             DeepSpeed's files
  damaged.json        in place of checkpoint.json: what was found damaged, and does not count any more
"""

import contextlib
import copy
import logging
import math
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import xxhash
from torch import Tensor

from base import files
from base.errors import UserError
from model import universal
from model.config import CheckpointConfig

logger = logging.getLogger("piledriver.checkpoint")

STATE = "state"
DESCRIPTION = "checkpoint.json"
DAMAGED = "damaged.json"


def folder(run_url: str, step: int) -> str:
    """URL of the checkpoint after `step` steps."""
    return files.join(run_url, "checkpoints", f"step_{step:08d}")


def steps(run_url: str) -> list[int]:
    """Steps that have a checkpoint folder with a description, oldest first."""
    pattern = files.join(run_url, "checkpoints", "step_*", DESCRIPTION)
    names = [url.rsplit("/", 2)[1] for url in files.list_files(pattern)]
    return sorted(int(name.removeprefix("step_")) for name in names if re.fullmatch(r"step_\d{8,}", name))


def read_description(checkpoint_url: str) -> dict[str, Any]:
    """The description of a checkpoint. Raises ValueError when it is damaged, OSError when it is not there."""
    content = files.read_json(files.join(checkpoint_url, DESCRIPTION))
    if not isinstance(content, dict) or not {"step", "model", "data", "files"} <= content.keys():
        raise ValueError(f"{DESCRIPTION} does not describe a checkpoint")
    return content


def descriptions(run_url: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Step and description of each checkpoint, newest first, without those whose description is damaged."""
    for step in reversed(steps(run_url)):
        try:
            content = read_description(folder(run_url, step))
        except (ValueError, FileNotFoundError):
            continue
        yield step, content


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


class _HostMemory:
    """Memory for copies of a GPU's tensors, locked for it; what one checkpoint has locked serves the next."""

    def __init__(self) -> None:
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


def _snapshot(value: Any, seen: dict[Any, Tensor], memory: _HostMemory) -> Any:
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
            result[key] = _snapshot(item, seen, memory)
        return result
    if type(value) in (list, tuple):
        return type(value)(_snapshot(item, seen, memory) for item in value)
    return copy.deepcopy(value)


class Saver:
    """Writes the checkpoints of a run. All ranks call each method but `close`.

    DeepSpeed's own writing is replaced by a copy of the state in host memory, which a thread of each rank
    writes, hashes and uploads while training goes on. Ranks tell each other through files when they are done,
    because collectives belong to the main thread. A rank that cannot write such a file says so in `wait`.
    """

    def __init__(self, engine: Any, run_url: str, config: CheckpointConfig) -> None:
        """Take over what `engine` does to save a file."""
        self.engine, self.run_url, self.config = engine, run_url, config
        distributed = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.world = torch.distributed.get_world_size() if distributed else 1
        self.saved: int | None = None
        """Step of the last checkpoint that is whole, on rank 0 after `wait`."""
        self._captured: list[tuple[Any, str]] = []
        self._memory = _HostMemory()
        self._thread: threading.Thread | None = None
        self._silent = False
        """Whether this rank could not tell rank 0 what it has written."""
        self._giving_up = threading.Event()
        """Rank 0 waits for no more files of others."""
        engine.checkpoint_engine.save = self._capture
        engine._copy_recovery_script = lambda save_path: None

    def _capture(self, state_dict: Any, path: str) -> None:
        self._captured.append((_snapshot(state_dict, {}, self._memory), path))

    def save(self, step: int, description: dict[str, Any]) -> None:
        """Begin to write the checkpoint after `step` steps, and drop those that the policy does not keep.

        description: JSON values that describe the state, for `check_description`. When there is no room, the
        last one stays, with a warning. The one before is finished first.
        """
        self.wait()
        target = folder(self.run_url, step)
        local = files.local_path(target)
        leader = int(os.environ.get("LOCAL_RANK", "0")) == 0 if local is None else self.rank == 0
        if local is None:  # one temporary folder a machine
            name = f"piledriver-{xxhash.xxh3_64_hexdigest(self.run_url.encode())}-{step}"
            temporary = os.path.join(tempfile.gettempdir(), name)
        else:
            temporary = os.path.join(os.path.dirname(local), f"{files.TEMPORARY}step_{step:08d}")
        problem = _make_room(temporary, self.run_url) if leader else None
        if problem is not None:
            logger.warning("no checkpoint at step %d: %s", step, problem)
        if self.rank == 0 and local is None:
            files.remove(target)
        if any(_gather(problem is not None)):
            return
        self._memory.free()
        self.engine.save_checkpoint(temporary, tag=STATE, save_latest=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        captured, self._captured = self._captured, []
        content = {"step": step, **description}
        self._silent = False
        arguments = (captured, temporary, target, content)
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()
        if not self.config.asynchronous:
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is whole, or has failed."""
        if self._thread is None:
            return
        if self.rank:
            self._thread.join()
        if any(_gather(self._silent)):
            self._giving_up.set()
        self._thread.join()
        self._giving_up.clear()
        self._thread = None
        _barrier()

    def close(self) -> None:
        """Finish what this rank writes, without waiting for others that may be gone."""
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._giving_up.set()
            self._thread.join()

    def _write(
        self, captured: list[tuple[Any, str]], temporary: str, target: str, content: dict[str, Any]
    ) -> None:
        """Write this rank's files; rank 0 then completes the checkpoint when all have."""
        local = files.local_path(target) is not None
        place = temporary if local else target
        try:
            report: dict[str, Any] = {"files": {}}
            for state, path in captured:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                torch.save(state, path)
                _flush(path)
                name = os.path.relpath(path, temporary)
                report["files"][name] = {"bytes": os.path.getsize(path), "digest": files.digest(path)}
                if not local:
                    filesystem, remote = files.split(files.join(target, name))
                    filesystem.makedirs(remote.rsplit("/", 1)[0], exist_ok=True)
                    filesystem.put_file(path, remote)
                    os.unlink(path)
        except Exception as error:
            report = {"error": f"{type(error).__name__}: {error}"}
            for _, path in captured:  # what is half written must not fill the disk
                with contextlib.suppress(OSError):
                    os.unlink(path)
        try:
            if self.rank:
                files.write_json(files.join(place, f"rank_{self.rank}.json"), report)
            else:
                self._complete(report, place, target, content)
        except Exception as error:  # training goes on, and the last checkpoint stays
            logger.warning("no checkpoint at step %d: %s: %s", content["step"], type(error).__name__, error)
            self._silent = self.rank > 0
            if self.rank == 0 and self.saved != content["step"]:
                with contextlib.suppress(OSError):
                    files.remove(place)

    def _complete(self, report: dict[str, Any], place: str, target: str, content: dict[str, Any]) -> None:
        reports = [report]
        for rank in range(1, self.world):
            url, pause = files.join(place, f"rank_{rank}.json"), 0.01
            while not files.exists(url):
                if self._giving_up.wait(pause):
                    raise RuntimeError(f"rank {rank} did not finish its files")
                pause = min(2 * pause, 1.0)
            reports.append(files.read_json(url))
            files.remove(url)
        for rank, part in enumerate(reports):
            if "error" in part:
                raise OSError(f"rank {rank}: {part['error']}")
        everything = {name: entry for part in reports for name, entry in part["files"].items()}
        content = {**content, "files": dict(sorted(everything.items()))}
        if place == target:
            files.write_json(files.join(target, DESCRIPTION), content)
        else:
            local = str(files.local_path(target))
            files.write_json(os.path.join(place, DESCRIPTION), content)
            _flush(os.path.join(place, DESCRIPTION))
            _flush(place)
            shutil.rmtree(local, ignore_errors=True)
            os.rename(place, local)
            _flush(os.path.dirname(local))
        self.saved = content["step"]
        _prune(self.run_url, self.config, self.saved)


def _make_room(temporary: str, run_url: str) -> str | None:
    """Make an empty folder for a checkpoint; what is in the way of one as large as the last, if anything."""
    try:
        _, previous = next(descriptions(run_url), (0, {"files": {}}))
        needed = sum(file["bytes"] for file in previous["files"].values())
        shutil.rmtree(temporary, ignore_errors=True)
        os.makedirs(temporary, exist_ok=True)
        free = shutil.disk_usage(temporary).free
        if free > needed * 1.05:
            return None
        os.rmdir(temporary)
    except OSError as error:
        return str(error)
    return f"{temporary} has {free} free bytes, {needed} are needed"


def best(run_url: str, count: int = 1) -> list[int]:
    """Steps of the checkpoints with the lowest held-out loss, best first, at most `count`.

    Those without one do not count, nor those whose loss is not finite.
    """
    found = [(content.get("evaluation_loss"), step) for step, content in descriptions(run_url)]
    losses = [(loss, step) for loss, step in found if loss is not None and math.isfinite(loss)]
    return [step for _, step in sorted(losses)[:count]]


def _prune(run_url: str, config: CheckpointConfig, saved: int) -> None:
    """Remove what the policy does not keep of the checkpoints up to the one just saved."""
    found = [step for step in steps(run_url) if step <= saved]
    kept = best(run_url, config.keep_best) if config.keep_best else []
    for step in found[: -config.keep_last]:
        if step not in kept and not (config.keep_every and step % config.keep_every == 0):
            # The description goes first, so that what is left of a killed removal does not look whole.
            files.remove(files.join(folder(run_url, step), DESCRIPTION))
            files.remove(folder(run_url, step))


def damage(checkpoint_url: str) -> str | None:
    """What is wrong with a checkpoint; None when every file has the digest it was written with."""
    try:
        for name, entry in read_description(checkpoint_url)["files"].items():
            if files.digest(files.join(checkpoint_url, name)) != entry["digest"]:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def latest(run_url: str) -> str | None:
    """URL of the newest whole checkpoint of a run or None.

    Damaged ones that are newer are named in a warning and set aside, so that the policy does not keep them in
    place of whole ones.
    """
    for step in reversed(steps(run_url)):
        url = folder(run_url, step)
        problem = damage(url)
        if problem is None:
            return url
        logger.warning("checkpoint %s is damaged and left out: %s", url, problem)
        filesystem, path = files.split(url)
        with contextlib.suppress(OSError):
            filesystem.mv(files.join(path, DESCRIPTION), files.join(path, DAMAGED))
    return None


def check_description(checkpoint_url: str, expected: dict[str, Any]) -> dict[str, Any]:
    """The description of a checkpoint, if it continues what `expected` describes.

    A precision that `expected` does not name may be any one. Raises UserError naming the first value that
    differs.
    """
    content = read_description(checkpoint_url)
    for section in ("model", "data"):
        for name in [*expected[section], *(set(content[section]) - set(expected[section]))]:
            before, value = content[section].get(name), expected[section].get(name)
            if name == "precision" and value is None:
                continue
            if before != value:
                raise UserError(
                    f"checkpoint {checkpoint_url} has {section}.{name} = {before!r}, this run has {value!r}; "
                    "continue with the former value or train under another run name"
                )
    return content


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
    inner = os.path.join(target, remote.rstrip("/").rsplit("/", 1)[-1])
    return inner if os.path.isdir(inner) else target


@contextlib.contextmanager
def _shared_copy(checkpoint_url: str) -> Iterator[tuple[str, bool]]:
    """The local folder of a checkpoint, one for all ranks that see it, and whether this rank leads them.

    A remote one is downloaded once a machine. All ranks call it.
    """
    path = files.local_path(checkpoint_url)
    if path is not None:
        yield path, not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        return
    leads = int(os.environ.get("LOCAL_RANK", "0")) == 0
    name = f"piledriver-checkpoint-{xxhash.xxh3_64_hexdigest(checkpoint_url.encode())}"
    temporary = os.path.join(tempfile.gettempdir(), name)
    if leads:
        shutil.rmtree(temporary, ignore_errors=True)
        os.makedirs(temporary)
        _download(checkpoint_url, temporary)
    _barrier()
    inner = os.path.join(temporary, checkpoint_url.rstrip("/").rsplit("/", 1)[-1])
    try:
        yield (inner if os.path.isdir(inner) else temporary), leads
    finally:
        _barrier()
        if leads:
            shutil.rmtree(temporary, ignore_errors=True)


def needs_conversion(description: dict[str, Any], world: int, zero_stage: int) -> bool:
    """Whether a checkpoint has another layout than so many workers at a ZeRO stage write."""
    if description["zero_stage"] != zero_stage:
        return True
    return bool(zero_stage and description["world_size"] != world)


def load(engine: Any, checkpoint_url: str, zero_stage: int, tensor_parallel: int = 1) -> None:
    """Load model and optimizer; all ranks call it.

    A checkpoint that was written by another number of workers or at another ZeRO stage goes through its
    universal form, see `model.universal`. Raises UserError for another number of workers where layers are
    split among them, RuntimeError when what the description promises was not
    loaded.
    """
    description = files.read_json(files.join(checkpoint_url, DESCRIPTION))
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    convert = needs_conversion(description, world, zero_stage)
    before = description.get("tensor_parallel", 1)
    if before != tensor_parallel or (before > 1 and convert):
        raise UserError(
            f"checkpoint {checkpoint_url} was written by {description['world_size']} workers with "
            f"train.tensor_parallel = {before} and train.zero_stage = {description['zero_stage']}; "
            "with tensor parallelism a run is continued by as many workers with the same settings only"
        )
    with _shared_copy(checkpoint_url) as (path, leads), contextlib.ExitStack() as stack:
        if convert:
            path = stack.enter_context(_universal(path, description["zero_stage"], engine, leads))
        groups = engine.optimizer.param_groups
        settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        if convert and zero_stage == 0:
            universal.load_stage_0(Path(path, STATE), engine)
            found = True
        else:
            engine._config.load_universal_checkpoint = convert
            found = engine.load_checkpoint(path, tag=STATE)[0] is not None
        # DeepSpeed's universal ZeRO-3 gives the first group's settings to every group (norms would decay) and
        # one step counter to all of them, which then counts once for each.
        for group, values in zip(engine.optimizer.param_groups, settings, strict=True):
            group.update(values)
        for state in getattr(engine.optimizer, "optimizer", engine.optimizer).state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].clone()
        if convert:
            universal.check_loaded(Path(path, STATE), engine)
        _barrier()
        if not found or engine.global_steps != description["step"]:
            raise RuntimeError(
                f"checkpoint {checkpoint_url} was not loaded: DeepSpeed is at step {engine.global_steps}"
            )


@contextlib.contextmanager
def _universal(path: str, zero_stage: int, engine: Any, leads: bool) -> Iterator[str]:
    """A temporary universal checkpoint for `engine`, made of the one of `zero_stage` in the folder `path`."""
    target = str(Path(path).with_name(f"{files.TEMPORARY}{Path(path).name}.universal"))
    if leads:
        universal.convert(Path(path, STATE), Path(target, STATE), zero_stage, engine)
    _barrier()
    try:
        yield target
    finally:
        _barrier()
        if leads:
            shutil.rmtree(target, ignore_errors=True)


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
        if description.get("tensor_parallel", 1) > 1:
            with tempfile.TemporaryDirectory(prefix="piledriver-universal-") as temporary:
                universal.extract(Path(path, STATE), Path(temporary, STATE))
                return universal.weights(Path(temporary, STATE))
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(open(os.devnull, "w")):
            return dict(get_fp32_state_dict_from_zero_checkpoint(path, tag=STATE))
