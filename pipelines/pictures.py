"""Pictures of the corpus report: SVG written by hand, in colours that the page defines.

Every function returns an `<svg>` element to be put into HTML. Lines and text use CSS variables of the
page (--ink, --muted, --line, --accent, --mark), so that one picture fits light and dark pages. Lengths are
pixels of the page. By matplotlib the pictures took seconds, in which all workers of a build wait.
"""

import html
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

SERIES = ("#4477aa", "#ee6677", "#2a9d5c", "#ccaa33", "#56b4d8", "#aa3377", "#ee8866", "#7a6fd0")
"""Colours of sources, readable on white and on black (after Paul Tol's qualitative schemes)."""
OTHER = "#8a8f98"

_INK, _MUTED, _LINE, _ACCENT, _MARK = (
    f"var(--{name})" for name in ("ink", "muted", "line", "accent", "mark")
)
_WIDE, _HALF = 1000, 490
"""Widths of pictures that stand alone and of those that stand in pairs."""
_LARGE, _MIDDLE, _SMALL = 13, 12, 10.5
"""Sizes of text."""
_MARGIN = 0.045
"""What an axis shows beyond its bounds, as a share of what lies between them."""
_SIDES = {"min": "≥", "max": "≤"}

Format = Callable[[float], str]
Scale = Callable[[np.ndarray], np.ndarray]


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
    margin, top, row = _room(steps), 36, 38
    width = (_WIDE - margin) / len(panels)
    below = top + row * len(steps)
    parts = [
        _text(margin - 8, top + row * (number + 0.5), step, anchor="end") for number, step in enumerate(steps)
    ]
    for number, (title, (series, form)) in enumerate(panels.items()):
        left = margin + number * width
        parts.append(_text(left, 10, title, _LARGE))
        totals = sum((np.asarray(values, float) for values in series.values()), np.zeros(len(steps)))
        whole = max(float(totals[0]), 1)
        scale = 0.75 * width / whole
        ends = np.zeros(len(steps))
        for name, values in series.items():
            for place, value in enumerate(values):
                y = top + row * (place + 0.17)
                colour = colours(list(series))[name]
                parts.append(_bar(left + scale * ends[place], y, scale * value, 0.66 * row, colour))
            ends += values
        for place, total in enumerate(totals):
            share = "" if place == 0 else f" · {100 * total / whole:.0f} %"
            y = top + row * (place + 0.5)
            parts.append(_text(left + scale * total + 5, y, form(float(total)) + share))
    palette = colours(list(next(iter(panels.values()))[0]))
    parts.append(_legend(palette, below + 22))
    height = below + 32 + 18 * math.ceil(len(palette) / 5)
    return _svg(_WIDE, height, parts, "Documents and bytes left after each stage")


def ridges(values: dict[str, np.ndarray], unit: str, form: Format) -> str:
    """One histogram a source over a common logarithmic axis, with its median marked."""
    everything = [array[array > 0] for array in values.values()]
    largest = max((float(array.max()) for array in everything if len(array)), default=10.0)
    smallest = min((float(array.min()) for array in everything if len(array)), default=1.0)
    edges = np.geomspace(max(smallest, 1), max(largest, smallest * 10, 10), 61)
    first, last = math.log10(edges[0]), math.log10(edges[-1])
    last += 0.22 * (last - first)  # room for the medians
    margin, top, row = _room(values), 6, 40
    floor = top + row * len(values)

    scale = (_HALF - margin - 4) / (last - first)

    def across(value: float) -> float:
        return margin + scale * (math.log10(value) - first)

    parts = []
    for tick in _powers(first, last):
        parts.append(_line(across(tick), top, across(tick), floor, _LINE))
        parts.append(_tick(across(tick), floor, form(tick)))
    parts.append(_line(margin, floor, _HALF, floor, _LINE))
    palette = colours(list(values))
    for number, (name, array) in enumerate(values.items()):
        base = top + row * (number + 1)
        counts, _ = np.histogram(array, edges)
        heights = 0.82 * row * counts / max(counts.max(), 1)
        parts.append(
            _stairs(margin + scale * (np.log10(edges) - first), base - heights, base, palette[name], 0.85)
        )
        parts.append(_text(margin - 8, base - 6, _fitting(name, margin), anchor="end"))
        if len(array):
            median = float(np.median(array))
            x = across(max(median, float(edges[0])))
            parts.append(_line(x, base, x, base - 0.82 * row, _INK, 1.3))
            words = f"median {form(median)}"
            parts.append(_text(_HALF - 3, base - 0.6 * row, words, _SMALL, "end", _MUTED))
    parts.append(_text((margin + _HALF) / 2, floor + 34, unit, _LARGE, "middle", _MUTED))
    return _svg(_HALF, floor + 44, parts, f"Histogram of {unit} by source")


def sizes(counts: np.ndarray, unit: str) -> str:
    """Histogram of small whole numbers (documents in a cluster) in bins that double."""
    top, floor = 24, 210
    edges = 2 ** np.arange(1, max(2, math.ceil(math.log2(counts.max() + 1))) + 1)
    heights, _ = np.histogram(counts, edges)
    step = (_HALF - 30) / len(heights)
    gap = min(0.08 * step, 4)
    scale = (floor - top) / float(_symlog(heights.max()))
    parts = [_line(10, floor, _HALF - 10, floor, _LINE)]
    for place, height in enumerate(heights):
        tall = scale * float(_symlog(height))
        parts.append(_bar(16 + step * place, floor - tall, step - gap, tall, _ACCENT))
        if height:
            parts.append(
                _text(
                    16 + step * place + (step - gap) / 2,
                    floor - tall - 9,
                    short_count(int(height)),
                    _SMALL,
                    "middle",
                )
            )
    for place in range(0, len(edges), 1 + len(edges) // 14):
        parts.append(_tick(16 + step * place - gap / 2, floor, f"{edges[place]:,}"))
    parts.append(_text(_HALF / 2, floor + 34, unit, _LARGE, "middle", _MUTED))
    return _svg(_HALF, floor + 44, parts, f"Histogram of {unit}")


def histogram(values: np.ndarray, low: float, high: float, label: str) -> str:
    """Plain histogram between two bounds."""
    left, right, top, floor = 44, _HALF - 10, 10, 210
    heights, edges = np.histogram(values, np.linspace(low if low < high else high - 0.1, high, 41))
    highest = max(float(heights.max()), 1)
    up = (floor - top) / (1.05 * highest)
    across = _axis(float(edges[0]), float(edges[-1]), left, right)
    parts = [
        _grid(left, right, floor - up * tick, short_count(tick))
        for tick in _ticks(0, highest, 6)
        if tick == int(tick)
    ]
    parts.append(_stairs(across(edges), floor - up * heights, floor, _ACCENT))
    ticks = _ticks(float(edges[0]), float(edges[-1]), 8)
    digits = max(len(f"{tick:.6g}".partition(".")[2]) for tick in ticks)
    places = across(np.array(ticks)).tolist()
    parts += [_tick(place, floor, f"{tick:.{digits}f}") for place, tick in zip(places, ticks, strict=True)]
    parts.append(_text((left + _HALF) / 2, floor + 34, label, _LARGE, "middle", _MUTED))
    return _svg(_HALF, floor + 44, parts, f"Histogram of {label}")


def distributions(columns: dict[str, np.ndarray], thresholds: dict[str, list[tuple[str, float]]]) -> str:
    """A histogram of each column with logarithmic counts and a line at each threshold ("min" or "max")."""
    parts = []
    width, height = _WIDE / 3, 168
    for number, (name, array) in enumerate(columns.items()):
        place = (number % 3 * width, number // 3 * height)
        parts += _distribution(name, array, thresholds.get(name, []), *place)
    tall = height * math.ceil(len(columns) / 3)
    return _svg(_WIDE, tall, parts, "Distributions of the measured quality columns")


def _distribution(
    name: str, array: np.ndarray, limits: list[tuple[str, float]], x: float, y: float
) -> list[str]:
    """One panel of `distributions`, 333 wide and 168 high, whose upper left corner is at (x, y)."""
    left, right, top, floor = x + 42, x + 326, y + 24, y + 136
    ends = np.append(array, [value for _, value in limits])
    low, high = float(ends.min()), float(ends.max())
    form: Format
    if low >= 0 and high > 100 and high > 50 * max(float(np.median(array)), 1):
        edges = np.unique(np.concatenate([[0], np.geomspace(1, high + 1, 41)]))
        bend: Scale = _symlog
        ticks, form = [0.0, *_powers(0, math.log10(high + 1))], short_count
    else:
        edges = np.linspace(low, high if high > low else low + 1, 41)
        bend = np.asarray
        ticks, form = _ticks(float(edges[0]), float(edges[-1]), 5), "{:.3g}".format
    low, high = bend(edges[[0, -1]]).tolist()
    across = _axis(low, high, left, right)
    heights, edges = np.histogram(array, edges)
    highest = int(heights.max())
    up = (floor - top) / float(_symlog(1.6 * highest))
    parts = [
        _grid(left, right, floor - up * float(_symlog(tick)), short_count(tick)) for tick in _decades(highest)
    ]
    parts.append(_stairs(across(bend(edges)), floor - up * _symlog(heights), floor, _ACCENT))
    places = across(bend(np.array(ticks))).tolist()
    parts.append(_line(left, floor, right, floor, _LINE))
    parts += [_tick(place, floor, form(tick)) for place, tick in zip(places, ticks, strict=True)]
    for mark in across(bend(np.array([value for _, value in limits], float))).tolist():
        parts.append(_line(mark, top, mark, floor, _MARK, 1.8))
    title = name.removeprefix("q_").replace("_", " ")
    if limits:
        title += f"  ({', '.join(f'{_SIDES[side]} {value:,.9g}' for side, value in limits)})"
    return [*parts, _text(left, y + 12, title)]


def shares(names: list[str], tokens: list[float], weights: list[float]) -> str:
    """Each source's share of the tokens beside its share of the training mixture, both in per cent."""
    margin, top, row = _room(names), 4, 46
    scale = (_WIDE - margin) / (1.15 * max([*tokens, *weights, 1]))
    floor = top + row * len(names)
    labels = {"share of the tokens": _ACCENT, "share of the mixture": _MARK}
    parts = []
    for number, (name, *pair) in enumerate(zip(names, tokens, weights, strict=True)):
        y = top + row * number
        parts.append(_text(margin - 8, y + row / 2, _fitting(name, margin), anchor="end"))
        for value, colour, offset in zip(pair, labels.values(), (0.14, 0.52), strict=True):
            parts.append(_bar(margin, y + offset * row, scale * value, 0.34 * row, colour))
            words = f"{value:.1f} %"
            parts.append(_text(margin + scale * value + 4, y + (offset + 0.17) * row, words, _SMALL))
    parts.append(_legend(labels, floor + 14))
    return _svg(_WIDE, floor + 28, parts, "Tokens of each source against the mixture")


def _symlog(values: Any) -> np.ndarray:
    """A scale for numbers from 0 on: linear up to 1, logarithmic from there."""
    array = np.asarray(values, float)
    bent: np.ndarray = np.minimum(array, 1) + np.log10(np.maximum(array, 1))
    return bent


def _axis(low: float, high: float, left: float, right: float) -> Scale:
    """Where numbers between two bounds lie between two places, with a margin on both sides."""
    first, scale = low - _MARGIN * (high - low), (right - left) / ((1 + 2 * _MARGIN) * (high - low))

    def place(values: np.ndarray) -> np.ndarray:
        places: np.ndarray = left + scale * (values - first)
        return places

    return place


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers at even distances between two bounds and in the margins, about `most` of them."""
    low, high = low - _MARGIN * (high - low), high + _MARGIN * (high - low)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * step for step in (1, 2, 2.5, 5, 10, 20) if (high - low) / (power * step) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _decades(top: int) -> list[int]:
    step = 1 if top < 10**4 else 2
    return [10**power for power in range(0, len(str(max(top, 1))), step)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten between two exponents, at most eight, at even distances."""
    exponents = range(math.ceil(low), math.floor(high) + 1)
    return [10.0**exponent for exponent in exponents[:: -(-len(exponents) // 8) or 1]]


def _room(names: Iterable[str]) -> float:
    """How wide the longest name is, about, with the gap after it; no more than 220."""
    return min(max((0.55 * _MIDDLE * len(name) for name in names), default=0) + 12, 220)


def _fitting(name: str, room: float) -> str:
    """A name that fits into `room`."""
    letters = int((room - 12) / (0.55 * _MIDDLE) + 0.5)
    return name if len(name) <= letters else name[: letters - 1] + "…"


def _tick(x: float, floor: float, label: str) -> str:
    """A mark below an axis, with its number."""
    return _line(x, floor, x, floor + 4, _LINE) + _text(x, floor + 14, label, _MIDDLE, "middle", _MUTED)


def _grid(left: float, right: float, y: float, label: str) -> str:
    """A line across a panel, with its number on the left."""
    return _line(left, y, right, y, _LINE) + _text(left - 7, y, label, _SMALL, "end", _MUTED)


def _legend(entries: dict[str, str], top: float) -> str:
    """Names with their colours, in the middle of a wide picture, in columns of equal width, at most five."""
    columns = min(5, len(entries)) or 1
    rows = math.ceil(len(entries) / columns)
    step = min(_room(entries) + 26, _WIDE / columns)
    begin = (_WIDE - step * columns) / 2
    parts = []
    for number, (name, colour) in enumerate(entries.items()):
        x, y = begin + step * (number // rows), top + 18 * (number % rows)
        parts.append(_bar(x, y - 6, 12, 12, colour) + _text(x + 20, y, _fitting(name, step - 14)))
    return "".join(parts)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(
    x: float, y: float, words: str, size: float = _MIDDLE, anchor: str = "start", colour: str = _INK
) -> str:
    """Words whose middle line is at y."""
    return (
        f'<text x="{_number(x)}" y="{_number(y + 0.36 * size)}" text-anchor="{anchor}" '
        f'style="font-size:{size}px;fill:{colour}">{html.escape(words, quote=False)}</text>'
    )


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}" '
        f'style="fill:{colour}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 0.8) -> str:
    return (
        f'<path d="M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}" '
        f'style="stroke:{colour};stroke-width:{width}"/>'
    )


def _stairs(edges: np.ndarray, heights: np.ndarray, base: float, colour: str, opacity: float = 1) -> str:
    """A filled outline of bars between `edges` from `base` to `heights`."""
    steps = zip(edges[1:].tolist(), heights.tolist(), strict=True)
    path = "".join(f"V{_number(height)}H{_number(edge)}" for edge, height in steps)
    start = f"M{_number(float(edges[0]))} {_number(base)}"
    return f'<path d="{start}{path}V{_number(base)}Z" style="fill:{colour};opacity:{opacity}"/>'


def _svg(width: float, height: float, parts: list[str], description: str) -> str:
    return (
        f'<svg viewBox="0 0 {_number(width)} {_number(height)}" style="max-width: {width}px" role="img" '
        f'aria-label="{html.escape(description)}">{"".join(parts)}</svg>'
    )
