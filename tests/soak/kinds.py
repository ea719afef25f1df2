"""The kinds of long draws, and how many of each make a glimpse, a shorter draw and a full one.

A kind is a module of its name beside this one with a function `draw(seed, folder)`: it makes one draw in an
empty folder, gives counts of what it did and saw, raises AssertionError with the story on failure, and
SkipTest where the machine does not allow such draws.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Seeds of the draws of a kind."""

    glimpse: range
    """In `make test`: some seconds."""
    shorter: range
    """In `make slow`: about a minute."""
    full: range
    """In `make soak`."""


_ALL = {
    "cuts": Draws(glimpse=range(2, 3), shorter=range(1000, 1010), full=range(200)),
    "rivals": Draws(glimpse=range(3, 5), shorter=range(5000, 5020), full=range(1000)),
    "mutations": Draws(glimpse=range(20), shorter=range(20_000, 20_500), full=range(10_000)),
}
KINDS = {name: draws for name, draws in _ALL.items() if Path(__file__).with_name(f"{name}.py").exists()}


def draw(name: str, seed: int, folder: Path) -> dict[str, int]:
    """One draw of a kind."""
    counts: dict[str, int] = importlib.import_module(f"tests.soak.{name}").draw(seed, folder)
    return counts
