"""Corpus versions against their manifests."""

from contextlib import nullcontext
from typing import Annotated

import typer

from base.errors import UserError
from jobs.session import DAMAGED, ConfigOption, SetOption, VerboseOption, run, session, tell


def main(
    config: ConfigOption,
    set_: SetOption = None,
    version: Annotated[
        str | None, typer.Option(help="Corpus version, such as v0001; default: every version.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make damaged files again.")] = False,
    verbose: VerboseOption = False,
) -> None:
    r"""Check every shard, origins table, tokenizer and manifest; name what is damaged or missing.

    The exit code is 1 if something is damaged and was not made again.

    \b
    Examples:
      python -m jobs.verify --config configs/quickstart.yaml
      python -m jobs.verify --config configs/quickstart.yaml --version v0001 --rebuild
    """
    from base import manifest
    from base.layout import Layout
    from jobs.checks import check
    from pipelines.config import load

    settings = load(config, set_)
    urls = manifest.manifest_urls(settings.storage, version or "v*")
    if not urls:
        wanted = f"version {version}" if version else "corpus version"
        raise UserError(f"{Layout(settings.storage).corpus} holds no {wanted}; run jobs.prepare first")
    if rebuild:
        check("verify --rebuild", settings)
    from pipelines.corpus.versions import commands
    from pipelines.corpus.versions.rebuild import repair
    from pipelines.corpus.versions.verify import open_versions, verify

    versions, damage = open_versions(urls)
    claimed = commands.claimed(settings, "jobs.verify --rebuild", tell) if rebuild else nullcontext()
    with claimed as claim, session(settings, verbose=verbose) as work:
        damage += verify(versions, executor=work.executor, progress=work.progress)
        work.progress.close()
        for item in damage:
            print(f"damaged: {item.path}: {item.problem}")
        if claim is not None and damage:
            damaged = damage
            damage = repair(
                settings, versions, damaged, claim=claim, executor=work.executor, progress=work.progress
            )
            work.progress.close()
            left = {item.path for item in damage}
            for path in sorted({item.path for item in damaged} - left):
                print(f"made again: {path}")
            for item in damage:
                print(f"still damaged: {item.path}: {item.problem}")
    names = ", ".join(item.name for item in versions)
    if damage:
        print(f"{names}: damaged files: {len({item.path for item in damage})}")
        raise typer.Exit(DAMAGED)
    print(f"{names}: every file is what its manifest says")


if __name__ == "__main__":
    run(main)
