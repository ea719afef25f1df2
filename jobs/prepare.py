"""Sources to a corpus version: read, clean, dedupe, tokenize, shard."""

from jobs.session import ConfigOption, SetOption, VerboseOption, run, session, tell


def main(config: ConfigOption, set_: SetOption = None, verbose: VerboseOption = False) -> None:
    r"""Build a corpus version: ingest, clean, dedupe, tokenize and shard the configured sources.

    Running it again finishes what was interrupted and repeats nothing.

    \b
    Examples:
      python -m jobs.prepare --config configs/quickstart.yaml
      python -m jobs.prepare --config configs/quickstart.yaml --set tokenize.vocab_size=8192
      ray job submit --working-dir . -- python -m jobs.prepare --config my.yaml --set storage=/data/p
    """
    from jobs.checks import check
    from pipelines.config import load

    settings = load(config, set_)
    listing = check("prepare", settings)
    from pipelines.corpus.versions import commands

    with commands.claimed(settings, "jobs.prepare", tell) as claim:
        inputs = commands.inputs_of(settings, listing)
        with session(settings, verbose=verbose, builds=True) as work:
            outcome = commands.prepare(
                settings, inputs, claim=claim, executor=work.executor, progress=work.progress
            )
    print("\n".join(commands.summary(outcome)))


if __name__ == "__main__":
    run(main)
