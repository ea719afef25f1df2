"""What only another corpus holds to the next corpus version."""

from typing import Annotated

import typer

from jobs.session import ConfigOption, SetOption, VerboseOption, run, session, tell


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
    from jobs.checks import check
    from pipelines.config import load

    settings = load(config, set_)
    check("merge", settings)
    from pipelines.corpus.versions import commands, merge

    with commands.claimed(settings, "jobs.merge", tell) as claim:
        parent, other = commands.merge_plan(settings, with_)
        found = merge.find(parent, other)
        with session(settings, verbose=verbose, builds=True, needs_cluster=found is None) as work:
            outcome = commands.merge(
                settings, parent, other, claim=claim, executor=work.executor, progress=work.progress
            )
    if not outcome.new:
        print(f"nothing to merge: {outcome.version.name} holds every document of {other.url}")
    print("\n".join(commands.summary(outcome)))


if __name__ == "__main__":
    run(main)
