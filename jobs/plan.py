"""Memory, FLOPs, time and cost of a training configuration."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.session import ConfigOption, SetOption, run

if TYPE_CHECKING:
    from model.plan import Plan

GIB = 2**30
Row = tuple[str, str]
"""What it is, and its value."""


def main(
    config: ConfigOption,
    set_: SetOption = None,
    workers: Annotated[
        int | None, typer.Option(help="GPUs, among which batches divide; default: train.workers.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="h200, h100 or a100.")] = "h200",
    mfu: Annotated[
        float | None,
        typer.Option(help="Model FLOPs utilisation that is reached, such as 0.45; default: predicted."),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Price of one GPU-hour.")] = None,
    days: Annotated[float | None, typer.Option(help="Choose the fewest GPUs that take no longer.")] = None,
) -> None:
    r"""Print parameters, memory by part, FLOPs, time and cost of a training configuration.

    \b
    Examples:
      python -m jobs.plan --config configs/stablelm-base-alpha-3b.yaml
      python -m jobs.plan --config configs/stablelm-base-alpha-7b.yaml --workers 256 --gpu h100 --price 2.5
      python -m jobs.plan --config configs/stablelm-base-alpha-3b.yaml --days 7
    """
    from rich.console import Console
    from rich.table import Table

    from base.errors import UserError
    from model.plan import plan, workers_for
    from model.roofline import GPUS
    from pipelines.config import load

    if days is not None and workers is not None:
        raise UserError("give either --workers or --days")
    if gpu not in GPUS:
        raise UserError(f"--gpu {gpu}: allowed are {', '.join(GPUS)}")
    settings = load(config, set_)
    model, train, tokens = settings.model, settings.train, settings.tokenize.vocab_size
    if days is not None:
        workers = workers_for(model, train, tokens, days, gpu=GPUS[gpu], mfu=mfu)
    found = plan(model, train, tokens, workers=workers, gpu=GPUS[gpu], mfu=mfu, price_per_hour=price)
    title = f"{settings.name}: {train.precision}, ZeRO-{train.zero_stage}, {gpu.upper()}"
    table = Table("what", "value", title=title)
    table.columns[1].justify = "right"
    for row in [*_size(found), *_memory(found, GPUS[gpu].memory_gib), *_speed(found)]:
        table.add_row(*row)
    Console(highlight=False).print(table)


def _size(plan: "Plan") -> list[Row]:
    """Parameters, tokens and FLOPs."""
    return [
        ("parameters, unique", f"{plan.parameters.unique:,}"),
        ("parameters, as GPT-NeoX counts them", f"{plan.parameters.neox:,}"),
        ("vocabulary, padded", f"{plan.padded_vocab_size:,}"),
        ("tokens a step", f"{plan.tokens_per_step:,}"),
        ("tokens", f"{plan.tokens:,}"),
        ("FLOPs a token", f"{plan.flops_per_token:.4g}"),
        ("FLOPs a token with recomputation", f"{plan.hardware_flops_per_token:.4g}"),
        ("FLOPs of the run", f"{plan.total_flops:.4g}"),
    ]


def _memory(plan: "Plan", room: float) -> list[Row]:
    """Memory of a worker by part and moment, and whether it fits in `room` GiB; the size of a checkpoint."""
    memory = plan.memory
    return [
        ("memory a worker: weights", _gib(memory.weights)),
        ("memory a worker: gradients with buckets", _gib(memory.gradients)),
        ("memory a worker: optimizer", _gib(memory.optimizer)),
        ("memory a worker: activations", _gib(memory.activations)),
        ("    without checkpointing", _gib(plan.activations_kept)),
        ("    with checkpointing", _gib(plan.activations_recomputed)),
        ("memory a worker: logits and loss", _gib(memory.logits)),
        ("memory a worker after the forward pass", _gib(memory.forward)),
        ("memory a worker in the backward pass", _gib(memory.backward)),
        ("memory a worker in the optimizer's step", _gib(memory.update)),
        ("memory a worker, peak", _gib(memory.total)),
        (f"fits in {room:g} GiB", "yes" if memory.total < room * GIB else "no"),
        ("checkpoint", _gib(plan.checkpoint_bytes)),
    ]


def _speed(plan: "Plan") -> list[Row]:
    """Workers, their utilisation and speed, time and cost of the run."""
    rows = [
        ("workers", f"{plan.workers:,}"),
        ("MFU, as predicted" if plan.step else "MFU, as given", f"{plan.mfu:.0%}"),
        ("hardware FLOPs utilisation", f"{plan.mfu * plan.recomputation:.0%}"),
        ("tokens a second", f"{plan.tokens_per_second:,.0f}"),
        ("seconds a step", f"{plan.step_seconds:.2f}"),
    ]
    if step := plan.step:
        rows += [
            ("    matrix products", f"{step.matrices:.3f} s"),
            ("    attention", f"{step.attention:.3f} s"),
            ("    elementwise", f"{step.elementwise:.3f} s"),
            ("    optimizer", f"{step.optimizer:.3f} s"),
            ("    communication that nothing hides", f"{step.communication:.3f} s"),
        ]
    cost = "no price given" if plan.cost is None else f"{plan.cost:,.0f}"
    return [*rows, ("days", f"{plan.days:.2f}"), ("cost", cost)]


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


if __name__ == "__main__":
    run(main)
