"""The demo's raw text: what the installed packages bring along."""

from typing import Annotated

import typer

from jobs.session import run


def main(
    folder: Annotated[str, typer.Option(help="Folder to write to (any fsspec URL).")] = "runs/quickstart/raw",
    batch: Annotated[int, typer.Option(help="0: the first corpus; 1: new files for a refresh.")] = 0,
) -> None:
    r"""Write package descriptions, licences, Python sources and docstrings as jsonl.zst in The Pile's layout.

    \b
    Example:
      python -m jobs.collect --folder runs/quickstart/raw
    """
    from base import files
    from jobs.demo_sources import collect

    for url in collect(files.absolute(folder), batch):
        print(f"  {files.size(url):>12,} bytes  {url}")


if __name__ == "__main__":
    run(main)
