"""Files changed by chance, then a command that reads them: one sentence, or a right result, and nothing else.

A draw copies a small project (two versions, indexes, a training run, an evaluation, completions), changes
one file in one way, and runs one command in a forked process with limits of time and memory. What the command
says must be what it says of the unchanged project, or one sentence, or jobs.verify must tell that the storage
is damaged. What lies outside of the storage must be as it was.
"""

import atexit
import functools
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from base.errors import mistake
from tests.soak.changes import KNOWING, change
from tests.soak.reads import COMMANDS, FOREIGN, corpora, imported, models, prepared

SECONDS = 60
"""A command that takes longer hangs; the slowest takes some two."""
MEMORY = 3 * 2**30
"""Bytes of address space that a command may take beyond what the process has."""
TARGETS: list[tuple[str, tuple[str, ...]]] = [
    (
        "storage/corpus/versions/*/manifest.json",
        ("refresh", "verify", "explain", "export", "trace", "train", "prepare"),
    ),
    (
        "storage/corpus/versions/*/shards.parquet",
        ("verify", "explain", "trace", "train", "prepare", "refresh"),
    ),
    ("storage/corpus/versions/*/inputs.parquet", ("verify", "explain", "prepare", "refresh", "merge")),
    (
        "storage/corpus/versions/*/shards/*/*.arrow",
        ("verify", "export", "evaluate again", "train", "trace", "merge"),
    ),
    (
        "storage/corpus/versions/*/origins/*/*.parquet",
        ("verify", "explain", "trace", "evaluate again", "merge"),
    ),
    ("storage/corpus/versions/*/dropped/*.parquet", ("verify", "explain", "rebuild")),
    ("storage/corpus/versions/*/tokenizer.json", ("verify", "evaluate again", "refresh", "train", "rebuild")),
    ("storage/corpus/parts/*/*.json", ("build", "refresh")),
    ("storage/corpus/documents/*/*.arrow", ("build", "explain", "refresh", "rebuild")),
    ("storage/corpus/attributes/*/*.parquet", ("build", "rebuild")),
    ("storage/corpus/rejects/*/*.parquet", ("build",)),
    ("storage/corpus/work/decide/*/*", ("build",)),
    ("storage/corpus/work/tokens/*/*/*", ("build",)),
    ("storage/corpus/work/tokenizer/*/*", ("build",)),
    ("storage/corpus/work/shards/*/*.json", ("build",)),
    ("storage/corpus/work/dedup/*/*/*", ("build", "dedup")),
    ("storage/corpus/work/ordinals/*/*/*", ("build",)),
    ("storage/corpus/index/*/index.json", ("refresh", "merge", "explain", "rebuild")),
    ("storage/corpus/index/*/*/*.parquet", ("refresh", "merge")),
    ("storage/corpus/inputs.json", ("refresh", "prepare")),
    ("storage/training/latest.json", ("evaluate", "infer again")),
    ("storage/training/*/result.json", ("evaluate", "infer again", "trace")),
    ("storage/training/*/run.json", ("trace", "train")),
    ("storage/training/*/journal.jsonl", ("trace", "train")),
    ("storage/training/*/checkpoints/*/checkpoint.json", ("trace", "train", "weights")),
    ("storage/training/*/checkpoints/*/state/*", ("weights",)),
    ("storage/training/*/hf/config.json", ("evaluate again", "infer again")),
    ("storage/training/*/hf/*.safetensors", ("evaluate again", "infer again")),
    ("storage/training/*/hf/tokenizer.json", ("evaluate again", "infer again")),
    ("storage/evaluation/*/result.json", ("evaluate",)),
    ("storage/evaluation/*/units/*", ("evaluate unfinished",)),
    ("storage/inference/*/result.json", ("infer",)),
    ("storage/inference/*/blocks/*/*", ("infer unfinished",)),
    ("storage.yaml", ("load",)),
    ("other/corpus/versions/*/manifest.json", ("merge",)),
    ("other/corpus/versions/*/*.parquet", ("merge",)),
    ("other/corpus/versions/*/*/*/*", ("merge",)),
    ("other/corpus/index/*/*", ("merge",)),
    ("other/corpus/index/*/*/*", ("merge",)),
]
"""Which files are changed, and the commands that read them then."""


def draw(seed: int, folder: Path) -> dict[str, int]:
    """Change one file and run one command."""
    template, answers = _template()
    choose = random.Random(seed)
    # The project always lies at one path, which its files name.
    place = template.parent / "now"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place, symlinks=True)
    try:
        pattern, commands = TARGETS[choose.randrange(len(TARGETS))]
        command = choose.choice(commands)
        prepared(command, place)
        there = [path for path in sorted(place.glob(pattern)) if path.is_file()]
        assert there, pattern
        target = choose.choice(there)
        others = [path for path in sorted(place.joinpath("storage").rglob("*")) if path.is_file()]
        kind = change(target, others, choose)
        outside = _snapshot(place)
        found, said = _in_child(COMMANDS[command], place)
        story = f"seed {seed}: {target.relative_to(place)}: {kind}; {command}: {found}: {said}"
        assert _snapshot(place) == outside, f"something outside of the storage was changed: {story}"
        free = pattern in FOREIGN or kind in KNOWING
        result = _judge(found, said, answers[command], free, place)
        assert result is not None, story
        return {"mutations": 1, result: 1, f"kind: {kind}": 1, f"command: {command}": 1}
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _judge(found: str, said: Any, expected: Any, free: bool, place: Path) -> str | None:
    """How a command ended well; None if it did not. `free`: another result may be what was wanted."""
    if found == "sentence":
        return "one sentence" if said and "\n" not in said and "Traceback" not in said else None
    if found != "answer":
        return None
    if said == expected:
        return "right result"
    if free or said == "again":
        return "another input's result"
    checked, damage = _in_child(COMMANDS["verify"], place)
    if checked == "sentence" or (checked == "answer" and damage):
        return "told by verify"
    return None


def _snapshot(place: Path) -> dict[str, tuple[int, str]]:
    """What lies outside of the storage and of the folder of results."""
    found = {}
    for path in sorted(place.parent.rglob("*")):
        inner = path.relative_to(place.parent).parts
        if (
            inner[:2] in (("now", "storage"), ("now", "output"))
            or inner[0] == "template"
            or not path.is_file()
        ):
            continue
        found["/".join(inner)] = path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@functools.cache
def _template() -> tuple[Path, dict[str, Any]]:
    """The project, and what each command says of it."""
    root = Path(tempfile.mkdtemp(prefix="soak-project-", dir=_in_memory()))
    template, place = root / "template", root / "now"
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    # In this process, so that it has compiled what those that it forks need.
    imported()
    corpora(place)
    found, said = _in_child(models, place, 300)
    assert found == "answer", said
    shutil.copytree(place, template, symlinks=True)
    (root / "sentinel").mkdir()
    (root / "sentinel" / "file.json").write_text("{}")
    answers = {}
    for name, command in COMMANDS.items():
        shutil.rmtree(place)
        shutil.copytree(template, place, symlinks=True)
        prepared(name, place)
        found, answers[name] = _in_child(command, place)
        assert found == "answer", (name, found, answers[name])
    return template, answers


def _in_memory() -> str | None:
    """A folder in memory with room for some projects, if there is one: a draw copies hundreds of files."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 2**28 else None


def _in_child(command: Callable[[Path], Any], place: Path, seconds: float = SECONDS) -> tuple[str, Any]:
    """What became of a command in a process of its own, and what it said."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        _work(command, place, write)
    os.close(write)
    os.set_blocking(read, False)
    content, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            piece = os.read(read, 2**20)
        except BlockingIOError:
            time.sleep(0.002)
            continue
        if not piece:
            break
        content += piece
    else:
        os.kill(child, signal.SIGKILL)
    os.close(read)
    status = os.waitpid(child, 0)[1]
    if not content:
        hung = time.monotonic() >= end
        return ("hang" if hung else "crash"), f"status {status}"
    found, said = json.loads(content)
    return str(found), said


def _work(command: Callable[[Path], Any], place: Path, write: int) -> None:
    """Run a command, and write what became of it."""
    import traceback

    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        try:
            outcome = ["answer", command(place)]
        except Exception as error:
            sentence = mistake(error)
            outcome = ["sentence", sentence] if sentence else ["traceback", traceback.format_exc()]
        with open(write, "w") as pipe:
            pipe.write(json.dumps(outcome))
    finally:
        os._exit(0)
