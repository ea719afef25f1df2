"""The floor plan: who may import whom, and how long a function and a class may be."""

import ast
from pathlib import Path

from tests.helpers import architecture

ROOT = Path(__file__).parents[1]


def test_no_folder_imports_upward() -> None:
    assert architecture.upward(ROOT) == []


def test_no_part_of_pipelines_imports_upward() -> None:
    assert architecture.upward_within_pipelines(ROOT) == []


def test_no_layer_may_import_one_above_it() -> None:
    layers = list(architecture.WITHIN_PIPELINES)
    for above, allowed in architecture.WITHIN_PIPELINES.items():
        assert all(layers.index(below) < layers.index(above) for below in allowed), above


def test_no_circle_of_modules() -> None:
    assert architecture.circles(ROOT) == []


def test_functions_and_classes_are_short() -> None:
    assert architecture.too_long(ROOT) == []


def test_no_test_module_imports_another() -> None:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
                assert (node.module or "").startswith(("tests.helpers", "tests.soak")), path
