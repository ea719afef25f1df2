"""How the report writes numbers."""

from collections.abc import Callable

Format = Callable[[float], str]
"""Writes a number in a picture or a cell."""


def short_count(value: float) -> str:
    """A count with at most three digits and k, M, G or T."""
    return _scaled(value, ("", " k", " M", " G", " T"))


def short_bytes(value: float) -> str:
    """A number of bytes with at most three digits and a decimal unit."""
    return _scaled(value, (" B", " kB", " MB", " GB", " TB", " PB"))


def percentage(part: float, whole: float) -> float:
    """What share of the whole a part is, in per cent; 0 of nothing."""
    return 100 * part / whole if whole else 0.0


def _scaled(value: float, units: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value /= 1000
        power += 1
    digits = 0 if value == int(value) or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}{units[power]}"
