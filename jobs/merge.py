"""The documents of another corpus that this one does not hold to the next corpus version."""

from typing import Annotated

import typer

from jobs.common import ConfigOption, SetOption, VerboseOption, check_storage, run


def main(
    config: ConfigOption,
    with_: Annotated[
        str, typer.Option("--with", metavar="STORAGE", help="Storage of the corpus that joins this one.")
    ],
    set_: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    r"""Make the next corpus version from the newest one and the documents that only another corpus holds.

    Both are compared by their indexes: only texts of candidate pairs are read. Documents of this corpus stay;
    those of the other that it holds already, or nearly so, are dropped and named.

    \b
    Examples:
      python -m jobs.merge --config configs/quickstart.yaml --with /data/another
      python -m jobs.merge --config my.yaml --with s3://bucket/theirs --set ray.workers=8
    """
    from pipelines.config import load

    settings = load(config, set_)
    check_storage(settings.storage)
    from jobs.progress import StageProgress
    from pipelines.corpus.versions import commands as prepare
    from pipelines.corpus.versions import merge
    from pipelines.runtime import cluster
    from pipelines.runtime.executor import OnRay

    parent, other = prepare.merge_plan(settings, with_)
    if merge.find(parent, other) is None:
        cluster.start(settings.ray, verbose)
    progress = StageProgress()
    outcome = prepare.merge(
        settings, parent, other, executor=OnRay(workers=settings.ray.workers), progress=progress
    )
    progress.close()
    if not outcome.new:
        print(f"nothing to merge: {outcome.version.name} holds every document of {other.url}")
    print("\n".join(prepare.summary(outcome)))


if __name__ == "__main__":
    run(main)
