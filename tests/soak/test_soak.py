"""A glimpse and a shorter draw of what `make soak` draws at length."""

from pathlib import Path

import pytest

from tests.helpers.late import RUNNING
from tests.soak import kinds

if RUNNING:
    import torch  # noqa: F401 - draws train


def _draw(kind: str, seeds: range, folder: Path) -> None:
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        assert kinds.draw(kind, seed, place)


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_glimpse(kind: str, tmp_path: Path) -> None:
    _draw(kind, range(kinds.KINDS[kind].glimpse), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_shorter_draw(kind: str, tmp_path: Path) -> None:
    _draw(kind, range(100_000, 100_000 + kinds.KINDS[kind].shorter), tmp_path)
