"""Charts of training and evaluation as PNG, for MLflow."""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, RED, GREY = "#4477aa", "#ee6677", "#8a8f98"


def evaluation(bits_per_byte: dict[str, float], perplexity: dict[str, float], title: str) -> bytes:
    """Bits per byte and perplexity of every source, side by side."""
    names = sorted(bits_per_byte, key=lambda name: bits_per_byte[name])
    figure = Figure(figsize=(10, 1.4 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, values, label, colour in (
        (axes[0], bits_per_byte, "bits per byte", BLUE),
        (axes[1], perplexity, "perplexity (per token)", RED),
    ):
        bars = axis.barh(names, [values[name] for name in names], color=colour)
        axis.bar_label(bars, fmt="%.3g", padding=3)
        axis.set_xlabel(label)
        axis.margins(x=0.15)
        _plain(axis)
    figure.suptitle(title)
    return _png(figure)


def training(lines: list[dict[str, Any]], title: str, unigram_nats: float | None) -> bytes:
    """A training run from the lines of its journal.

    Loss with skipped steps marked, held-out loss of every source, learning rate, gradient norm, throughput,
    and in FP16 the loss scale.
    """
    fields = ["learning_rate", "gradient_norm", "tokens_per_second"]
    if any(line["loss_scale"] != 1 for line in lines):
        fields.append("loss_scale")
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    below = [field for field in fields for _ in range(12 // len(fields))]
    grid: dict[str, Axes] = figure.subplot_mosaic([["loss"] * 7 + ["heldout"] * 5, below])
    for name in ("loss", *fields):
        points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
        grid[name].plot(*zip(*points, strict=True), color=BLUE, linewidth=1.4)
        grid[name].set_title(name.replace("_", " "))
    _skipped(grid["loss"], lines)
    if "loss_scale" in grid:
        grid["loss_scale"].set_yscale("log", base=2)
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
    _heldout(grid["heldout"], lines)
    for axis in grid.values():
        axis.set_xlabel("step")
        _plain(axis)
    figure.suptitle(
        f"{title}: {lines[-1]['step']:,} steps, {lines[-1]['tokens']:,} tokens" if lines else title
    )
    return _png(figure)


def _skipped(axis: Axes, lines: list[dict[str, Any]]) -> None:
    """Mark skipped steps, and steps after which the weights went back."""
    for kind, colour in (("skipped", RED), ("rollback", "black")):
        steps = [line["step"] for line in lines if line.get(kind)]
        if steps:
            label = f"{kind} ({len(steps)})"
            height = [0.03] * len(steps)
            across = axis.get_xaxis_transform()
            axis.plot(steps, height, "|", color=colour, markersize=12, transform=across, label=label)
            axis.legend(frameon=False, loc="upper right")


def _heldout(axis: Axes, lines: list[dict[str, Any]]) -> None:
    """The held-out loss of each source at each evaluation, those of the last one by name."""
    axis.set_title("held-out loss (nats a token)")
    evaluations = [(line["step"], line["evaluation"]) for line in lines if line.get("evaluation")]
    if not evaluations:
        axis.text(0.5, 0.5, "not evaluated", transform=axis.transAxes, ha="center", color=GREY)
        return
    last = evaluations[-1][1]
    names = sorted(last, key=lambda name: -float(last[name]["loss"]))
    for number, name in enumerate(names):
        points = [(step, found[name]["loss"]) for step, found in evaluations if name in found]
        density = last[name].get("bits_per_byte")
        label = f"{name} {last[name]['loss']:.3f}" + (f", {density:.3f} bits/byte" if density else "")
        line_colour = f"C{number % 10}"
        axis.plot(*zip(*points, strict=True), ".-", color=line_colour, linewidth=1.2, label=label)
    axis.legend(frameon=False, fontsize=8 if len(names) <= 12 else 5, ncols=1 if len(names) <= 12 else 2)


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
