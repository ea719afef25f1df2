"""Why a document was kept or dropped, and what it is a duplicate of."""

from typing import Annotated

import typer

from jobs.session import ConfigOption, SetOption, VerboseOption, run


def main(
    document: Annotated[
        str, typer.Argument(metavar="DOCUMENT_ID", help="32 hex digits, or file:record (0-based).")
    ],
    config: ConfigOption,
    set_: SetOption = None,
    corpus: Annotated[
        str | None, typer.Option(help="Corpus version, such as v0001; default: the newest.")
    ] = None,
    lines: Annotated[int, typer.Option(help="Lines of the diff to print.", min=1)] = 40,
    verbose: VerboseOption = False,
) -> None:
    r"""Print why a document was kept or dropped, its duplicates, and a diff against the kept one.

    \b
    Examples:
      python -m jobs.explain 00f3a1c27be0454dd1a2f0b1c9e8d7a6 --config configs/quickstart.yaml
      python -m jobs.explain licences-00.jsonl.zst:17 --config configs/quickstart.yaml --corpus v0001
    """
    from pipelines.config import load

    settings = load(config, set_)
    from base import manifest
    from pipelines.corpus.views import explain

    print("\n".join(explain.explain(manifest.require(settings.storage, corpus), document, lines)))


if __name__ == "__main__":
    run(main)
