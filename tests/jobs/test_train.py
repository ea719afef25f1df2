"""jobs.train on a disk that is too small, a real one: what it says, when, and with which exit code."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import images
from tests.helpers.corpus import write_corpus

ROOT = Path(__file__).parents[2]
MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    images.require("ext4")
    images.make(tmp_path / "small.img", "ext4", 64)
    (tmp_path / "small").mkdir()
    with images.mounted(tmp_path / "small.img", tmp_path / "small"):
        yield tmp_path / "small"


def _train(disk: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command on a storage of that disk."""
    file = disk.parent / "config.yaml"
    tracking = {"uri": f"sqlite:///{disk.parent}/mlflow.db"}
    sources = [{"name": "a", "urls": ["unused"]}]
    content = {"name": "tiny", "storage": f"{disk}/storage", "sources": sources, "tracking": tracking}
    file.write_text(json.dumps(content))
    changes = [part for setting in settings for part in ("--set", setting)]
    return subprocess.run(
        [sys.executable, "-m", "jobs.train", "--config", str(file), "--run", "first", *changes],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_no_room_for_a_checkpoint_is_said_before_a_cluster_starts(disk: Path) -> None:
    write_corpus(disk / "storage", {"a": [[500] * 40]})
    done = _train(
        disk, "model.hidden_size=512", "model.num_layers=6", "model.num_heads=8", "train.precision=fp32"
    )
    folder = disk / "storage" / "training" / "first"
    said = re.search(
        rf"the disk of {folder}/checkpoints, mounted at {disk}, has ([\d,]+) free bytes, "
        r"and a checkpoint needs ([\d,]+); make room there or choose another storage\n",
        done.stderr,
    )
    assert done.returncode == 2 and said is not None, done.stderr
    free, needed = (int(number.replace(",", "")) for number in said.groups())
    assert 40 * MIB < free < 64 * MIB < needed
    assert len(done.stderr.splitlines()) == 1 and not folder.exists()


@pytest.mark.slow
def test_a_disk_that_fills_before_the_first_checkpoint_stops_training(disk: Path) -> None:
    write_corpus(disk / "storage", {"a": [[50] * 400]})
    folder = disk / "storage" / "training" / "first"

    def fill() -> None:
        while not (folder / "journal.jsonl").exists():
            time.sleep(0.01)
        with (disk / "filler").open("wb") as file:
            free = os.statvfs(disk)
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize - 4 * MIB)

    threading.Thread(target=fill, daemon=True).start()
    done = _train(
        disk,
        "model.hidden_size=256",
        "model.num_layers=2",
        "model.num_heads=4",
        "model.max_sequence_length=32",
        "train.steps=5000",
        "train.global_batch_size=2",
        "train.micro_batch_size=2",
        "train.precision=fp32",
        "train.evaluate_batches=0",
        "train.checkpoint.every=100",
        "train.checkpoint.stop_after_failures=2",
        "ray.workers=1",
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.search(
        rf"training stops: run {folder} has no checkpoint, and 2 in a row could not be written", last
    )
    assert f"the disk of {folder}/checkpoints, mounted at {disk}, has " in last
