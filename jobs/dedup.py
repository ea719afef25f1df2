"""Deduplication up to a phase, or of one corpus against another."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.session import ConfigOption, SetOption, VerboseOption, run, session, tell

if TYPE_CHECKING:
    from jobs.checks import Listing
    from pipelines.config import Config


def main(
    config: ConfigOption,
    set_: SetOption = None,
    until: Annotated[
        str, typer.Option(help="Last phase to run; docs/explanation/deduplication.md lists them.")
    ] = "dropped",
    against: Annotated[
        str | None,
        typer.Option(metavar="STORAGE", help="Storage of another corpus to compare this one with."),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    r"""Run what jobs.prepare does up to a phase of deduplication, and print the files of every phase.

    What is finished is not run again, here and by a later jobs.prepare: to run one phase alone, or one task
    of it, remove its files and name it. With --against, tell instead which documents of the newest version
    here are in that of the other corpus too, by the indexes of both: only texts of candidate pairs are read.

    \b
    Examples:
      python -m jobs.dedup --config configs/quickstart.yaml
      python -m jobs.dedup --config configs/quickstart.yaml --until candidates
      python -m jobs.dedup --config configs/quickstart.yaml --against /data/another
    """
    from jobs.checks import check
    from pipelines.config import load

    settings = load(config, set_)
    listing = check("dedup" if against is None else "dedup --against", settings)
    from base.errors import UserError
    from pipelines.corpus.stages.deduplicate import PHASES

    if until not in PHASES:
        raise UserError(f"--until {until} is none of the phases of deduplication: {', '.join(PHASES)}")
    if against is None:
        _list_phases(settings, listing, until, verbose)
    else:
        _compare(settings, against, verbose)


def _list_phases(settings: "Config", listing: "Listing", until: str, verbose: bool) -> None:
    """Deduplicate up to a phase and print how many files and rows each phase has."""
    from base import files, layout
    from dedup import runs
    from pipelines.corpus.versions import commands

    with commands.claimed(settings, "jobs.dedup", tell) as claim:
        inputs = commands.inputs_of(settings, listing)
        with session(settings, verbose=verbose, builds=True) as work:
            folder = commands.deduplicated(
                settings, inputs, until=until, claim=claim, executor=work.executor, progress=work.progress
            )
    phases: dict[str, list[str]] = {}
    for url in files.list_files(folder):
        phases.setdefault(layout.name_of(layout.parent_of(url)), []).append(url)
    print(f"{folder}/")
    for phase, urls in phases.items():
        rows = sum(int(runs.read_metadata(url)["rows"]) for url in urls)
        print(f"  {phase + '/':<16} {len(urls):>6} files {rows:>12,} rows")


def _compare(settings: "Config", against: str, verbose: bool) -> None:
    """Print how many documents of a corpus another one holds, and where the tables that name them are."""
    from base import files, manifest
    from base.layout import Layout
    from pipelines.corpus.stages.indexes import deduplicate_indexes

    mine, other = manifest.require(settings.storage), manifest.require(files.absolute(against))
    key = files.key_of(mine.hash, other.hash, settings.dedup.model_dump(mode="json"))
    folder = Layout(settings.storage).work("dedup-against", key)
    with session(settings, verbose=verbose, builds=True) as work:
        outcome = deduplicate_indexes(
            mine.indexes,
            other.indexes,
            work=folder,
            config=settings.dedup,
            executor=work.executor,
            progress=work.progress,
        )
    for reason, documents in sorted(outcome.counts.items()):
        print(f"{documents:>12,} documents, {outcome.bytes[reason]:,} bytes: {reason}")
    if not outcome.counts:
        print(f"no document of {mine.url} is in {other.url}")
    for url in outcome.dropped:
        print(f"  {url}")


if __name__ == "__main__":
    run(main)
