"""SIGKILL of a whole build (driver, raylet, workers) in any phase: running it again gives the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PHASES = {
    "measure": "parts/*/*.json",
    "decide": "work/decide/*/*.json",
    "deduplicate": "work/dedup/*/*/*.parquet",
    "tokenize": "work/tokens/*/*.json",
    "shard": "versions/v0001/shards/*/*.arrow",
    "index": "index/*/*.json",
}


def prepare(folder: Path, storage: str) -> subprocess.Popen[bytes]:
    """Start a build in a session of its own, so that all its processes can be killed at once."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jobs.prepare",
            "--config",
            str(folder / "config.yaml"),
            "--set",
            f"storage={storage}",
        ],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )


def kill_when(process: subprocess.Popen[bytes], storage: Path, pattern: str, delay: float) -> bool:
    """SIGKILL the session `delay` seconds after a file matches; False if the build ended before."""
    while process.poll() is None:
        if any((storage / "corpus").glob(pattern)):
            time.sleep(delay)
            if process.poll() is None:
                kill_session(process.pid)
                process.wait()
                return True
        time.sleep(0.01)
    return False


def kill_session(session: int) -> None:
    """SIGKILL every process of a session, the ones in process groups of their own too."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw text of two sources, and the configuration."""
    place = tmp_path_factory.mktemp("kill")
    choose = random.Random(5)
    words = [f"w{number}" for number in range(500)]
    for source in ("books", "web"):
        (place / source).mkdir()
        for number in range(4):
            texts = [" ".join(choose.choices(words, k=choose.randrange(30, 300))) for _ in range(300)]
            texts += [text + " again" for text in texts[:30]] + texts[30:60]
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            (place / source / f"{number}.jsonl").write_text(lines + "broken\n")
    config = {
        "name": "kill",
        "storage": "overridden",
        "sources": [{"name": name, "urls": [f"{place}/{name}/*.jsonl"]} for name in ("books", "web")],
        "tokenize": {"vocab_size": 400, "train_bytes": 100000},
        "shard": {"target_tokens": 20000},
    }
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    return place


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, bytes]:
    """The version of a build that was never killed."""
    assert prepare(folder, str(folder / "whole")).wait() == 0
    return contents(folder / "whole")


def contents(storage: Path) -> dict[str, bytes]:
    version = storage / "corpus/versions/v0001"
    assert not list(version.rglob(".tmp-*"))
    return {
        str(path.relative_to(version)): path.read_bytes() for path in version.rglob("*") if path.is_file()
    }


@pytest.mark.timeout(300)
def test_a_killed_build_shows_nothing_and_finishes_when_run_again(
    folder: Path, expected: dict[str, bytes]
) -> None:
    storage = folder / "once"
    assert kill_when(prepare(folder, str(storage)), storage, PHASES["measure"], 0.05)
    assert not (storage / "corpus/versions/v0001/manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (storage / "corpus").glob(PHASES["measure"])}
    assert prepare(folder, str(storage)).wait() == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    for leftover in (storage / "corpus/versions/v0001").rglob(".tmp-*"):
        leftover.unlink()
    assert contents(storage) == expected


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_build_killed_in_every_phase_gives_the_same_bytes(folder: Path, expected: dict[str, bytes]) -> None:
    storage = folder / "often"
    choose = random.Random(11)
    killed = []
    for phase, pattern in PHASES.items():
        if kill_when(prepare(folder, str(storage)), storage, pattern, choose.random() * 0.2):
            killed.append(phase)
    assert len(killed) >= 4
    assert prepare(folder, str(storage)).wait() == 0
    for leftover in (storage / "corpus/versions/v0001").rglob(".tmp-*"):
        leftover.unlink()
    assert contents(storage) == expected
