"""Add a source to a corpus: the next version holds it, and only its files are read.

`python examples/add_a_source.py [STORAGE]` builds the corpus of the examples first.
"""

import json
import os
import sys
from pathlib import Path

from build_from_python import build, configuration, show

from pipelines.corpus.versions.commands import claimed, inputs_of, refresh, summary
from pipelines.runtime.executor import InProcess


def write_packages(storage: str, number: int = 20) -> str:
    """Write packages of the standard library as a second source; returns its pattern."""
    folder = Path(storage) / "raw" / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted(Path(os.__file__).parent.glob("*/__init__.py"))[:number]
    records = [{"text": path.read_text("utf-8", "replace"), "file": path.parent.name} for path in paths]
    (folder / "packages.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return "{storage}/raw/packages/*.jsonl"


def main(storage: str) -> None:
    """Build the corpus of the examples, then refresh it with one source more: what jobs.refresh does."""
    build(storage)
    pattern = write_packages(storage)
    before = '{name: modules, urls: ["{storage}/raw/modules/*.jsonl"], kind: code}'
    added = f'{{name: packages, urls: ["{pattern}"], kind: code}}'
    config = configuration(storage, f"sources=[{before}, {added}]")
    with claimed(config, "example") as claim:
        outcome = refresh(config, inputs_of(config), claim=claim, executor=InProcess(), progress=show)
    print("\n".join(summary(outcome)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
