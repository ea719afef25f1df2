"""The command `piledriver`."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jobs import cli

ROOT = Path(__file__).parents[2]


def piledriver(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the installed script does."""
    code = "import sys; sys.argv[0] = 'piledriver'; from jobs.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_the_script_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"piledriver": "jobs.cli:main"}


def test_every_command_is_in_the_list() -> None:
    modules = [path for path in (ROOT / "jobs").glob("*.py") if path.stem != "cli"]
    commands = {path.stem for path in modules if 'if __name__ == "__main__":' in path.read_text()}
    assert commands == set(cli.COMMANDS)


def test_the_list_has_a_line_for_each_command() -> None:
    listed = piledriver().stdout
    assert listed == piledriver("--help").stdout
    lines = {line.split()[0]: line for line in listed.splitlines() if line.startswith("  ")}
    assert list(lines) == list(cli.COMMANDS)
    assert lines["export"].endswith("  A corpus version to Megatron-LM and GPT-NeoX files.")


def test_the_list_imports_nothing_that_takes_time() -> None:
    code = """
import sys
from jobs import cli
cli.listing()
print(*(name for name in ("ray", "torch", "pandas", "numpy", "pyarrow", "numba") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("arguments", [["--config", "/nowhere.yaml"], ["--no-such-option"], []])
def test_a_command_is_what_its_module_is(arguments: list[str]) -> None:
    module = [sys.executable, "-m", "jobs.prepare", *arguments]
    other = subprocess.run(module, cwd=ROOT, capture_output=True, text=True, timeout=60)
    done = piledriver("prepare", *arguments)
    assert done.returncode == other.returncode == 2
    assert done.stderr == other.stderr.replace("python -m jobs.prepare", "piledriver prepare")
    assert done.stdout == other.stdout == ""


def test_help_of_a_command() -> None:
    done = piledriver("plan", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: piledriver plan [OPTIONS]\n")


def test_a_command_that_is_not_one() -> None:
    done = piledriver("prepair")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: piledriver has no command prepair; did you mean prepare?\n"
    assert piledriver("xyz").stderr == "error: piledriver has no command xyz; `piledriver` lists all\n"
