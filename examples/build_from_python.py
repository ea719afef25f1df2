"""Build a small corpus from Python, in this process and without Ray.

    python examples/build_from_python.py [STORAGE]

Running it again finds what is finished.
"""

import json
import os
import sys
from pathlib import Path

from base.manifest import Version
from pipelines.config import Config, load
from pipelines.corpus.versions.commands import claimed, inputs_of, prepare, summary
from pipelines.runtime.executor import InProcess

CONFIG = str(Path(__file__).with_name("small.yaml"))


def configuration(storage: str, *overrides: str) -> Config:
    """The configuration of the examples, as `--config examples/small.yaml --set …` reads it."""
    return load(CONFIG, [f"storage={storage}", *overrides])


def write_modules(storage: str, number: int = 60) -> None:
    """Write modules of the standard library as JSON lines, and one of them twice with a small change."""
    folder = Path(storage) / "raw" / "modules"
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted(Path(os.__file__).parent.glob("*.py"))[:number]
    records = [{"text": path.read_text("utf-8", "replace"), "file": path.name} for path in paths]
    original = next(record for record in records if 10_000 < len(record["text"]) < 50_000)
    records.append({"text": original["text"] + "\n# a small change\n", "file": "copy.py"})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "stdlib.jsonl").write_text(lines)


def show(stage: str, done: int, total: int, documents: int = 0, size: int = 0, /) -> None:
    """What is called as tasks finish; here it prints finished stages."""
    if done == total:
        print(f"  {stage}: {total} tasks")


def build(storage: str) -> Version:
    """Sources to a corpus version: what jobs.prepare does."""
    write_modules(storage)
    config = configuration(storage)
    with claimed(config, "example") as claim:
        outcome = prepare(config, inputs_of(config), claim=claim, executor=InProcess(), progress=show)
    print("\n".join(summary(outcome)))
    return outcome.version


if __name__ == "__main__":
    build(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
