"""Which marks a test has, by the fixtures that it uses and by what it and its module import."""

import subprocess
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

from tests.helpers.late import late_imports

FIXTURES = {"ray_cluster": "ray", "shared_data": "data", "real_data": "data", "gpu": "gpu"}
"""Marks by fixture."""
IMPORTS = {
    "ray": "ray",
    "torch": "train",
    "transformers": "train",
    "deepspeed": "train",
    "model": "train",
    "pipelines.training": "train",
}
"""Marks by what a module imports late (tests/helpers/late.py): modules of model/ that do not import torch are
imported at once."""
BUILDS = "tests.helpers.builds"
"""The module whose functions build whole corpora in this process."""
TRAINS = {"run_here", "run_processes", "run_with_kills", "start"}
"""Functions of tests/helpers/training.py that train."""


def marks(item: pytest.Item) -> set[str]:
    """The marks of a test besides those that are written at it."""
    found = {mark for fixture, mark in FIXTURES.items() if fixture in getattr(item, "fixturenames", ())}
    if not isinstance(item, pytest.Function):
        return found
    for name in late_imports(str(item.path)):
        found |= {mark for package, mark in IMPORTS.items() if f"{name}.".startswith(f"{package}.")}
    return found | calls(item)


def calls(item: pytest.Function) -> set[str]:
    """Marks by what a test, a fixture of it or a function of its module that they call, calls: `train` for
    whoever trains a model, `command` for whoever starts a process, `build` for whoever builds a corpus."""
    found: set[str] = set()
    module: ModuleType = item.module
    fixtures = [one.func for found in item._fixtureinfo.name2fixturedefs.values() for one in found]
    waiting: list[Callable[..., Any]] = [item.function, *fixtures]
    seen: set[str] = set()
    while waiting:
        for name in names(waiting.pop()):
            value = module.__dict__.get(name)
            if value is subprocess:
                found.add("command")
            place = getattr(value, "__name__", None), getattr(value, "__module__", None)
            if BUILDS in place and name in ("builds", "run", "refresh"):
                found.add("build")
            if name in seen or not isinstance(value, FunctionType):
                continue
            seen.add(name)
            if value.__module__ == module.__name__:
                waiting.append(value)
            elif name in TRAINS and value.__module__ == "tests.helpers.training":
                found.add("train")
    return found


def names(function: Callable[..., Any]) -> Iterator[str]:
    """The global names that a function mentions, functions inside it too."""
    waiting = [getattr(function, "__code__", None)]
    while waiting:
        if (code := waiting.pop()) is None:
            continue
        yield from code.co_names
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
