"""The pictures that runs leave in MLflow."""

import io
from typing import Any

import numpy as np
import pytest

from tests.helpers.late import RUNNING

if RUNNING:
    from pipelines.runtime import charts


def _lines(steps: int, sources: int, scale: float) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        line: dict[str, Any] = {"step": step, "tokens": 64 * step, "loss": 9 - step / 9, "loss_scale": scale}
        line |= {"learning_rate": 1e-3, "gradient_norm": 1.0, "tokens_per_second": 1e4}
        lines.append(line)
    lines[-1]["evaluation"] = {f"s{n}": {"loss": 3.0 + n, "bits_per_byte": 1.0} for n in range(sources)}
    lines[1] |= {"loss": None, "gradient_norm": None, "skipped": True, "rollback": {"step": 1}}
    return lines


@pytest.mark.parametrize(("sources", "scale"), [(0, 1.0), (2, 1.0), (35, 4096.0)])
def test_a_training_run_of_any_kind_has_a_picture(sources: int, scale: float) -> None:
    content = charts.training(_lines(20, sources, scale), "tiny run", 5.0)
    assert content == charts.training(_lines(20, sources, scale), "tiny run", 5.0)
    from matplotlib.image import imread

    picture = imread(io.BytesIO(content))
    assert picture.shape[0] > 700 and picture.shape[1] > 1000 and np.ptp(picture) == 1


def test_a_run_without_a_step_too() -> None:
    assert charts.training([], "tiny run", None).startswith(b"\x89PNG")


def test_an_evaluation_has_a_picture_of_every_source() -> None:
    from matplotlib.image import imread

    density = {f"s{number}": 0.5 + number for number in range(5)}
    perplexity = {name: 2**value for name, value in density.items()}
    picture = imread(io.BytesIO(charts.evaluation(density, perplexity, "tiny run")))
    assert picture.shape[0] > 300 and picture.shape[1] > 1000 and np.ptp(picture) == 1
