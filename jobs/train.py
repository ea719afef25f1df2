"""A corpus version to checkpoints and a model in Hugging Face format."""

from typing import Annotated

import typer

from jobs.session import ConfigOption, SetOption, VerboseOption, run, session, tell


def main(
    config: ConfigOption,
    set_: SetOption = None,
    corpus: Annotated[
        str | None, typer.Option(help="Corpus version, such as v0001; default: the newest.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--run", help="Name of the run; default: made from corpus and settings.")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    r"""Pretrain a GPT-NeoX model on a corpus version with Ray Train and DeepSpeed.

    Running it again resumes from the newest whole checkpoint, or finds the finished run.

    \b
    Examples:
      python -m jobs.train --config configs/quickstart.yaml
      python -m jobs.train --config configs/quickstart.yaml --corpus v0001 --set train.steps=1000
      ray job submit --working-dir . -- python -m jobs.train --config my.yaml --set storage=/data/p
    """
    from base import manifest
    from jobs.checks import check
    from pipelines.config import load

    settings = load(config, set_)
    check("train", settings)
    version = manifest.require(settings.storage, corpus)
    from jobs.progress import TrainingProgress
    from pipelines.training.run import check_fits, claimed, run_name, train

    chosen = name or run_name(settings, version)
    check_fits(settings, version, chosen)
    with claimed(settings, chosen, tell) as claim, session(settings, verbose=verbose):
        progress = TrainingProgress(settings.train.steps)
        result, new = train(settings, version, chosen, progress, claim=claim)
    speed, before = result.tokens_per_second, result.resumed_from
    print(
        f"run {chosen}: {result.step} steps, {result.tokens:,} tokens; loss {result.first_loss:.4f} "
        f"→ {result.last_loss:.4f}; unigram entropy {result.unigram_entropy:.4f} nats"
        + (f"; {speed:,.0f} tokens/s" if speed else "")
        + (f"; continued from step {before}" if before and new else "")
    )
    print(f"model {result.model}" + ("" if new else " (already finished)"))


if __name__ == "__main__":
    run(main)
