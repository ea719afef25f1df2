"""Shares of sources in what is trained on: weights, or epochs, by source name."""

import math
from collections.abc import Iterable, Mapping

from base.errors import UserError

_UNITS = {"mixture": ("weight", "a weight is"), "mixture_epochs": ("epochs", "epochs are")}
"""By section of the configuration: what its values are, and the beginning of the sentence on them."""


def check_shares(section: str, shares: Mapping[str, float]) -> None:
    """Raise UserError for a share that is negative or not finite, and for shares that are all 0."""
    for name, share in shares.items():
        if not 0 <= share < math.inf:
            unit = _UNITS[section][1]
            raise UserError(f"{section}.{name} = {share}: {unit} a finite number and not negative")
    if shares and not any(shares.values()):
        raise UserError(f"{section}: every source has 0; at least one must be above it")


def check_names(
    section: str, shares: Mapping[str, float], known: Iterable[str], *, told: str = "", every: bool = False
) -> None:
    """Raise UserError for a share of a source that is not among the `known`, in one sentence.

    told: the end of the sentence, by default which sources there are. every: all known sources must have a
    share, if any has one.
    """
    names = set(known)
    told = told or f"the sources are {', '.join(sorted(names))}"
    for name in sorted(set(shares) - names):
        raise UserError(f"{section}.{name}: there is no such source; {told}")
    if every and shares:
        for name in sorted(names - set(shares)):
            unit = _UNITS[section][0]
            raise UserError(f"{section} has no {unit} for source {name}; 0 leaves it out; {told}")
