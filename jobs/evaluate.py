"""Held-out loss, perplexity and bits per byte of a model, by source."""

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
    corpus: Annotated[
        str | None, typer.Option(help="Corpus version, such as v0001; default: the one the model saw.")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    r"""Measure loss, perplexity and bits per byte of every source on documents held out of training.

    \b
    Examples:
      python -m jobs.evaluate --config configs/quickstart.yaml
      python -m jobs.evaluate --config configs/quickstart.yaml --model v0001-1f2e3d4c --corpus v0002
      ray job submit --working-dir . -- python -m jobs.evaluate --config configs/quickstart.yaml
    """
    from base import manifest
    from jobs.checks import check
    from pipelines.config import load
    from pipelines.inference import models

    settings = load(config, set_)
    check("evaluate", settings)
    chosen = models.find(settings.storage, model)
    models.check_fits(chosen)
    version = manifest.require(settings.storage, corpus or (chosen.result.version if chosen.result else None))
    models.check_tokenizer(chosen, version)
    from pipelines.inference.evaluate import evaluate

    with session(settings, verbose=verbose) as work:
        result, new = evaluate(settings, version, chosen, work.progress, executor=work.executor, tell=tell)
    for name, values in [*result.sources.items(), ("all", result.all)]:
        print(
            f"  {name:<24} {values.documents:>6} documents  loss {values.loss:.4f}"
            f"  perplexity {values.perplexity:>9.2f}  bits per byte {values.bits_per_byte:.4f}"
        )
    print(f"results {result.url}" + ("" if new else " (already finished)"))


if __name__ == "__main__":
    run(main)
