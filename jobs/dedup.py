"""Deduplication up to a named phase, and where the parquet files of every phase are."""

from typing import Annotated

import typer

from jobs.common import ConfigOption, SetOption, VerboseOption, check_storage, run


def main(
    config: ConfigOption,
    set_: SetOption = None,
    until: Annotated[
        str, typer.Option(help="Last phase to run; docs/architecture.md lists them.")
    ] = "dropped",
    verbose: VerboseOption = False,
) -> None:
    r"""Run what jobs.prepare does up to a phase of deduplication, and print the files of every phase.

    What is finished is not run again, here and by a later jobs.prepare: to run one phase alone, or one task
    of it, remove its files and name it.

    \b
    Examples:
      python -m jobs.dedup --config configs/quickstart.yaml
      python -m jobs.dedup --config configs/quickstart.yaml --until candidates
    """
    from pipelines.config import load

    settings = load(config, set_)
    check_storage(settings.storage)
    from base.errors import UserError
    from pipelines.deduplicate import PHASES

    if until not in PHASES:
        raise UserError(f"--until {until} is none of the phases of deduplication: {', '.join(PHASES)}")
    from pipelines.inputs import check_sources

    check_sources(settings.sources)
    from base import files
    from dedup import runs
    from jobs.progress import StageProgress
    from pipelines import cluster, prepare
    from pipelines.build import Build

    cluster.start(settings.ray, verbose)
    shown = StageProgress()

    class Reached(Exception):
        """The phase is finished."""

    def progress(stage: str, done: int, total: int, documents: int = 0, size: int = 0, /) -> None:
        shown(stage, done, total, documents, size)
        if stage == f"dedup {until}" and done == total:
            raise Reached

    build = Build(settings, prepare.inputs_of(settings), None, progress)
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


if __name__ == "__main__":
    run(main)
