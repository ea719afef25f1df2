"""A glimpse and a shorter draw of what `make soak` draws at length."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak import kinds

pytestmark = [pytest.mark.train, pytest.mark.build, pytest.mark.command]

ROOT = Path(__file__).parents[2]
SKIPPED = 77
DRAW = f"""
import sys
from pathlib import Path
from unittest import SkipTest
import base
from tests.soak import kinds, warm
kind, folder, *seeds = sys.argv[1:]
warm.MODULES.append("model.train")
try:
    for seed in seeds:
        place = Path(folder, seed)
        place.mkdir()
        assert kinds.draw(kind, int(seed), place)
except SkipTest as reason:
    print(reason, file=sys.stderr)
    sys.exit({SKIPPED})
"""


def _draw(kind: str, seeds: range, folder: Path) -> None:
    """Draw in a process of its own: draws fork, and this one may have threads of Ray and of torch."""
    command = [sys.executable, "-c", DRAW, kind, str(folder), *map(str, seeds)]
    drawn = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if drawn.returncode == SKIPPED:
        pytest.skip(drawn.stderr)
    assert drawn.returncode == 0, drawn.stderr[-3000:]


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_glimpse(kind: str, tmp_path: Path) -> None:
    _draw(kind, kinds.KINDS[kind].glimpse, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_shorter_draw(kind: str, tmp_path: Path) -> None:
    _draw(kind, kinds.KINDS[kind].shorter, tmp_path)
