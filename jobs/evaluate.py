"""A trained model and a corpus version to held-out loss, perplexity and bits per byte per source."""

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
    from pipelines.config import load

    settings = load(config, set_)
    check_storage(settings.storage)
    from base import manifest
    from pipelines.inference import models

    chosen = models.find(settings.storage, model)
    models.check_fits(chosen)
    seen = chosen.result.version if chosen.result else None
    version = manifest.require(settings.storage, corpus or seen)
    models.check_tokenizer(chosen, version)
    from jobs.progress import StageProgress
    from pipelines.inference.evaluate import evaluate
    from pipelines.runtime import cluster
    from pipelines.runtime.executor import OnRay

    cluster.start(settings.ray, verbose)
    progress = StageProgress()
    executor = OnRay(workers=settings.ray.workers)
    result, new = evaluate(settings, version, chosen, progress, executor=executor)
    progress.close()
    for name, values in [*result.sources.items(), ("all", result.all)]:
        print(
            f"  {name:<24} {values.documents:>6} documents  loss {values.loss:.4f}"
            f"  perplexity {values.perplexity:>9.2f}  bits per byte {values.bits_per_byte:.4f}"
        )
    print(f"results {result.url}" + ("" if new else " (already finished)"))


if __name__ == "__main__":
    run(main)
