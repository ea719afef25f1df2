"""How versions are named."""

from pathlib import Path

from base import files
from pipelines import manifest


def test_the_next_name_follows_the_newest_even_where_old_versions_were_removed(tmp_path: Path) -> None:
    assert manifest.next_name(str(tmp_path)) == "v0001"
    for name in ("v0002", "v0003", "v-old"):
        files.write_json(files.join(str(tmp_path), "corpus/versions", name, "manifest.json"), {})
    assert manifest.next_name(str(tmp_path)) == "v0004"
