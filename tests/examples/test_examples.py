"""The examples run as a newcomer runs them, and print what they promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(name: str, storage: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), str(storage)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    assert "corpus v0001" in run("build_from_python.py", folder)
    return folder


@pytest.mark.slow
def test_built_again_nothing_is_repeated(storage: Path) -> None:
    assert "(already finished)" in run("build_from_python.py", storage)


@pytest.mark.slow
def test_a_dropped_document_is_explained(storage: Path) -> None:
    printed = run("explain_a_document.py", storage)
    assert "dropped" in printed and "a small change" in printed


@pytest.mark.slow
def test_shards_become_batches(storage: Path) -> None:
    printed = run("read_shards_with_pytorch.py", storage)
    assert printed.count("batch: inputs (8, 128)") == 4
    assert "sample 0: Span(" in printed


@pytest.mark.slow
def test_a_source_is_added(storage: Path) -> None:
    printed = run("add_a_source.py", storage)
    assert "corpus v0002" in printed and "packages" in printed
