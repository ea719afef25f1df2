"""Versions checked against their manifests, damaged files made again, and exported."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from base import files, manifest
from base.errors import UserError
from base.layout import origins_path
from pipelines.config import Config
from pipelines.corpus.versions.verify import Damage, open_versions, read_shard, verify
from pipelines.corpus.views.export import ExportedPair, export
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent
from tests.helpers import builds
from tests.helpers.builds import config, documents, refresh, run, version_bytes, write
from tests.helpers.indexed import read_indexed


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A project with a version and its refresh."""
    folder = tmp_path_factory.mktemp("verify")
    raw = folder / "raw"
    write(raw / "books" / "0.jsonl", documents(1, 60))
    write(raw / "web" / "0.jsonl", documents(3, 60))
    settings = config(raw, folder / "project")
    run(settings)
    write(raw / "web" / "1.jsonl", documents(7, 30))
    refresh(settings)
    return settings


@pytest.fixture
def project(built: Config, tmp_path: Path) -> Iterator[Config]:
    """The project, and its bytes put back after the test."""
    kept = tmp_path / "kept"
    shutil.copytree(built.storage, kept)
    yield built
    shutil.rmtree(built.storage)
    shutil.copytree(kept, built.storage)


def check(settings: Config, name: str = "v*") -> list[Damage]:
    versions, damage = open_versions(manifest.manifest_urls(settings.storage, name))
    return damage + verify(versions, executor=InProcess(), progress=silent)


def mend(settings: Config) -> list[Damage]:
    versions, damage = open_versions(manifest.manifest_urls(settings.storage))
    damage += verify(versions, executor=InProcess(), progress=silent)
    return builds.mended(settings, versions, damage)


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damage_is_named_and_made_again(project: Config) -> None:
    assert check(project) == []
    versions = Path(project.storage, "corpus", "versions")
    before = {name: version_bytes(manifest.require(project.storage, name)) for name in ("v0001", "v0002")}
    first, second = (
        manifest.require(project.storage, name).manifest.to_json() for name in ("v0001", "v0002")
    )
    flipped = first["shards"][0]["path"]
    gone = second["shards"][-1]["path"]
    assert gone.startswith("v0002/")
    origins = origins_path(first["shards"][1]["path"])
    flip(versions / flipped)
    (versions / gone).unlink()
    flip(versions / origins)
    flip(versions / "v0001/tokenizer.json")
    (versions / "v0001/dropped/duplicates.parquet").unlink()
    expected = {flipped, gone, origins, "v0001/tokenizer.json", "v0001/dropped/duplicates.parquet"}
    damage = check(project)
    assert {item.path for item in damage} == expected
    problems = {item.path: item.problem for item in damage}
    assert "its digest is" in problems[flipped]
    assert "is missing" in problems[gone]
    assert {item.path for item in check(project, "v0001")} == expected - {gone}
    assert mend(project) == []
    assert check(project) == []
    after = {name: version_bytes(manifest.require(project.storage, name)) for name in ("v0001", "v0002")}
    assert after == before
    assert not Path(project.storage, "corpus/work/rebuild/v0001").exists()


def test_without_the_work_folder_only_the_needed_parts_are_tokenized(project: Config) -> None:
    corpus = Path(project.storage, "corpus")
    shard = next(
        corpus / "versions" / line["path"]
        for line in manifest.require(project.storage, "v0001").manifest.to_json()["shards"]
        if line["source"] == "books"
    )
    before = shard.read_bytes()
    shutil.rmtree(corpus / "work")
    # One part must be measured again too.
    shutil.rmtree(corpus / "documents")
    shard.unlink()
    assert mend(project) == []
    assert shard.read_bytes() == before
    assert len(list(corpus.glob("work/tokens/*/*/*.json"))) == 1
    assert not list(corpus.glob("work/tokenizer/*"))


def test_what_cannot_be_made_again_is_refused(project: Config) -> None:
    corpus = Path(project.storage, "corpus")
    version = manifest.require(project.storage, "v0001")
    content = version.manifest.to_json()
    line = content["shards"][0]
    shard = corpus / "versions" / line["path"]
    original = shard.read_bytes()
    line["digest"] = "0" * 32
    files.write_json(version.manifest_url, content)
    damage = mend(project)
    assert {item.path for item in damage} == {line["path"], "v0002/manifest.json"}
    problems = " ".join(item.problem for item in damage)
    assert "it was not replaced" in problems
    assert "the manifest of its parent v0001 is not the one it was made from" in problems
    assert shard.read_bytes() == original
    shutil.rmtree(corpus / "documents")
    raw = Path(project.sources[0].urls[0]).parent / "0.jsonl"
    text = raw.read_text()
    try:
        raw.write_text(text + json.dumps({"text": "another"}) + "\n")
        with pytest.raises(UserError, match=r"books/0\.jsonl is not what v0001 was made from"):
            mend(project)
    finally:
        raw.write_text(text)


def test_a_manifest_that_disagrees_with_itself(project: Config) -> None:
    version = manifest.require(project.storage, "v0002")
    original = version.manifest.to_json()
    wrong = json.loads(json.dumps(original))
    wrong["sources"]["books"]["tokens"] += 1
    wrong["config"]["shard"]["seed"] += 1
    wrong["ledger"]["web"][-1]["documents_out"] -= 1
    wrong["shards"][0]["documents"] += 1
    files.write_json(version.manifest_url, wrong)
    problems = " ".join(item.problem for item in check(project, "v0002"))
    assert "tokens of books are not the sum of its shards" in problems
    assert "config_hash" in problems
    assert "ledger does not balance" in problems
    assert "the shards it has from v0001 are not those of v0001" in problems
    assert "documents, the manifest says" in problems
    Path(version.manifest_url).write_text("{")
    (damage,) = check(project)
    assert damage.path == "v0002/manifest.json"


def test_an_export_holds_the_documents_of_every_shard(built: Config, tmp_path: Path) -> None:
    version = manifest.require(built.storage)
    versions = str(Path(version.url).parent)

    def exported(sources: list[str], split: str) -> list[ExportedPair]:
        return export(
            version,
            str(tmp_path),
            sources=sources,
            splits=[split],
            progress=silent,
            executor=InProcess(),
        )

    pairs = exported([], "train")
    assert [Path(pair.path).name for pair in pairs] == ["books-train", "web-train"]
    for pair in pairs:
        name = Path(pair.path).name.removesuffix("-train")
        shards = [
            shard for shard in version.manifest.shards if (shard.source, shard.split) == (name, "train")
        ]
        expected = [ids for shard in shards for ids in read_shard(versions, shard)["input_ids"].to_pylist()]
        sequences, first = read_indexed(pair.path)
        assert [sequence.tolist() for sequence in sequences] == expected
        assert first.tolist() == np.arange(len(expected) + 1).tolist()
        assert pair.documents == len(expected) == sum(shard.documents for shard in shards)
    heldout = export(
        version, str(tmp_path), sources=["books"], splits=["heldout"], progress=silent, executor=InProcess()
    )
    assert [Path(pair.path).name for pair in heldout] == ["books-heldout"]
    with pytest.raises(UserError, match="--source poems: v0002 has books, web"):
        export(
            version, str(tmp_path), sources=["poems"], splits=["train"], progress=silent, executor=InProcess()
        )
