"""Deduplication up to a named phase with the files of every phase, or of one corpus against another."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.common import ConfigOption, SetOption, VerboseOption, check_storage, run

if TYPE_CHECKING:
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
    from pipelines.config import load

    settings = load(config, set_)
    check_storage(settings.storage)
    from base.errors import UserError
    from pipelines.corpus.stages.deduplicate import PHASES

    if until not in PHASES:
        raise UserError(f"--until {until} is none of the phases of deduplication: {', '.join(PHASES)}")
    if against is not None:
        _compare(settings, against, verbose)
        return
    from base import files
    from dedup import runs
    from jobs.progress import StageProgress
    from pipelines.corpus.versions import commands as prepare
    from pipelines.corpus.versions.build import Build
    from pipelines.runtime import cluster

    inputs = prepare.inputs_of(settings)
    cluster.start(settings.ray, verbose)
    shown = StageProgress()

    class Reached(Exception):
        """The phase is finished."""

    def progress(stage: str, done: int, total: int, documents: int = 0, size: int = 0, /) -> None:
        shown(stage, done, total, documents, size)
        if stage == f"dedup {until}" and done == total:
            raise Reached

    build = Build(settings, inputs, None, progress)
    build.measure()
    build.decide()
    try:
        build.deduplicate()
    except Reached:
        pass
    finally:
        shown.close()
    folder = build.work("dedup", build.dedup_key)
    phases: dict[str, list[str]] = {}
    for url in files.list_files(folder):
        phases.setdefault(url.rsplit("/", 2)[-2], []).append(url)
    print(f"{folder}/")
    for phase, urls in phases.items():
        rows = sum(int(runs.read_metadata(url)["rows"]) for url in urls)
        print(f"  {phase + '/':<16} {len(urls):>6} files {rows:>12,} rows")


def _compare(settings: "Config", against: str, verbose: bool) -> None:
    """Print how many documents of a corpus another one holds, and where the tables that name them are."""
    from base import files, manifest
    from jobs.progress import StageProgress
    from pipelines.corpus.stages.deduplicate import deduplicate_indexes
    from pipelines.runtime import cluster

    mine, other = manifest.require(settings.storage), manifest.require(files.absolute(against))
    key = files.key_of(mine.hash, other.hash, settings.dedup.model_dump(mode="json"))
    work = files.join(manifest.corpus_url(settings.storage), "work", "dedup-against", key)
    indexes, others = manifest.indexes(mine), manifest.indexes(other)
    cluster.start(settings.ray, verbose)
    progress = StageProgress()
    try:
        outcome = deduplicate_indexes(indexes, others, work, settings.dedup, progress, settings.ray.workers)
    finally:
        progress.close()
    for reason, documents in sorted(outcome.counts.items()):
        print(f"{documents:>12,} documents, {outcome.bytes[reason]:,} bytes: {reason}")
    if not outcome.counts:
        print(f"no document of {mine.url} is in {other.url}")
    for url in outcome.dropped:
        print(f"  {url}")


if __name__ == "__main__":
    run(main)
