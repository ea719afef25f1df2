"""Tables of the reference that are made from the code: input formats and quality rules.

`python docs/tables.py` (or `make reference`) writes each between its marks.
"""

import sys
from pathlib import Path

REFERENCE = Path(__file__).parent / "reference"
PAGES = {"formats": REFERENCE / "inputs.md", "rules": REFERENCE / "quality-rules.md"}
END = "\n<!-- end of the table -->"


def with_table(name: str) -> str:
    """The page of a table, with the table of today between the marks."""
    from pipelines.corpus.reading import formats
    from pipelines.corpus.text import settings

    table = formats.markdown() if name == "formats" else settings.rules_markdown()
    begin = f"<!-- {name}: made by docs/tables.py -->\n"
    before, rest = PAGES[name].read_text().split(begin)
    return before + begin + "\n" + table.strip() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    for name, page in PAGES.items():
        page.write_text(with_table(name))
