"""Checks of a mixture: a number for every source of a corpus, weight or epochs."""

import math
from collections.abc import Mapping

from base.errors import UserError


def check_values(section: str, values: Mapping[str, float], unit: str) -> None:
    """Raise ValueError for a value that is no share, and when all are 0.

    section: the setting's name in messages; unit: what a value is in them, such as "a weight is".
    """
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{section}.{name} = {value}: {unit} a finite number and not negative")
    if values and not any(values.values()):
        raise ValueError(f"{section}: every source has 0; at least one must be above it")


def check_sources(
    section: str, values: Mapping[str, float], unit: str, *, sources: list[str], manifest_url: str
) -> None:
    """Raise UserError unless the values are of exactly the sources that a corpus version holds.

    section: the setting's name in messages; unit: what a source has there, such as "weight".
    """
    held = f"corpus {manifest_url} holds {', '.join(sources)}"
    for name in sorted(set(values) - set(sources)):
        raise UserError(f"{section}.{name}: there is no such source; {held}")
    for name in sorted(set(sources) - set(values)):
        raise UserError(f"{section} has no {unit} for source {name}; 0 leaves it out; {held}")
