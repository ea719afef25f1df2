"""The documents can be read and followed: short paragraphs, and links and anchors that lead somewhere."""

import re
from pathlib import Path

import pytest

from docs import commands, tables, tour

ROOT = Path(__file__).parents[2]
LONGEST_PARAGRAPH = 80
FOLDERS = ("base", "dedup", "model", "pipelines", "jobs", "tests", "benchmarks", "configs", "examples")
PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("[a-z]*/README.md")],
    key=lambda page: str(page),
)
OF_THE_SITE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def paragraphs(text: str) -> list[str]:
    """Paragraphs, and each item of a list as one; no headings, tables and HTML."""
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )|(?<=\n)(?=#)|(?<=\S)\n(?=\d+\. )", text)
    return [block.strip() for block in blocks if block.strip() and block.strip()[0] not in "#|<"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page: those of its headings, and the modules whose API it shows."""
    names: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        names.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain.lower()).strip()))
    return names | set(re.findall(r"^::: (\S+)$", page.read_text(), re.M))


def target(page: Path, path: str) -> Path:
    """The file that a link leads to; two pages of the site lie at the root."""
    found = (page.parent / path).resolve() if path else page
    if not found.exists() and found.parent == ROOT / "docs" and found.name in OF_THE_SITE:
        return ROOT / OF_THE_SITE[found.name]
    return found


@every_page
def test_paragraphs_are_short(page: Path) -> None:
    long = {text[:60]: len(text.split()) for text in paragraphs(prose(page))}
    assert not {start: words for start, words in long.items() if words > LONGEST_PARAGRAPH}


@every_page
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    broken = []
    for match in LINK.finditer(prose(page)):
        link = match[1] or match[2] or match[3]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        found = target(page, path)
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    records = {page for page in pages if re.match(r"explanation/decisions/\d", page)}
    assert pages - records == listed - OF_THE_SITE.keys()
    index = (ROOT / "docs/explanation/decisions/index.md").read_text()
    assert sorted(records) == sorted(
        f"explanation/decisions/{name}" for name in re.findall(r"\((\d[^)]+\.md)\)", index)
    )


def test_documents_that_code_names_are_there() -> None:
    named: dict[str, str] = {}
    for folder in (
        "base",
        "dedup",
        "model",
        "pipelines",
        "jobs",
        "tests",
        "benchmarks",
        "configs",
        "examples",
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml", ".md"):
                text = path.read_text()
                named |= {name: str(path) for name in re.findall(r"docs/[\w/.-]+\.(?:md|png|svg)", text)}
    assert not {name: path for name, path in named.items() if not (ROOT / name).exists()}


def test_the_tour_of_the_code_is_current() -> None:
    page = tour.PAGE.read_text()
    assert tour.with_tour(page) == page, "run `make reference`"


def test_the_reference_of_commands_is_current() -> None:
    assert commands.PAGE.read_text() == commands.page(), "run `make reference`"


@pytest.mark.parametrize("name", tables.PAGES)
def test_the_tables_are_current(name: str) -> None:
    assert tables.PAGES[name].read_text() == tables.with_table(name), "run `make reference`"
