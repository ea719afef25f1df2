"""New and changed source files to the next corpus version."""

from jobs.common import ConfigOption, SetOption, VerboseOption, check_storage, run


def main(config: ConfigOption, set_: SetOption = None, verbose: VerboseOption = False) -> None:
    r"""Make the next corpus version from source files that are new or changed since the last one.

    Only those files are read; they are deduplicated against everything the corpus holds.

    \b
    Examples:
      python -m jobs.refresh --config configs/quickstart.yaml
      ray job submit --working-dir . -- python -m jobs.refresh --config my.yaml --set storage=/data/p
    """
    from pipelines.config import load

    settings = load(config, set_)
    check_storage(settings.storage)
    from pipelines.corpus.inputs import check_sources

    found = check_sources(settings.sources)
    from base import manifest

    manifest.require(settings.storage)
    from jobs.progress import StageProgress
    from pipelines.corpus.versions import commands as prepare
    from pipelines.runtime import cluster
    from pipelines.runtime.executor import OnRay

    inputs = prepare.inputs_of(settings, found)
    _, fresh = prepare.refresh_plan(settings, inputs)
    print(f"{len(fresh)} new or changed files of {len(inputs)}")
    if fresh:
        cluster.start(settings.ray, verbose)
    progress = StageProgress()
    outcome = prepare.refresh(
        settings, inputs, executor=OnRay(workers=settings.ray.workers), progress=progress
    )
    progress.close()
    print("\n".join(prepare.summary(outcome)))


if __name__ == "__main__":
    run(main)
