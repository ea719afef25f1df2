"""pipelines/corpus/reading and text can be imported alone: without the configuration, Ray or torch."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import importlib, pkgutil, sys
package = importlib.import_module("pipelines.corpus.{folder}")
for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
    # Each as the first of all, so that no module needs another to be imported before it.
    for known in [known for known in sys.modules if known.startswith("pipelines")]:
        del sys.modules[known]
    importlib.import_module(f"pipelines.corpus.{folder}.{{name}}")
    above = ("pipelines.config", "pipelines.runtime", "pipelines.corpus.stages", "ray", "torch")
    wrong = [known for known in sys.modules if known in above]
    assert not wrong, f"{{name}} imports {{wrong}}"
"""


@pytest.mark.parametrize("folder", ["reading", "text"])
def test_every_module_can_be_imported_alone(folder: str) -> None:
    root = Path(__file__).parents[3]
    code = CODE.format(folder=folder)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_settings_are_light() -> None:
    code = (
        "import sys, pipelines.config;"
        "assert not {'ray', 'torch', 'numba', 'resiliparse', 'tokenizers'} & {*sys.modules}, sys.modules"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
