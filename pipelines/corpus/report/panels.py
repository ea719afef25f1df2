"""A picture of many histograms side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
_PANELS_ACROSS = 3
"""Histograms side by side."""
_WIDTH, _HEIGHT = 2.95, 1.1
"""Of a histogram, in inches."""
_PITCH = 3.42, 1.75
"""From a histogram to the next one to the right and below, in inches."""
_SYMLOG = SymmetricalLogTransform(10, 1, 1).transform

Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """The horizontal scale of a histogram."""

    logarithmic: bool
    edges: np.ndarray
    """Of the bars."""
    ticks: dict[float, str]
    """What is written at which values."""


def distributions(columns: dict[str, np.ndarray], thresholds: dict[str, list[Limit]]) -> Markup:
    """A histogram of each column with logarithmic counts and a line at each threshold ("min" or "max").

    One Axes in inches holds them all: dozens of Axes take seconds.
    """
    with rc_context(STYLE):
        panel_rows = math.ceil(len(columns) / _PANELS_ACROSS)
        figure = Figure(figsize=(10.4, _PITCH[1] * panel_rows))
        axis = figure.add_axes((0, 0, 1, 1), xlim=(0, 10.4), ylim=(0, _PITCH[1] * panel_rows))
        axis.set_axis_off()
        for number, (name, values) in enumerate(columns.items()):
            down, right = divmod(number, _PANELS_ACROSS)
            corner = 0.47 + _PITCH[0] * right, _PITCH[1] * (panel_rows - down) - 1.4
            _histogram(axis, corner, name, values, thresholds.get(name, []))
        return element(figure, "Distributions of the measured quality columns")


def _histogram(
    axis: Axes, corner: tuple[float, float], name: str, values: np.ndarray, limits: list[Limit]
) -> None:
    """One histogram of `distributions`, whose lower left corner is at `corner`."""
    left, below = corner
    scale = _scale(values, limits)
    heights, edges = np.histogram(values, scale.edges)
    gridlines = _decades(int(heights.max()))

    def across(values: Numbers) -> np.ndarray:
        scaled: np.ndarray = np.array([edges[0], edges[-1], *values])
        if scale.logarithmic:
            scaled = _SYMLOG(scaled)
        places: np.ndarray = left + _WIDTH * (scaled[2:] - scaled[0]) / (scaled[1] - scaled[0])
        return places

    def upwards(counts: Numbers) -> np.ndarray:
        scaled: np.ndarray = _SYMLOG(np.array([heights.max() * 1.6, *counts]))
        places: np.ndarray = below + _HEIGHT * scaled[1:] / scaled[0]
        return places

    right = left + _WIDTH
    axis.hlines(upwards(gridlines), left, right, color=LINE, linewidth=0.6, zorder=0)
    axis.stairs(upwards(heights), across(edges), baseline=below, fill=True, color=ACCENT)
    axis.hlines(below, left, right, color=LINE, linewidth=0.8)
    marks = across([value for _, value in limits])
    axis.vlines(marks, below, below + _HEIGHT, color=MARK, linewidth=1.4)
    for count, place in zip(gridlines, upwards(gridlines), strict=True):
        axis.text(left - 0.05, place, short_count(count), ha="right", va="center", fontsize=8, color=MUTED)
    for label, place in zip(scale.ticks.values(), across(list(scale.ticks)), strict=True):
        axis.text(place, below - 0.05, label, ha="center", va="top", fontsize=9, color=MUTED)
    title = name.removeprefix("q_").replace("_", " ")
    if limits:
        title += f"  ({', '.join(f'{_SIDES[side]} {value:,.9g}' for side, value in limits)})"
    axis.text(left, below + _HEIGHT + 0.08, title, fontsize=9)


def _scale(values: np.ndarray, limits: list[Limit]) -> _Scale:
    """A scale from the lowest to the highest value or limit; logarithmic where most would be at its left."""
    ends = np.append(values, [value for _, value in limits])
    low, high = float(ends.min()), float(ends.max())
    if low >= 0 and high > 100 and high > 50 * max(float(np.median(values)), 1):
        edges = np.unique(np.concatenate([[0], np.geomspace(1, high + 1, 41)]))
        ticks = {float(value): short_count(value) for value in (0, *_decades(int(high)))}
        return _Scale(logarithmic=True, edges=edges, ticks=ticks)
    edges = np.linspace(low, high if high > low else low + 1, 41)
    within = [value for value in MaxNLocator(5).tick_values(low, edges[-1]) if low <= value <= edges[-1]]
    return _Scale(logarithmic=False, edges=edges, ticks={value: f"{value:.3g}" for value in within})


def _decades(top: int) -> list[int]:
    """Powers of ten up to a number, or every other one if it is large."""
    step = 1 if top < 10**4 else 2
    return [10**power for power in range(0, len(str(max(top, 1))), step)]
