import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HASH = """
import base
import pyarrow as pa
from dedup import hashing
hashing.hash128(pa.array(["a"], pa.large_string()))
"""


def _compile(checkout: Path, cache: Path) -> set[str]:
    """Hash a text with the code of `checkout`; the names of compiled kernels that are there afterwards."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(checkout)}
    environment.pop("NUMBA_CACHE_LOCATOR_CLASSES", None)
    subprocess.run([sys.executable, "-c", HASH], cwd=checkout, env=environment, check=True, timeout=300)
    return {str(path.relative_to(cache)) for path in cache.rglob("*.nbc")}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in ("base", "dedup"):
        shutil.copytree(ROOT / folder, tmp_path / "one" / folder, ignore=shutil.ignore_patterns("*cache*"))
    return tmp_path / "one"


def test_copies_of_the_code_share_compiled_kernels_and_a_change_of_any_kernel_does_not(
    checkout: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    compiled = _compile(checkout, cache)
    assert compiled
    other = tmp_path / "deep" / "in" / "a session" / "two"
    shutil.copytree(checkout, other)
    assert _compile(other, cache) == compiled
    with (other / "dedup" / "words.py").open("a") as file:  # not the module whose kernels were compiled
        file.write("\nNUMBA_SEES_ANOTHER_FILE = 1  # numba\n")
    assert len(_compile(other, cache)) > len(compiled)
    assert _compile(checkout, cache) >= compiled
