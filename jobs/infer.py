"""Prompts to completions with any trained model."""

from typing import Annotated

import typer

from jobs.common import ConfigOption, SetOption, VerboseOption, check_storage, run


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
    from base.errors import UserError
    from pipelines.config import load

    settings = load(config, set_)
    check_storage(settings.storage)
    if settings.infer.prompts is None:
        raise UserError("infer.prompts is missing: give the URL of a prompts file")
    from pipelines.inference import models

    chosen = models.find(settings.storage, model)
    models.check_fits(chosen)
    from jobs.progress import StageProgress
    from pipelines.inference.infer import infer, read_prompts
    from pipelines.runtime import cluster
    from pipelines.runtime.executor import OnRay

    read_prompts(settings.infer.prompts)
    cluster.start(settings.ray, verbose)
    progress = StageProgress()
    executor = OnRay(workers=settings.ray.workers)
    result, new = infer(settings, chosen, settings.infer.prompts, progress, executor=executor)
    progress.close()
    print(f"{result.rows} rows, {result.errors} with an error, {result.new_tokens} tokens generated")
    print(f"results {result.url}" + ("" if new else " (already finished)"))


if __name__ == "__main__":
    run(main)
