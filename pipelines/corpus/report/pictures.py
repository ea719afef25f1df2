"""Pictures of the corpus report: SVG made with matplotlib, in colours that the page defines.

Every function returns an `<svg>` element to be put into HTML. Lines and text use CSS variables of the
page (--ink, --muted, --line, --accent, --mark), so that one picture fits light and dark pages.
"""

import io
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.scale import SymmetricalLogTransform
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

SERIES = ("#4477aa", "#ee6677", "#2a9d5c", "#ccaa33", "#56b4d8", "#aa3377", "#ee8866", "#7a6fd0")
"""Colours of sources, readable on white and on black (after Paul Tol's qualitative schemes)."""
OTHER = "#8a8f98"

# matplotlib has no CSS variables: these stand-ins are replaced in the finished SVG
_INK, _MUTED, _LINE, _ACCENT, _MARK = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _LINE: "--line", _ACCENT: "--accent", _MARK: "--mark"}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": _INK,
    "font.size": 10,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "ytick.left": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

_SIDES = {"min": "≥", "max": "≤"}
_PANELS = 3
"""Histograms side by side in `distributions`."""
_PANEL = 2.95, 1.1
"""Their width and height in inches."""
_SYMLOG = SymmetricalLogTransform(10, 1, 1).transform

Format = Callable[[float], str]


def short_count(value: float) -> str:
    """A count with at most three digits and k, M, G or T."""
    return _scaled(value, ("", " k", " M", " G", " T"))


def short_bytes(value: float) -> str:
    """A number of bytes with at most three digits and a decimal unit."""
    return _scaled(value, (" B", " kB", " MB", " GB", " TB", " PB"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value /= 1000
        power += 1
    digits = 0 if value == int(value) or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}{units[power]}"


def colours(names: list[str]) -> dict[str, str]:
    """A colour for each source; the ninth and later ones are grey."""
    return {name: SERIES[index] if index < len(SERIES) else OTHER for index, name in enumerate(names)}


def funnel(steps: list[str], panels: dict[str, tuple[dict[str, list[float]], Format]]) -> str:
    """Stacked bars of what is left after each step.

    `panels` holds by title the values by source and step, and how a total is written.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(10.4, 0.9 + 0.4 * len(steps)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, (series, form)) in zip(axes, panels.items(), strict=True):
            palette = colours(list(series))
            left = np.zeros(len(steps))
            for name, values in series.items():
                axis.barh(steps, values, left=left, color=palette[name], height=0.66, label=name)
                left += np.asarray(values, float)
            whole = max(left[0], 1)
            for row, total in enumerate(left):
                share = "" if row == 0 else f" · {100 * total / whole:.0f} %"
                axis.text(total + 0.015 * whole, row, form(total) + share, va="center", fontsize=9)
            axis.set_title(title)
            axis.set_xlim(0, whole * 1.28)
            axis.xaxis.set_visible(False)
            axis.spines["bottom"].set_visible(False)
        axes[0].invert_yaxis()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(5, len(labels)),
            handlelength=1,
            handleheight=1,
        )
        return _svg(figure, "Documents and bytes left after each stage")


def ridges(values: dict[str, np.ndarray], unit: str, form: Format) -> str:
    """One histogram a source over a common logarithmic axis, with its median marked."""
    with rc_context(_STYLE):
        rows = len(values)
        figure = Figure(figsize=(5.1, 0.75 + 0.42 * rows), layout="constrained")
        axis = figure.subplots()
        everything = [array[array > 0] for array in values.values()]
        largest = max((float(array.max()) for array in everything if len(array)), default=10.0)
        smallest = min((float(array.min()) for array in everything if len(array)), default=1.0)
        edges = np.geomspace(max(smallest, 1), max(largest, smallest * 10, 10), 61)
        palette = colours(list(values))
        for row, (name, array) in enumerate(values.items()):
            counts, _ = np.histogram(array, edges)
            base = rows - 1 - row
            height = 0.82 * counts / max(counts.max(), 1)
            axis.stairs(height + base, edges, baseline=base, fill=True, color=palette[name], alpha=0.85)
            if len(array):
                median = float(np.median(array))
                axis.plot([median, median], [base, base + 0.82], color=_INK, linewidth=1)
                axis.text(
                    0.995,
                    base + 0.5,
                    f"median {form(median)}",
                    transform=axis.get_yaxis_transform(),
                    ha="right",
                    fontsize=8,
                    color=_MUTED,
                )
        axis.set_xscale("log")
        axis.set_xlim(edges[0], edges[-1] * (edges[-1] / edges[0]) ** 0.22)
        axis.set_yticks(np.arange(rows) + 0.1, list(values)[::-1])
        axis.set_ylim(-0.02, rows)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(axis="x")
        axis.set_xlabel(unit)
        return _svg(figure, f"Histogram of {unit} by source")


def sizes(counts: np.ndarray, unit: str) -> str:
    """Histogram of small whole numbers (documents in a cluster) in bins that double."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.1, 2.7), layout="constrained")
        axis = figure.subplots()
        top = max(2, math.ceil(math.log2(counts.max() + 1)))
        edges = 2 ** np.arange(1, top + 1)
        heights, _ = np.histogram(counts, edges)
        bars = axis.bar(np.arange(len(heights)), heights, color=_ACCENT, width=0.92, align="edge")
        axis.bar_label(
            bars, [short_count(value) if value else "" for value in heights], fontsize=8, padding=2
        )
        step = 1 + len(edges) // 14
        axis.set_xticks(np.arange(len(edges))[::step] - 0.04, [f"{edge:,}" for edge in edges[::step]])
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_visible(False)
        axis.set_xlabel(unit)
        axis.margins(y=0.15)
        axis.tick_params(axis="x", labelsize=8)
        return _svg(figure, f"Histogram of {unit}")


def histogram(values: np.ndarray, low: float, high: float, label: str) -> str:
    """Plain histogram between two bounds."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.1, 2.7), layout="constrained")
        axis = figure.subplots()
        heights, edges = np.histogram(values, np.linspace(low, high, 41))
        axis.stairs(heights, edges, fill=True, color=_ACCENT)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
        axis.tick_params(axis="y", labelcolor=_MUTED, labelsize=8)
        axis.grid(axis="y")
        axis.set_xlabel(label)
        return _svg(figure, f"Histogram of {label}")


def distributions(columns: dict[str, np.ndarray], thresholds: dict[str, list[tuple[str, float]]]) -> str:
    """A histogram of each column with logarithmic counts and a line at each threshold ("min" or "max").

    One Axes in inches holds them all: dozens of Axes take seconds.
    """
    with rc_context(_STYLE):
        rows = math.ceil(len(columns) / _PANELS)
        figure = Figure(figsize=(10.4, 1.75 * rows))
        axis = figure.add_axes((0, 0, 1, 1), xlim=(0, 10.4), ylim=(0, 1.75 * rows))
        axis.set_axis_off()
        for number, (name, array) in enumerate(columns.items()):
            row, column = divmod(number, _PANELS)
            corner = 0.47 + 3.42 * column, 1.75 * (rows - row) - 1.4
            _distribution(axis, corner, name, array, thresholds.get(name, []))
        return _svg(figure, "Distributions of the measured quality columns")


def _distribution(
    axis: Axes, corner: tuple[float, float], name: str, array: np.ndarray, limits: list[tuple[str, float]]
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
    axis.hlines(upwards(counts), left, right, color=_LINE, linewidth=0.6, zorder=0)
    axis.stairs(upwards(heights), across(edges), baseline=below, fill=True, color=_ACCENT)
    axis.hlines(below, left, right, color=_LINE, linewidth=0.8)
    marks = across([value for _, value in limits])
    axis.vlines(marks, below, below + _PANEL[1], color=_MARK, linewidth=1.4)
    for value, place in zip(counts, upwards(counts), strict=True):
        text = short_count(value)
        axis.text(left - 0.05, place, text, ha="right", va="center", fontsize=8, color=_MUTED)
    for label, place in zip(labels, across(ticks), strict=True):
        axis.text(place, below - 0.05, label, ha="center", va="top", fontsize=9, color=_MUTED)
    title = name.removeprefix("q_").replace("_", " ")
    if limits:
        title += f"  ({', '.join(f'{_SIDES[side]} {value:,.9g}' for side, value in limits)})"
    axis.text(left, below + _PANEL[1] + 0.08, title, fontsize=9)


def shares(names: list[str], tokens: list[float], weights: list[float]) -> str:
    """Each source's share of the tokens beside its share of the training mixture, both in per cent."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(10.4, 0.8 + 0.5 * len(names)), layout="constrained")
        axis = figure.subplots()
        rows = np.arange(len(names))
        for offset, values, colour, label in (
            (-0.19, tokens, _ACCENT, "share of the tokens"),
            (0.19, weights, _MARK, "share of the mixture"),
        ):
            bars = axis.barh(rows + offset, values, height=0.34, color=colour, label=label)
            axis.bar_label(bars, [f"{value:.1f} %" for value in values], fontsize=8, padding=3)
        axis.set_yticks(rows, names)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.15 * max([*tokens, *weights, 1]))
        axis.xaxis.set_visible(False)
        axis.spines["bottom"].set_visible(False)
        figure.legend(loc="outside lower center", ncols=2, handlelength=1, handleheight=1)
        return _svg(figure, "Tokens of each source against the mixture")


def _decades(top: int) -> list[int]:
    step = 1 if top < 10**4 else 2
    return [10**power for power in range(0, len(str(max(top, 1))), step)]


def _svg(figure: Figure, description: str) -> str:
    """The figure as an svg element without identifiers or addresses, the same bytes every time."""
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": description}):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(stream, format="svg", metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"\bfont: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    head, body = text.split(">", 1)
    (box,) = re.findall(r'viewBox="([^"]*)"', head)
    width = float(box.split()[2]) * 4 / 3
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, f"var({variable})")
    return (
        f'<svg viewBox="{box}" style="max-width: {width:.0f}px" role="img" aria-label="{description}">{body}'
    )
