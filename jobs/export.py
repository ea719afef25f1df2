"""A corpus version to Megatron-LM and GPT-NeoX files."""

from typing import Annotated

import typer

from jobs.session import ConfigOption, SetOption, VerboseOption, run, session


def main(
    config: ConfigOption,
    output: Annotated[str, typer.Option(help="Folder to write to (any fsspec URL).")],
    set_: SetOption = None,
    version: Annotated[
        str | None, typer.Option(help="Corpus version, such as v0001; default: the newest.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Source to write; may be repeated; default: all.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="train or heldout; may be repeated; default: train.")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    r"""Write shards as indexed datasets (.bin and .idx), one pair a source and split.

    Running it again finishes what was interrupted and repeats nothing.

    \b
    Examples:
      python -m jobs.export --config configs/quickstart.yaml --output runs/quickstart/megatron
      python -m jobs.export --config my.yaml --output s3://bucket/neox --version v0002 --source books
    """
    from base import files, manifest
    from jobs.checks import writable
    from pipelines.config import load

    settings = load(config, set_)
    opened = manifest.require(settings.storage, version)
    output = files.absolute(output)
    writable(output)
    from pipelines.corpus.views.export import export

    with session(settings, verbose=verbose) as work:
        pairs = export(
            opened,
            output,
            sources=source or [],
            splits=split or ["train"],
            progress=work.progress,
            executor=work.executor,
        )
    for pair in pairs:
        print(f"  {pair.documents:>12,} documents {pair.tokens:>16,} tokens  {pair.path}.bin, .idx")


if __name__ == "__main__":
    run(main)
