"""What a training configuration needs: parameters, memory, FLOPs, time and cost."""

from typing import Annotated

import typer

from jobs.common import ConfigOption, SetOption, run


def main(
    config: ConfigOption,
    set_: SetOption = None,
    workers: Annotated[int | None, typer.Option(help="GPUs; default: train.workers.")] = None,
    mfu: Annotated[float, typer.Option(help="Model FLOPs utilisation that is reached.")] = 0.45,
    peak_tflops: Annotated[float | None, typer.Option(help="Peak TFLOP/s of one GPU; default: H200.")] = None,
    gpu_memory: Annotated[float, typer.Option(help="Memory of one GPU in GiB; default: H200.")] = 131,
    price: Annotated[float | None, typer.Option(help="Price of one GPU-hour.")] = None,
    days: Annotated[float | None, typer.Option(help="Choose the fewest GPUs that take no longer.")] = None,
) -> None:
    r"""Print parameters, memory by part, FLOPs, time and cost of a training configuration.

    \b
    Examples:
      python -m jobs.plan --config configs/stablelm-base-alpha-3b.yaml
      python -m jobs.plan --config configs/stablelm-base-alpha-7b.yaml --workers 256 --mfu 0.5 --price 2.5
      python -m jobs.plan --config configs/stablelm-base-alpha-3b.yaml --days 7
    """
    from rich.console import Console
    from rich.table import Table

    from base.errors import UserError
    from model.plan import plan, workers_for
    from pipelines.config import load

    if days is not None and workers is not None:
        raise UserError("give either --workers or --days")
    settings = load(config, set_)
    if days is not None:
        tokens = settings.tokenize.vocab_size
        workers = workers_for(settings.model, settings.train, tokens, days, mfu=mfu, peak_tflops=peak_tflops)
    found = plan(
        settings.model,
        settings.train,
        settings.tokenize.vocab_size,
        workers=workers,
        mfu=mfu,
        peak_tflops=peak_tflops,
        price_per_hour=price,
    )
    console = Console(highlight=False)
    table = Table(
        "what",
        "value",
        title=f"{settings.name}: {settings.train.precision}, ZeRO-{settings.train.zero_stage}",
    )
    table.columns[1].justify = "right"
    counts, memory = found.parameters, found.memory
    gib = 2**30
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
        (f"fits in {gpu_memory:g} GiB", "yes" if memory.total < gpu_memory * gib else "no"),
        ("checkpoint", f"{found.checkpoint_bytes / gib:.2f} GiB"),
        ("workers", f"{found.workers:,}"),
        (f"hardware FLOPs utilisation at {mfu:.0%} MFU", f"{mfu * found.recomputation:.0%}"),
        (f"tokens a second at {mfu:.0%} MFU", f"{found.tokens_per_second:,.0f}"),
        ("seconds a step", f"{found.step_seconds:.2f}"),
        ("days", f"{found.days:.2f}"),
        ("cost", "no price given" if found.cost is None else f"{found.cost:,.0f}"),
    ]:
        table.add_row(name, value)
    console.print(table)


if __name__ == "__main__":
    run(main)
