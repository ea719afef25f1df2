"""Where everything of a project lies, as docs/reference/formats.md tells it."""

import pytest

from base import layout
from base.layout import Layout

PLACES = {
    "corpus": "corpus",
    "versions": "corpus/versions",
    "version": "corpus/versions/v0001",
    "manifest": "corpus/versions/v0001/manifest.json",
    "inputs": "corpus/inputs.json",
    "folder": "corpus/documents/key",
    "part": "corpus/documents/key/0123.arrow",
    "work": "corpus/work/dedup/key/exact/00000.parquet",
    "index": "corpus/index/v0001-key",
    "training": "training",
    "run": "training/v0001-1f2e3d4c",
    "result": "training/v0001-1f2e3d4c/result.json",
    "model": "training/v0001-1f2e3d4c/hf",
    "latest_run": "training/latest.json",
    "evaluation": "evaluation/name",
    "inference": "inference/name",
}
ARGUMENTS = {
    "version": ["v0001"],
    "manifest": ["v0001"],
    "folder": ["documents", "key"],
    "part": ["documents", "key", "0123", "arrow"],
    "work": ["dedup", "key", "exact", "00000.parquet"],
    "index": ["v0001-key"],
    "run": ["v0001-1f2e3d4c"],
    "result": ["v0001-1f2e3d4c"],
    "model": ["v0001-1f2e3d4c"],
    "evaluation": ["name"],
    "inference": ["name"],
}


@pytest.mark.parametrize("storage", ["/data/project", "s3://bucket/project", "/data/project/"])
@pytest.mark.parametrize(("name", "path"), PLACES.items())
def test_where_things_are(storage: str, name: str, path: str) -> None:
    found = getattr(Layout(storage), name)
    if name in ARGUMENTS:
        found = found(*ARGUMENTS[name])
    assert found == f"{storage.rstrip('/')}/{path}"


def test_every_place_is_tried() -> None:
    assert {name for name in vars(Layout) if not name.startswith("_")} - {"storage"} == PLACES.keys()


def test_paths_within_a_version() -> None:
    assert layout.dropped("quality") == "dropped/quality.parquet"
    assert layout.part_path("parts", "key", "p", "json") == "parts/key/p.json"
    path = "v0001/shards/wiki.arrow/train-00000.arrow"
    assert layout.origins_path(path) == "v0001/origins/wiki.arrow/train-00000.parquet"


@pytest.mark.parametrize("end", ["", "/"])
def test_names_and_parents(end: str) -> None:
    url = f"s3://bucket/a/b/c.json{end}"
    assert layout.name_of(url) == "c.json"
    assert layout.parent_of(url) == "s3://bucket/a/b"
    assert layout.parent_of(url, 2) == "s3://bucket/a"
