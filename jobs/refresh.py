"""New and changed source files to the next corpus version."""

from jobs.session import ConfigOption, SetOption, VerboseOption, run, session, tell


def main(config: ConfigOption, set_: SetOption = None, verbose: VerboseOption = False) -> None:
    r"""Make the next corpus version from source files that are new or changed since the last one.

    Only those files are read; they are deduplicated against everything the corpus holds.

    \b
    Examples:
      python -m jobs.refresh --config configs/quickstart.yaml
      ray job submit --working-dir . -- python -m jobs.refresh --config my.yaml --set storage=/data/p
    """
    from jobs.checks import check
    from pipelines.config import load

    settings = load(config, set_)
    listing = check("refresh", settings)
    from pipelines.corpus.versions import commands

    with commands.claimed(settings, "jobs.refresh", tell) as claim:
        inputs = commands.inputs_of(settings, listing)
        _, fresh = commands.refresh_plan(settings, inputs)
        print(f"{len(fresh)} new or changed files of {len(inputs)}")
        with session(settings, verbose=verbose, builds=True, needs_cluster=bool(fresh)) as work:
            outcome = commands.refresh(
                settings, inputs, claim=claim, executor=work.executor, progress=work.progress
            )
    print("\n".join(commands.summary(outcome)))


if __name__ == "__main__":
    run(main)
