"""The documents of a training step, or the steps that saw a document."""

from typing import Annotated

import typer

from base.errors import UserError
from jobs.session import ConfigOption, SetOption, run


def main(
    config: ConfigOption,
    name: Annotated[str, typer.Option("--run", help="Training run, such as v0001-1f2e3d4c.")],
    set_: SetOption = None,
    step: Annotated[int | None, typer.Option(help="Step, counted from 1 as in the journal.")] = None,
    document: Annotated[str | None, typer.Option(help="Document id, 32 hexadecimal digits.")] = None,
) -> None:
    r"""List the documents of every sequence of a step with their origin, or the steps that saw a document.

    Steps that the guard skipped or rolled back are marked: the weights hold nothing of them.

    \b
    Examples:
      python -m jobs.trace --config configs/quickstart.yaml --run v0001-1f2e3d4c --step 17
      python -m jobs.trace --config configs/quickstart.yaml --run v0001-1f2e3d4c \
        --document 0123456789abcdef0123456789abcdef
    """
    from pipelines.config import load
    from pipelines.training import trace

    if (step is None) == (document is None):
        raise UserError("give either --step or --document")
    settings = load(config, set_)
    opened = trace.RunSamples(settings.storage, name)
    if step is not None:
        found = trace.documents_of_step(opened, step)
        undone = f"; {opened.undone[step]}" if step in opened.undone else ""
        print(f"run {name}, step {step}: {len(found['sample'].unique())} sequences{undone}")
        for row in found.to_pylist():
            print(
                f"  sequence {row['sequence']:>4} at {row['position']:>5}: {row['document_id']} "
                f"tokens {row['first']} to {row['stop'] - 1}, {row['source']}, {row['file']}:{row['record']}"
            )
    elif document is not None:
        found = trace.steps_of_document(opened, document)
        rows = found.to_pylist()
        origin = f" ({rows[0]['source']}, {rows[0]['file']}:{rows[0]['record']})" if rows else ""
        steps = {row["step"] for row in rows}
        without = steps & opened.undone.keys()
        undone = f", {len(without)} of them undone" if without else ""
        seen = f"seen in {len(steps)} of {opened.steps} steps of run {name}"
        print(f"document {document.lower()}{origin}: {seen}{undone}")
        for row in rows:
            print(
                f"  step {row['step']:>7}, sequence {row['sequence']:>4} at {row['position']:>5}: "
                f"tokens {row['first']} to {row['stop'] - 1}"
                + (f"; {row['undone']}" if row["undone"] else "")
            )


if __name__ == "__main__":
    run(main)
