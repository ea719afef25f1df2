"""Charts of training and evaluation as PNG, for MLflow."""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, RED, GREY = "#4477aa", "#ee6677", "#8a8f98"


def evaluation(sources: dict[str, dict[str, float]], title: str) -> bytes:
    """Bits per byte and perplexity of every source, side by side."""
    names = sorted(sources, key=lambda name: sources[name]["bits_per_byte"])
    figure = Figure(figsize=(10, 1.4 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, field, label, colour in (
        (axes[0], "bits_per_byte", "bits per byte", BLUE),
        (axes[1], "perplexity", "perplexity (per token)", RED),
    ):
        bars = axis.barh(names, [sources[name][field] for name in names], color=colour)
        axis.bar_label(bars, fmt="%.3g", padding=3)
        axis.set_xlabel(label)
        axis.margins(x=0.15)
        _plain(axis)
    figure.suptitle(title)
    return _png(figure)


def training(lines: list[dict[str, Any]], title: str, unigram_nats: float | None) -> bytes:
    """Loss, learning rate, gradient norm, throughput and loss scale by step, from the journal's lines."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid: dict[str, Axes] = figure.subplot_mosaic(
        [["loss", "loss", "learning_rate"], ["gradient_norm", "tokens_per_second", "loss_scale"]]
    )
    for name, axis in grid.items():
        points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
        axis.plot([step for step, _ in points], [value for _, value in points], color=BLUE, linewidth=1.4)
        axis.set_title(name.replace("_", " "))
        axis.set_xlabel("step")
        _plain(axis)
    if unigram_nats is not None:
        grid["loss"].axhline(unigram_nats, color=GREY, linestyle="--", linewidth=1)
        grid["loss"].annotate(
            f"unigram entropy {unigram_nats:.2f}",
            (1, unigram_nats),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=GREY,
        )
    figure.suptitle(title)
    return _png(figure)


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
