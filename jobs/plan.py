"""What a training configuration needs: parameters, memory, FLOPs, time and cost."""

from typing import Annotated

import typer

from jobs.common import ConfigOption, SetOption, run


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
    if days is not None:
        tokens = settings.tokenize.vocab_size
        workers = workers_for(settings.model, settings.train, tokens, days, gpu=GPUS[gpu], mfu=mfu)
    found = plan(
        settings.model,
        settings.train,
        settings.tokenize.vocab_size,
        workers=workers,
        gpu=GPUS[gpu],
        mfu=mfu,
        price_per_hour=price,
    )
    console = Console(highlight=False)
    table = Table(
        "what",
        "value",
        title=f"{settings.name}: {settings.train.precision}, ZeRO-{settings.train.zero_stage}, {gpu.upper()}",
    )
    table.columns[1].justify = "right"
    counts, memory = found.parameters, found.memory
    gib, room, mfu = 2**30, GPUS[gpu].memory_gib, found.mfu
    step = found.step
    parts = (
        []
        if step is None
        else [
            ("    matrix products", f"{step.matrices:.3f} s"),
            ("    attention", f"{step.attention:.3f} s"),
            ("    elementwise", f"{step.elementwise:.3f} s"),
            ("    optimizer", f"{step.optimizer:.3f} s"),
            ("    communication that nothing hides", f"{step.communication:.3f} s"),
        ]
    )
    for name, value in [
        ("parameters, unique", f"{counts.unique:,}"),
        ("parameters, as GPT-NeoX counts them", f"{counts.neox:,}"),
        ("vocabulary, padded", f"{found.padded_vocab_size:,}"),
        ("tokens a step", f"{found.tokens_per_step:,}"),
        ("tokens", f"{found.tokens:,}"),
        ("FLOPs a token", f"{found.flops_per_token:.4g}"),
        ("FLOPs a token with recomputation", f"{found.hardware_flops_per_token:.4g}"),
        ("FLOPs of the run", f"{found.total_flops:.4g}"),
        ("memory a worker: weights", f"{memory.weights / gib:.2f} GiB"),
        ("memory a worker: gradients with buckets", f"{memory.gradients / gib:.2f} GiB"),
        ("memory a worker: optimizer", f"{memory.optimizer / gib:.2f} GiB"),
        ("memory a worker: activations", f"{memory.activations / gib:.2f} GiB"),
        ("    without checkpointing", f"{found.activations_kept / gib:.2f} GiB"),
        ("    with checkpointing", f"{found.activations_recomputed / gib:.2f} GiB"),
        ("memory a worker: logits and loss", f"{memory.logits / gib:.2f} GiB"),
        ("memory a worker after the forward pass", f"{memory.forward / gib:.2f} GiB"),
        ("memory a worker in the backward pass", f"{memory.backward / gib:.2f} GiB"),
        ("memory a worker in the optimizer's step", f"{memory.update / gib:.2f} GiB"),
        ("memory a worker, peak", f"{memory.total / gib:.2f} GiB"),
        (f"fits in {room:g} GiB", "yes" if memory.total < room * gib else "no"),
        ("checkpoint", f"{found.checkpoint_bytes / gib:.2f} GiB"),
        ("workers", f"{found.workers:,}"),
        ("MFU, as predicted" if step else "MFU, as given", f"{mfu:.0%}"),
        ("hardware FLOPs utilisation", f"{mfu * found.recomputation:.0%}"),
        ("tokens a second", f"{found.tokens_per_second:,.0f}"),
        ("seconds a step", f"{found.step_seconds:.2f}"),
        *parts,
        ("days", f"{found.days:.2f}"),
        ("cost", "no price given" if found.cost is None else f"{found.cost:,.0f}"),
    ]:
        table.add_row(name, value)
    console.print(table)


if __name__ == "__main__":
    run(main)
