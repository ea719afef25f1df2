"""Pictures of the corpus report. Every function returns an `<svg>` element to be put into HTML."""

import math

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from pipelines.corpus.report.numbers import Format, short_count
from pipelines.corpus.report.svg import ACCENT, INK, MARK, MUTED, STYLE, colours, element


def funnel(steps: list[str], panels: dict[str, tuple[dict[str, list[float]], Format]]) -> Markup:
    """Stacked bars of what is left after each step.

    `panels` holds by title the values by source and step, and how a total is written.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 0.9 + 0.4 * len(steps)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, (series, form)) in zip(axes, panels.items(), strict=True):
            palette = colours(list(series))
            totals = np.zeros(len(steps))
            for name, values in series.items():
                axis.barh(steps, values, left=totals, color=palette[name], height=0.66, label=name)
                totals += np.asarray(values, float)
            whole = max(totals[0], 1)
            for row, total in enumerate(totals):
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
        return element(figure, "Documents and bytes left after each stage")


def ridges(values: dict[str, np.ndarray], unit: str, form: Format) -> Markup:
    """One histogram a source over a common logarithmic axis, with its median marked."""
    with rc_context(STYLE):
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
                axis.plot([median, median], [base, base + 0.82], color=INK, linewidth=1)
                axis.text(
                    0.995,
                    base + 0.5,
                    f"median {form(median)}",
                    transform=axis.get_yaxis_transform(),
                    ha="right",
                    fontsize=8,
                    color=MUTED,
                )
        axis.set_xscale("log")
        axis.set_xlim(edges[0], edges[-1] * (edges[-1] / edges[0]) ** 0.22)
        axis.set_yticks(np.arange(rows) + 0.1, list(values)[::-1])
        axis.set_ylim(-0.02, rows)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(axis="x")
        axis.set_xlabel(unit)
        return element(figure, f"Histogram of {unit} by source")


def sizes(counts: np.ndarray, unit: str) -> Markup:
    """Histogram of small whole numbers (documents in a cluster) in bins that double."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.1, 2.7), layout="constrained")
        axis = figure.subplots()
        top = max(2, math.ceil(math.log2(counts.max() + 1)))
        edges = 2 ** np.arange(1, top + 1)
        heights, _ = np.histogram(counts, edges)
        bars = axis.bar(np.arange(len(heights)), heights, color=ACCENT, width=0.92, align="edge")
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
        return element(figure, f"Histogram of {unit}")


def histogram(values: np.ndarray, low: float, high: float, label: str) -> Markup:
    """Plain histogram between two bounds."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.1, 2.7), layout="constrained")
        axis = figure.subplots()
        heights, edges = np.histogram(values, np.linspace(low, high, 41))
        axis.stairs(heights, edges, fill=True, color=ACCENT)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
        axis.tick_params(axis="y", labelcolor=MUTED, labelsize=8)
        axis.grid(axis="y")
        axis.set_xlabel(label)
        return element(figure, f"Histogram of {label}")


def shares(names: list[str], tokens: list[float], weights: list[float]) -> Markup:
    """Each source's share of the tokens beside its share of the training mixture, both in per cent."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 0.8 + 0.5 * len(names)), layout="constrained")
        axis = figure.subplots()
        rows = np.arange(len(names))
        for offset, values, colour, label in (
            (-0.19, tokens, ACCENT, "share of the tokens"),
            (0.19, weights, MARK, "share of the mixture"),
        ):
            bars = axis.barh(rows + offset, values, height=0.34, color=colour, label=label)
            axis.bar_label(bars, [f"{value:.1f} %" for value in values], fontsize=8, padding=3)
        axis.set_yticks(rows, names)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.15 * max([*tokens, *weights, 1]))
        axis.xaxis.set_visible(False)
        axis.spines["bottom"].set_visible(False)
        figure.legend(loc="outside lower center", ncols=2, handlelength=1, handleheight=1)
        return element(figure, "Tokens of each source against the mixture")
