"""A small corpus of two sources, its configuration and its build."""

import json
import random
import tempfile
from functools import cache
from pathlib import Path

from base import files, manifest
from pipelines.config import Config, load
from pipelines.corpus.inputs import Input
from pipelines.corpus.versions import commands
from pipelines.corpus.versions.rebuild import repair
from pipelines.corpus.versions.verify import Damage
from pipelines.runtime import tracking
from pipelines.runtime.executor import Executor, InProcess
from pipelines.runtime.progress import Progress, silent

WORDS = [
    f"{first}{second}"
    for first in ("ba", "lo", "mi", "tra", "stu")
    for second in ("n", "rk", "lee", "to", "ven")
]


def documents(seed: int, count: int) -> list[str]:
    """Texts of which some are the same and some nearly so."""
    choose = random.Random(seed)
    texts: list[str] = []
    for number in range(count):
        if number % 9 == 8:
            texts.append(texts[choose.randrange(len(texts))])
        elif number % 9 == 7:
            texts.append(texts[choose.randrange(len(texts))] + " and more")
        else:
            texts.append(" ".join(choose.choices(WORDS, k=choose.randrange(20, 90))) + f" {number}.\n")
    return texts


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def config(raw: Path, storage: Path, *overrides: str) -> Config:
    file = storage.parent / f"{storage.name}.yaml"
    file.write_text(
        json.dumps(
            {
                "name": "test",
                "storage": str(storage),
                "sources": [
                    {"name": "books", "urls": [f"{raw}/books/*.jsonl"], "priority": 1},
                    {"name": "web", "urls": [f"{raw}/web/*.jsonl"]},
                ],
                "tokenize": {"vocab_size": 320, "train_bytes": 20000},
                "shard": {"target_tokens": 1024, "heldout_fraction": 0.1},
            }
        )
    )
    return load(str(file), list(overrides))


@cache
def empty_store() -> bytes:
    """An empty MLflow store: the first command in a storage takes seconds to make one."""
    with tempfile.TemporaryDirectory(prefix="store") as folder:
        place = tracking.Tracking(f"sqlite:///{folder}/mlflow.db", "template", None)
        tracking.client_of(place).search_experiments()
        return Path(folder, "mlflow.db").read_bytes()


def put_store(settings: Config) -> None:
    """Put an empty MLflow store where the first command would make one."""
    folder = files.local_path(settings.storage)
    if settings.tracking.uri or folder is None or Path(folder, "mlflow.db").exists():
        return
    files.create(f"{folder}/mlflow.db", empty_store())


def run(
    settings: Config,
    executor: Executor | None = None,
    progress: Progress = silent,
    inputs: list[Input] | None = None,
) -> commands.Outcome:
    """Build a version from all sources, in this process unless an executor is given."""
    listed = commands.inputs_of(settings) if inputs is None else inputs
    put_store(settings)
    with commands.claimed(settings, "prepare") as claim:
        return commands.prepare(
            settings, listed, claim=claim, executor=executor or InProcess(), progress=progress
        )


def refresh(settings: Config, executor: Executor | None = None) -> commands.Outcome:
    """Build the next version from new and changed files, in this process unless an executor is given."""
    with commands.claimed(settings, "refresh") as claim:
        inputs = commands.inputs_of(settings)
        return commands.refresh(
            settings, inputs, claim=claim, executor=executor or InProcess(), progress=silent
        )


def merge(
    settings: Config, other: str, executor: Executor | None = None, progress: Progress = silent
) -> commands.Outcome:
    """Join the corpus of another storage, in this process unless an executor is given."""
    with commands.claimed(settings, "merge") as claim:
        parent, joined = commands.merge_plan(settings, other)
        return commands.merge(
            settings, parent, joined, claim=claim, executor=executor or InProcess(), progress=progress
        )


def mended(
    settings: Config, versions: list[manifest.Version], damage: list[Damage], executor: Executor | None = None
) -> list[Damage]:
    """Make damaged files again, in this process unless an executor is given; those that could not be."""
    with commands.claimed(settings, "verify --rebuild") as claim:
        return repair(
            settings, versions, damage, claim=claim, executor=executor or InProcess(), progress=silent
        )


def version_bytes(version: manifest.Version) -> dict[str, bytes]:
    """Every file of a version by its path."""
    folder = Path(version.url)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
