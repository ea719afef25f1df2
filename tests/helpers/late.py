"""Imports that take seconds and that no test needs before it runs."""

import ast
from functools import cache
from pathlib import Path
from types import ModuleType

RUNNING = False
"""What a test module imports below `if RUNNING:` is imported before its first test runs (tests/conftest.py).

So tests are collected, and those of `make unit` run, without torch, Ray and what else takes seconds to
import. mypy takes the name for true.
"""


@cache
def _block(path: str) -> ast.Module:
    """The statements below `if RUNNING:` in a file."""
    found = [
        statement
        for node in ast.parse(Path(path).read_bytes()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "RUNNING"
        for statement in node.body
    ]
    return ast.Module(body=found, type_ignores=[])


def late_imports(path: str) -> list[str]:
    """The names of the modules that a test module imports late."""
    names = []
    for node in _block(path).body:
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def import_now(module: ModuleType) -> None:
    """Do the late imports of a test module, once."""
    path = module.__file__
    if path is None or module.__dict__.setdefault("_imported_late", False):
        return
    exec(compile(_block(path), path, "exec"), module.__dict__)
    module.__dict__["_imported_late"] = True
