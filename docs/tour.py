"""The tour of the code in CONTRIBUTING.md: a tree with one line a file, from the modules' docstrings.

`python docs/tour.py` (or `make reference`) writes it between its marks.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
FOLDERS = ("jobs", "pipelines", "model", "dedup", "base")
BEGIN, END = "<!-- tour: made by docs/tour.py -->\n", "<!-- end of the tour -->\n"
WITHIN = (
    "corpus",
    "views",
    "versions",
    "report",
    "stages",
    "text",
    "reading",
    "training",
    "inference",
    "runtime",
)
"""Folders within a folder, those that import before those that are imported; others follow by name."""
WIDTH = 118
CITATION = re.compile(r" \([^)]*\b(?:et al\.|ch\. |\d{4})[^)]*\)")


def tour() -> str:
    """The tree as a block of code; a folder's line is that of its __init__.py."""
    lines = []
    for name in FOLDERS:
        lines += _folder(ROOT / name, "")
    return "```text\n" + "\n".join(lines) + "\n```\n"


def with_tour(page: str) -> str:
    """A page with the tree of today between the marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + tour() + END + rest.split(END)[1]


def first_sentence(module: Path) -> str:
    """What a module's docstring begins with, up to its first full stop, without references in parentheses."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    text = CITATION.sub("", " ".join(text.split("\n\n")[0].split()))
    return text.split(". ")[0].removesuffix(".")


def _folder(folder: Path, indent: str) -> list[str]:
    lines = [_line(f"{indent}{folder.name}/", folder / "__init__.py")]
    for entry in sorted(folder.iterdir(), key=_place):
        if (entry / "__init__.py").exists():
            lines += _folder(entry, indent + "  ")
        elif entry.suffix == ".py" and entry.name != "__init__.py":
            lines.append(_line(f"{indent}  {entry.name}", entry))
    return lines


def _place(entry: Path) -> tuple[bool, int, str]:
    return entry.is_file(), WITHIN.index(entry.name) if entry.name in WITHIN else len(WITHIN), entry.name


def _line(place: str, module: Path) -> str:
    """A line of the tree; a sentence that is too long ends after a clause of it."""
    sentence = first_sentence(module)
    room = WIDTH - max(len(place), 26) - 1
    while len(sentence) > room and (clause := re.match(r"(.{16,})(?:[;:,]| \()", sentence[:room])):
        sentence = clause[1]
    if len(sentence) > room:
        sentence = sentence[:room].rpartition(" ")[0]
    return f"{place:<26} {sentence}".rstrip()


if __name__ == "__main__":
    PAGE.write_text(with_tour(PAGE.read_text()))
