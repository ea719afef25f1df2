"""How versions are named, and what a manifest may name."""

from pathlib import Path

import pytest

from base import files, manifest
from base.errors import UserError


def test_the_next_name_follows_the_newest_even_where_old_versions_were_removed(tmp_path: Path) -> None:
    assert manifest.next_name(str(tmp_path)) == "v0001"
    for name in ("v0002", "v0003", "v-old"):
        files.write_json(files.join(str(tmp_path), "corpus/versions", name, "manifest.json"), {})
    assert manifest.next_name(str(tmp_path)) == "v0004"


@pytest.mark.parametrize(
    "change",
    [
        {"version": "../../elsewhere"},
        {"parent": ".."},
        {"shards": [{"path": "../../../x.arrow", "source": "a", "split": "train"}]},
        {"shards": [{"path": "v0001/shards/a/train-00000.arrow", "source": "../a", "split": "train"}]},
        {"files": {"../../../../.bashrc": "0" * 32}},
        {"files": {"/etc/passwd": "0" * 32}},
        {"tokenizer": {"file": "../tokenizer.json"}},
        {"indexes": ["../index"]},
        {"lines": ["/lines.parquet"]},
        {"inputs": [{"part": "../../x"}]},
        {"shards": 3},
        {"tokenizer": None},
    ],
)
def test_no_path_of_a_manifest_leaves_its_storage(tmp_path: Path, change: dict[str, object]) -> None:
    content = {"schema": manifest.SCHEMA, "version": "v0001", "parent": None, "shards": [], "tokenizer": {}}
    url = str(tmp_path / "corpus" / "versions" / "v0001" / "manifest.json")
    files.write_json(url, content)
    assert manifest.open_version(url).name == "v0001"
    files.write_json(url, content | change)
    with pytest.raises(UserError, match="is no (path|name) below|is not a corpus manifest"):
        manifest.open_version(url)
