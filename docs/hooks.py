"""Pages of the site that lie elsewhere in the repository: CONTRIBUTING.md and CHANGELOG.md at its root."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add them to the pages that MkDocs found; their links into docs/ lead to the pages of the site."""
    from mkdocs.structure.files import File

    for page, origin in PAGES.items():
        text = (ROOT / origin).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files
