"""The command `piledriver`, and the list of all commands."""

import ast
import difflib
import importlib
import sys
from pathlib import Path

from jobs.session import MISTAKE, run

COMMANDS = (
    "prepare",
    "refresh",
    "merge",
    "dedup",
    "explain",
    "verify",
    "export",
    "plan",
    "train",
    "trace",
    "evaluate",
    "infer",
    "collect",
    "compile",
    "demo",
    "reference",
)
"""A module of jobs/ each: `piledriver prepare …` is `python -m jobs.prepare …`."""


def main() -> None:
    """Run the command that is named first; without one, list all."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(listing())
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "`piledriver` lists all"
        print(f"error: piledriver has no command {name}; {hint}", file=sys.stderr)
        sys.exit(MISTAKE)
    run(importlib.import_module(f"jobs.{name}").main, f"piledriver {name}", arguments)


def listing() -> str:
    """Usage, and a line for each command: the first of its module's docstring, which is not imported."""
    lines = ["Usage: piledriver COMMAND [OPTIONS]", "", "piledriver COMMAND --help tells more.", ""]
    for name in COMMANDS:
        source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines.append(f"  {name:<9}  {text}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
