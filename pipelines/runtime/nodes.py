"""What Ray prints of nodes that are lost: its logs by the page, which become a sentence a node."""

import re
import sys
from collections.abc import Callable
from typing import Any

_LOST = re.compile(r"node with node id: (\w+) and address: (\S+) .* has been marked dead", re.DOTALL)
_ENDED = re.compile(r"Raylet is terminated")

Print = Callable[[dict[str, Any], bool], None]


def say_shortly() -> None:
    """Let this process print a sentence for a lost node, and what else Ray tells as it is.

    Ray has no setting for it: what it prints of the cluster passes one function of its worker module.
    """
    import ray._private.worker as worker

    told: Print | None = getattr(worker, "print_to_stdstream", None)
    if told is not None and not isinstance(told, _Short):
        worker.print_to_stdstream = _Short(told)


class _Short:
    """Prints batches of lines as Ray hands them over."""

    def __init__(self, told: Print) -> None:
        """`told` is Ray's own."""
        self.told = told
        self.lost: set[str] = set()

    def __call__(self, data: dict[str, Any], ignore_prefix: bool) -> None:
        """Print what says more than that a node was lost."""
        lines = []
        for line in data.get("lines", []):
            if match := _LOST.search(line):
                if match[1] not in self.lost:
                    self.lost.add(match[1])
                    print(f"node {match[2]} was lost; its tasks run again elsewhere", file=sys.stderr)
            elif not _ENDED.search(line):
                lines.append(line)
        if lines:
            self.told({**data, "lines": lines}, ignore_prefix)
