"""A picture of many histograms side by side."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.scale import SymmetricalLogTransform
from matplotlib.ticker import MaxNLocator

from pipelines.corpus.report.numbers import short_count
from pipelines.corpus.report.svg import ACCENT, LINE, MARK, MUTED, STYLE, element
from pipelines.corpus.text.quality import Limit

_SIDES = {"min": "≥", "max": "≤"}
_PANELS = 3
"""Histograms side by side in `distributions`."""
_PANEL = 2.95, 1.1
"""Their width and height in inches."""
_SYMLOG = SymmetricalLogTransform(10, 1, 1).transform


def distributions(columns: dict[str, np.ndarray], thresholds: dict[str, list[Limit]]) -> Markup:
    """A histogram of each column with logarithmic counts and a line at each threshold ("min" or "max").

    One Axes in inches holds them all: dozens of Axes take seconds.
    """
    with rc_context(STYLE):
        rows = math.ceil(len(columns) / _PANELS)
        figure = Figure(figsize=(10.4, 1.75 * rows))
        axis = figure.add_axes((0, 0, 1, 1), xlim=(0, 10.4), ylim=(0, 1.75 * rows))
        axis.set_axis_off()
        for number, (name, array) in enumerate(columns.items()):
            row, column = divmod(number, _PANELS)
            corner = 0.47 + 3.42 * column, 1.75 * (rows - row) - 1.4
            _distribution(axis, corner, name, array, thresholds.get(name, []))
        return element(figure, "Distributions of the measured quality columns")


def _distribution(
    axis: Axes, corner: tuple[float, float], name: str, array: np.ndarray, limits: list[Limit]
) -> None:
    """One histogram of `distributions`, whose lower left corner is at `corner`."""
    left, below = corner
    ends = np.append(array, [value for _, value in limits])
    low, high = float(ends.min()), float(ends.max())
    wide = low >= 0 and high > 100 and high > 50 * max(float(np.median(array)), 1)
    if wide:
        edges = np.unique(np.concatenate([[0], np.geomspace(1, high + 1, 41)]))
        ticks: list[float] = [0, *_decades(int(high))]
        labels = [short_count(value) for value in ticks]
    else:
        edges = np.linspace(low, high if high > low else low + 1, 41)
        ticks = [value for value in MaxNLocator(5).tick_values(low, edges[-1]) if low <= value <= edges[-1]]
        labels = [f"{value:.3g}" for value in ticks]
    heights, edges = np.histogram(array, edges)
    counts = _decades(int(heights.max()))

    def across(values: Sequence[float] | np.ndarray) -> np.ndarray:
        lengths: np.ndarray = np.array([edges[0], edges[-1], *values])
        if wide:
            lengths = _SYMLOG(lengths)
        places: np.ndarray = left + _PANEL[0] * (lengths[2:] - lengths[0]) / (lengths[1] - lengths[0])
        return places

    def upwards(values: Sequence[float] | np.ndarray) -> np.ndarray:
        lengths: np.ndarray = _SYMLOG(np.array([heights.max() * 1.6, *values]))
        places: np.ndarray = below + _PANEL[1] * lengths[1:] / lengths[0]
        return places

    right = left + _PANEL[0]
    axis.hlines(upwards(counts), left, right, color=LINE, linewidth=0.6, zorder=0)
    axis.stairs(upwards(heights), across(edges), baseline=below, fill=True, color=ACCENT)
    axis.hlines(below, left, right, color=LINE, linewidth=0.8)
    marks = across([value for _, value in limits])
    axis.vlines(marks, below, below + _PANEL[1], color=MARK, linewidth=1.4)
    for value, place in zip(counts, upwards(counts), strict=True):
        text = short_count(value)
        axis.text(left - 0.05, place, text, ha="right", va="center", fontsize=8, color=MUTED)
    for label, place in zip(labels, across(ticks), strict=True):
        axis.text(place, below - 0.05, label, ha="center", va="top", fontsize=9, color=MUTED)
    title = name.removeprefix("q_").replace("_", " ")
    if limits:
        title += f"  ({', '.join(f'{_SIDES[side]} {value:,.9g}' for side, value in limits)})"
    axis.text(left, below + _PANEL[1] + 0.08, title, fontsize=9)


def _decades(top: int) -> list[int]:
    step = 1 if top < 10**4 else 2
    return [10**power for power in range(0, len(str(max(top, 1))), step)]
