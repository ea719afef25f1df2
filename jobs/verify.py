"""Corpus versions against their manifests."""

from typing import Annotated

import typer

from base.errors import UserError
from jobs.session import DAMAGED, ConfigOption, SetOption, VerboseOption, run, session


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
    from jobs.checks import check
    from pipelines.config import load

    settings = load(config, set_)
    urls = manifest.manifest_urls(settings.storage, version or "v*")
    if not urls:
        wanted = f"version {version}" if version else "corpus version"
        raise UserError(f"{manifest.corpus_url(settings.storage)} holds no {wanted}; run jobs.prepare first")
    if rebuild:
        check("verify --rebuild", settings)
    from pipelines.corpus.versions.rebuild import repair
    from pipelines.corpus.versions.verify import open_versions, verify

    versions, damage = open_versions(urls)
    with session(settings, verbose=verbose) as work:
        damage += verify(versions, executor=work.executor, progress=work.progress)
        work.progress.close()
        for item in damage:
            print(f"damaged: {item.path}: {item.problem}")
        if rebuild and damage:
            damaged = damage
            damage = repair(settings, versions, damaged, executor=work.executor, progress=work.progress)
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
