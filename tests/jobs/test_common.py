import subprocess
import sys

import pytest


@pytest.mark.parametrize(("error", "code"), [("UserError", 2), ("RuntimeError", 1)])
def test_a_failed_command_shows_no_credentials(error: str, code: int) -> None:
    script = (
        "from base.errors import UserError\nfrom jobs.common import run\n"
        "def command() -> None:\n"
        f"    raise {error}('cannot read https://anna:' + 'pass' + 'word@host/x')\n"
        "run(command)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code and done.stdout == ""
    assert "cannot read https://***@host/x" in done.stderr and "password" not in done.stderr
    assert ("Traceback" in done.stderr) == (code == 1)
