"""A glimpse and a shorter draw of what `make soak` draws at length."""

from pathlib import Path

import pytest

from tests.soak import kinds, warm

pytestmark = [pytest.mark.train, pytest.mark.build, pytest.mark.command]


def _draw(kind: str, seeds: range, folder: Path) -> None:
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        assert kinds.draw(kind, seed, place)


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_glimpse(kind: str, tmp_path: Path) -> None:
    _draw(kind, kinds.KINDS[kind].glimpse, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_shorter_draw(kind: str, tmp_path: Path) -> None:
    warm.MODULES.append("model.train")
    _draw(kind, kinds.KINDS[kind].shorter, tmp_path)
