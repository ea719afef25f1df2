"""Sources to a corpus version: ingest, clean, dedupe, tokenize, shard."""

from jobs.common import ConfigOption, SetOption, VerboseOption, check_storage, run


def main(config: ConfigOption, set_: SetOption = None, verbose: VerboseOption = False) -> None:
    r"""Build a corpus version: ingest, clean, dedupe, tokenize and shard the configured sources.

    Running it again finishes what was interrupted and repeats nothing.

    \b
    Examples:
      python -m jobs.prepare --config configs/quickstart.yaml
      python -m jobs.prepare --config configs/quickstart.yaml --set tokenize.vocab_size=8192
      ray job submit --working-dir . -- python -m jobs.prepare --config my.yaml --set storage=/data/p
    """
    from pipelines.config import load

    settings = load(config, set_)
    check_storage(settings.storage)
    from pipelines.corpus.versions.checks import check

    found = check(settings)
    from jobs.progress import StageProgress
    from pipelines.corpus.versions import commands as prepare
    from pipelines.runtime import cluster
    from pipelines.runtime.executor import OnRay
    from pipelines.runtime.tracking import Tracking

    Tracking.of(settings)
    inputs = prepare.inputs_of(settings, found)
    cluster.start(settings.ray, verbose)
    progress = StageProgress()
    outcome = prepare.prepare(
        settings, inputs, executor=OnRay(workers=settings.ray.workers), progress=progress
    )
    progress.close()
    print("\n".join(prepare.summary(outcome)))


if __name__ == "__main__":
    run(main)
