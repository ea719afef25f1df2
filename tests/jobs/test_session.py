"""What a command leaves when it ends: an exit code, one sentence, a terminal that is whole."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = """
from base.errors import UserError
from jobs.session import run, session
from pipelines.config import Config
def command() -> None:
    sources = [{"name": "a", "urls": ["b"]}]
    settings = Config.model_validate({"name": "x", "storage": "/nowhere", "sources": sources})
    with session(settings, verbose=False, needs_cluster=False) as work:
        work.progress("measure", 1, 2)
        ENDING
    print("what was made")
run(command)
"""


@pytest.mark.parametrize(("error", "code"), [("UserError", 2), ("RuntimeError", 1)])
def test_a_failed_command_shows_no_credentials(error: str, code: int) -> None:
    script = (
        "from base.errors import UserError\nfrom jobs.session import run\n"
        "def command() -> None:\n"
        f"    raise {error}('cannot read https://anna:' + 'pass' + 'word@host/x')\n"
        "run(command)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code and done.stdout == ""
    assert "cannot read https://***@host/x" in done.stderr and "password" not in done.stderr
    assert ("Traceback" in done.stderr) == (code == 1)


def on_a_terminal(ending: str) -> tuple[int, str]:
    """The exit code of a command that ends within its session, and what its terminal got."""
    terminal, end = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    script = COMMAND.replace("ENDING", ending)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=end, stderr=end, cwd=ROOT, env=environment, check=False
    )
    os.close(end)
    shown = b""
    try:
        while piece := os.read(terminal, 2**16):
            shown += piece
    except OSError:  # everything is read
        pass
    os.close(terminal)
    return done.returncode, shown.decode()


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        ("raise UserError('no room is left')", 2, "error: no room is left"),
        ("raise RuntimeError('a slip')", 1, "RuntimeError: a slip"),
        ("raise KeyboardInterrupt", 130, ""),
        ("pass", 0, "what was made"),
    ],
)
def test_the_terminal_is_whole_after_a_session(ending: str, code: int, told: str) -> None:
    found, shown = on_a_terminal(ending)
    assert found == code, shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1
    bars, _, rest = shown.partition("\x1b[?25h")
    assert "measure" in bars and told in rest and "measure" not in rest, shown


def test_no_cluster_is_started_where_none_is_needed() -> None:
    script = COMMAND.replace("ENDING", "import ray; print(ray.is_initialized(), work.executor.workers)")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["False None", "what was made"]
