"""Commands that run in a session of their own."""

import os
import signal
from pathlib import Path


def kill_session(session: int) -> None:
    """SIGKILL every process of a session, the ones in process groups of their own too."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
