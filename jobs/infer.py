"""Prompts to completions with any trained model."""

from typing import Annotated

import typer

from jobs.session import ConfigOption, SetOption, VerboseOption, run, session, tell


def main(
    config: ConfigOption,
    set_: SetOption = None,
    model: Annotated[
        str | None,
        typer.Option(help="Training run, or URL of a Hugging Face folder; default: the newest run."),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    r"""Complete every prompt of a file; running it again continues where it was.

    \b
    Examples:
      python -m jobs.infer --config configs/quickstart.yaml --set infer.prompts=prompts.jsonl
      ray job submit --working-dir . -- python -m jobs.infer --config configs/quickstart.yaml
    """
    from jobs.checks import check
    from pipelines.config import load
    from pipelines.inference import models

    settings = load(config, set_)
    check("infer", settings)
    prompts = settings.infer.prompts
    assert prompts is not None  # one of the checks
    chosen = models.find(settings.storage, model)
    models.check_fits(chosen)
    from pipelines.inference.infer import infer, read_prompts

    read_prompts(prompts)
    with session(settings, verbose=verbose) as work:
        result, new = infer(settings, chosen, prompts, work.progress, executor=work.executor, tell=tell)
    print(f"{result.rows} rows, {result.errors} with an error, {result.new_tokens} tokens generated")
    print(f"results {result.url}" + ("" if new else " (already finished)"))


if __name__ == "__main__":
    run(main)
