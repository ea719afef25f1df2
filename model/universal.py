"""Checkpoints of any ZeRO stage and number of workers through the universal form.

It is that of Lian et al. 2024 (arXiv:2406.18820): one folder a parameter with its whole fp32 weight and
Adam's moments. DeepSpeed converts between stages 1 to 3; stage 0, which it leaves out, is converted here.
"""

import contextlib
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from model import pickles
from model.config import ModelConfig
from model.neox import NeoX, weight_decay_groups

STATES = ("fp32", "exp_avg", "exp_avg_sq")
"""The files of a parameter: master weight, first and second moment."""


def convert(source: Path, target: Path, zero_stage: int, engine: Any) -> None:
    """Write the universal form of DeepSpeed's files in `source`, of ZeRO stage `zero_stage`, to `target`.

    Any stage of as many workers as there are now can read it.
    """
    shutil.rmtree(target, ignore_errors=True)
    if zero_stage == 0:
        _write_stage_0(source, target, engine)
    else:
        extract(source, target)
    _complete(target, engine)


def extract(source: Path, target: Path) -> None:
    """DeepSpeed's own conversion of a checkpoint of ZeRO 1 to 3; it joins the parts of split layers."""
    from deepspeed.checkpoint.ds_to_universal import main

    arguments = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with (
        open(os.devnull, "w") as bars,
        contextlib.redirect_stdout(None),
        contextlib.redirect_stderr(bars),
        pickles.guarded(),
    ):
        main(arguments)


def parameter_groups(model: nn.Module) -> list[list[tuple[str, Any]]]:
    """Names and parameters of the optimizer's groups, in its order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[Any] = [group["params"] for group in weight_decay_groups(model, 0.0)]
    return [[(names[id(parameter)], parameter) for parameter in group] for group in groups]


def _write_stage_0(source: Path, target: Path, engine: Any) -> None:
    """The universal form of a checkpoint of ZeRO 0, which is one file with torch's own optimizer state.

    In half precision DeepSpeed keeps the master weights beside that state.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    states = next(source.glob("*_model_states.pt"))
    content = pickles.load(states, "cpu", mmap=True)
    optimizer = content["optimizer"]
    adam = optimizer.get("optimizer_state_dict", optimizer)
    masters = iter(weight for group in optimizer.get("fp32_groups", []) for weight in group)
    for index, name in enumerate(name for group in parameter_groups(engine.module) for name, _ in group):
        weight = next(masters, None) if "fp32_groups" in optimizer else content["module"][name]
        assert weight is not None
        # There is none before the first step that was taken.
        state = adam["state"].get(index, {})
        folder = target / "zero" / name
        folder.mkdir(parents=True)
        for key in STATES:
            values = weight if key == "fp32" else state.get(key, torch.zeros_like(weight))
            torch.save({"param": values.detach().clone(), "cat_dim": 0}, folder / f"{key}.pt")
        torch.save(state.get("step", torch.tensor(0.0)), folder / "step.pt")
    common = {"param_groups": adam["param_groups"], "ds_version": content["ds_version"]}
    if "piledriver_loss_scaler" in optimizer:
        scaler = DynamicLossScaler(1.0, 1, 1.0, 1, False)
        scaler.__dict__.update(optimizer["piledriver_loss_scaler"])
        common["loss_scaler"] = scaler
    torch.save(common, target / "zero" / "optimizer_state.pt")
    left = {key: value for key, value in content.items() if key not in ("module", "optimizer")}
    torch.save({**left, "module": {}, "optimizer": None}, target / states.name)


def _complete(root: Path, engine: Any) -> None:
    """Make a universal checkpoint readable by any ZeRO stage; as DeepSpeed makes it, only its own can."""
    # The step and the like are read from a file that the stages name differently; weights come from zero/.
    states = _model_states(root)
    for worker in range(torch.distributed.get_world_size()):
        prefix = f"zero_pp_rank_{worker}_" if engine.zero_optimization_partition_weights() else ""
        wanted = root / f"{prefix}mp_rank_00_model_states.pt"
        if not wanted.exists():
            wanted.symlink_to(states.resolve())
    common = pickles.load(root / "zero" / "optimizer_state.pt")
    for name, parameter in engine.module.named_parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        for key in STATES:
            path = root / "zero" / name / f"{key}.pt"
            content = pickles.load(path)
            if isinstance(content, Tensor):  # ZeRO-3 leaves them flat
                values = content.detach()[: shape.numel()].view(shape).clone()
                torch.save({"param": values, "cat_dim": 0}, path)
        if (path := root / "zero" / name / "step.pt").exists():
            updates = pickles.load(path)
        else:
            updates = common["optimizer_state_dict"]["state"][0]["step"].clone()
            torch.save(updates, path)
    common["optimizer_state_dict"] = {"state": {0: {"step": updates}}, "param_groups": common["param_groups"]}
    from deepspeed import __version__

    common.setdefault("ds_version", __version__)
    common.pop("fp32_flat_groups", None)
    torch.save(common, root / "zero" / "optimizer_state.pt")


def _model_states(root: Path) -> Path:
    """A file with the step and the like."""
    return min(root.glob("*_model_states.pt"))


def weights(root: Path) -> dict[str, Tensor]:
    """Whole fp32 weights of a universal checkpoint by parameter name."""
    paths = sorted((root / "zero").glob("*/fp32.pt"))
    return {path.parent.name: pickles.load(path)["param"].detach() for path in paths}


def weights_of_stage_0(folder: Path, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Whole fp32 weights of a checkpoint of ZeRO 0 by parameter name.

    settings: of the model, as the description of the checkpoint has them.
    """
    content = pickles.load(next(folder.glob("*_model_states.pt")), "cpu")
    state: dict[str, Tensor] = {name: values.float() for name, values in content["module"].items()}
    masters = content["optimizer"].get("fp32_groups")
    if masters is not None:
        config = ModelConfig.model_validate({name: settings[name] for name in ModelConfig.model_fields})
        with torch.device("meta"):
            model = NeoX(config, settings["vocab_size"], end_of_document_id=0, seed=None)
        groups = parameter_groups(model)
        for group, weights in zip(groups, masters, strict=True):
            state |= {name: values.detach() for (name, _), values in zip(group, weights, strict=True)}
        if config.tie_embeddings:
            state["embed_out.weight"] = state["embed_in.weight"]
    return state


def load_stage_0(root: Path, engine: Any) -> None:
    """Load the universal checkpoint in `root` into an engine of ZeRO 0."""

    def read(name: str, file: str) -> Any:
        return pickles.load(root / "zero" / name / f"{file}.pt")

    counters = pickles.load(_model_states(root), "cpu", mmap=True)
    groups = parameter_groups(engine.module)
    names = [name for group in groups for name, _ in group]
    with torch.no_grad():
        for name, parameter in (pair for group in groups for pair in group):
            parameter.copy_(read(name, "fp32")["param"])
    content = engine.optimizer.state_dict()
    content.get("optimizer_state_dict", content)["state"] = {
        index: {"step": read(name, "step").clone(), **{key: read(name, key)["param"] for key in STATES[1:]}}
        for index, name in enumerate(names)
    }
    if "fp32_groups" in content:  # half precision
        content["fp32_groups"] = [[read(name, "fp32")["param"] for name, _ in group] for group in groups]
    if "piledriver_loss_scaler" in content:
        scaler = pickles.load(root / "zero" / "optimizer_state.pt")["loss_scaler"]
        content |= {"piledriver_loss_scaler": dict(vars(scaler)), "cur_scale": scaler.cur_scale}
    engine.optimizer.load_state_dict(content)
    for name in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, name, counters[name])


def check_loaded(root: Path, engine: Any) -> None:
    """Compare all master weights with the universal checkpoint; RuntimeError names one that differs."""
    for name, values in master_weights(engine):
        expected = pickles.load(root / "zero" / name / "fp32.pt")["param"]
        if values is None or not torch.equal(values.cpu().view(-1), expected.view(-1)):
            raise RuntimeError(f"DeepSpeed did not load {name} from the universal checkpoint {root}")


def master_weights(engine: Any) -> Iterator[tuple[str, Tensor | None]]:
    """Name and whole fp32 weight of every parameter; all ranks call it."""
    from deepspeed.utils import safe_get_full_fp32_param

    if engine.zero_optimization_stage():
        for name, parameter in engine.module.named_parameters():
            yield name, safe_get_full_fp32_param(parameter)
        return
    groups = [[name for name, _ in group] for group in parameter_groups(engine.module)]
    for names, group in zip(groups, engine.optimizer.param_groups, strict=True):
        yield from zip(names, group["params"], strict=True)
