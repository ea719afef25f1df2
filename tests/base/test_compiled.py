import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    "amounts": "STEP = 1\n",
    "steps": """
        from base.kernels import inlined
        from dedup import amounts
        STEP = amounts.STEP
        @inlined
        def step(x):
            return x + STEP
        """,
    "walks": """
        from base.kernels import kernel
        from dedup.steps import step
        @kernel
        def walk(x):
            return step(step(x))
        """,
    "rests": """
        from base.kernels import kernel
        @kernel
        def rest(x):
            return x
        """,
}
"""Modules with kernels: walks uses a kernel of steps, and that a constant of amounts."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "base", tmp_path / "one" / "base", ignore=shutil.ignore_patterns("*cache*"))
    (tmp_path / "one" / "dedup").mkdir()
    (tmp_path / "one" / "dedup" / "__init__.py").touch()
    for name, code in MODULES.items():
        lines = [line.removeprefix(" " * 8) for line in code.split("\n")]
        (tmp_path / "one" / "dedup" / f"{name}.py").write_text("\n".join(lines))
    return tmp_path / "one"


def _run(checkout: Path, cache: Path) -> tuple[str, set[str]]:
    """What the kernels of `checkout` say, and the names of compiled kernels that are there afterwards."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(checkout)}
    environment.pop("NUMBA_CACHE_LOCATOR_CLASSES", None)
    code = "from dedup import rests, walks; print(walks.walk(0), rests.rest(7))"
    command = [sys.executable, "-c", code]
    output = subprocess.run(
        command, cwd=checkout, env=environment, check=True, timeout=300, capture_output=True, text=True
    )
    return output.stdout.strip(), {str(path.relative_to(cache)) for path in cache.rglob("*.nbc")}


def _names(compiled: set[str]) -> set[str]:
    return {path.partition("/")[2].partition("-")[0] for path in compiled}


def test_copies_of_the_code_share_compiled_kernels(checkout: Path, tmp_path: Path) -> None:
    said, compiled = _run(checkout, tmp_path / "cache")
    assert said == "2 7"
    assert {"walks.walk", "rests.rest"} <= _names(compiled)
    other = tmp_path / "deep" / "in" / "a session" / "two"
    shutil.copytree(checkout, other)
    assert _run(other, tmp_path / "cache") == (said, compiled)


@pytest.mark.parametrize("changed", ["amounts", "steps"])
def test_a_change_compiles_what_depends_on_it_again_and_nothing_else(
    checkout: Path, tmp_path: Path, changed: str
) -> None:
    _, before = _run(checkout, tmp_path / "cache")
    module = checkout / "dedup" / f"{changed}.py"
    old, new = (
        ("STEP = 1", "STEP = 3") if changed == "amounts" else ("return x + STEP", "return x + 3 * STEP")
    )
    module.write_text(module.read_text().replace(old, new))
    said, after = _run(checkout, tmp_path / "cache")
    assert said == "6 7"
    assert "walks.walk" in _names(after - before)
    assert "rests.rest" not in _names(after - before)
    module.write_text(module.read_text().replace(new, old))
    assert _run(checkout, tmp_path / "cache") == ("2 7", after)


def test_what_modules_import_is_read_anew_when_it_cannot_be_remembered(
    checkout: Path, tmp_path: Path
) -> None:
    said, compiled = _run(checkout, tmp_path / "cache")
    (remembered,) = (tmp_path / "cache").glob("imports*.json")
    remembered.write_text("{")
    assert _run(checkout, tmp_path / "cache") == (said, compiled)
    remembered.unlink()
    remembered.mkdir()
    assert _run(checkout, tmp_path / "cache") == (said, compiled)
