"""What a power cut leaves: empty and cut files below a finished version or one that is being built."""

import shutil
from pathlib import Path

import pytest

from base import manifest
from base.errors import UserError
from pipelines.config import Config
from pipelines.corpus.versions.verify import verify
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent
from tests.helpers import builds


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of one version, and its raw files."""
    folder = tmp_path_factory.mktemp("heal")
    builds.write(folder / "raw" / "books" / "a.jsonl", builds.documents(1, 60))
    builds.write(folder / "raw" / "web" / "a.jsonl", builds.documents(2, 60))
    builds.run(builds.config(folder / "raw", folder / "storage"))
    return folder


@pytest.fixture
def corpus(built: Path) -> tuple[Config, dict[str, bytes], Path]:
    """The configuration, the bytes of the version, and the corpus' folder, each time as it was built."""
    storage = built / "storage"
    if not (built / "kept").exists():
        shutil.copytree(storage, built / "kept")
    shutil.rmtree(storage)
    shutil.copytree(built / "kept", storage)
    settings = builds.config(built / "raw", storage)
    version = manifest.require(str(storage))
    return settings, builds.version_bytes(version), storage / "corpus"


def _version(settings: Config) -> dict[str, bytes]:
    found = builds.version_bytes(manifest.require(settings.storage, "v0001"))
    return {path: content for path, content in found.items() if not path.endswith(".damaged")}


def test_every_file_empty_after_a_power_cut_is_made_again(
    corpus: tuple[Config, dict[str, bytes], Path],
) -> None:
    settings, before, folder = corpus
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert builds.run(settings).new
    assert _version(settings) == before
    assert verify([manifest.require(settings.storage)], executor=InProcess(), progress=silent) == []


def test_a_manifest_that_cannot_be_read_is_one_sentence_and_prepare_makes_it_again(
    corpus: tuple[Config, dict[str, bytes], Path],
) -> None:
    settings, before, folder = corpus
    url = folder / "versions/v0001/manifest.json"
    url.write_bytes(url.read_bytes()[:100])
    with pytest.raises(UserError, match=r"v0001/manifest.json is damaged: .*; jobs.prepare makes it again"):
        builds.refresh(settings)
    assert builds.run(settings).new
    assert _version(settings) == before
    assert url.with_name("manifest.json.damaged").stat().st_size == 100
    assert not builds.run(settings).new


def test_a_version_of_other_settings_is_left_as_it_is(
    corpus: tuple[Config, dict[str, bytes], Path],
) -> None:
    settings, before, folder = corpus
    url = folder / "versions/v0001/manifest.json"
    url.write_bytes(b"{}")
    other = builds.config(folder.parent.parent / "raw", folder.parent, "shard.heldout_fraction=0.3")
    with pytest.raises(
        UserError, match="is damaged, and v0001 is not of these sources and settings; restore"
    ):
        builds.run(other)
    found = {
        str(path.relative_to(url.parent)): path.read_bytes()
        for path in url.parent.rglob("*")
        if path.is_file()
    }
    assert found == before | {"manifest.json": b"{}"}
    assert builds.run(settings).new and _version(settings) == before


@pytest.mark.parametrize("length", [0, 20])
def test_cut_files_of_work_are_made_again(corpus: tuple[Config, dict[str, bytes], Path], length: int) -> None:
    settings, before, folder = corpus
    (folder / "versions/v0001/manifest.json").unlink()
    kinds = ("parts", "documents", "attributes", "rejects", "work")
    for path in (path for kind in kinds for path in (folder / kind).rglob("*") if path.is_file()):
        path.write_bytes(path.read_bytes()[:length])
    (folder / "inputs.json").write_bytes(b"")
    builds.run(settings)
    assert _version(settings) == before


def test_a_damaged_index_is_told_and_made_again(corpus: tuple[Config, dict[str, bytes], Path]) -> None:
    settings, _, folder = corpus
    paths = sorted(path for path in (folder / "index").rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in paths}
    for path in (*(folder / "index").glob("*/index.json"), *(folder / "index").glob("*/bands/00003.parquet")):
        path.write_bytes(path.read_bytes()[:-2])
    builds.write(folder.parent.parent / "raw" / "web" / "later.jsonl", builds.documents(7, 9))
    with pytest.raises(
        UserError, match=r"index/.* is damaged: .*; jobs.verify --rebuild makes a dedup index"
    ):
        builds.refresh(settings)
    (folder.parent.parent / "raw" / "web" / "later.jsonl").unlink()
    versions = [manifest.require(settings.storage)]
    damage = verify(versions, executor=InProcess(), progress=silent)
    assert [item.path.rsplit("/", 1)[-1] for item in damage] == ["index.json"]
    assert builds.mended(settings, versions, damage) == []
    assert {path: path.read_bytes() for path in paths} == before


def test_a_shard_without_documents_is_made_again_from_the_files_it_was_made_from(
    corpus: tuple[Config, dict[str, bytes], Path],
) -> None:
    settings, before, folder = corpus
    shutil.rmtree(folder / "documents")
    (folder / "versions/v0001/shards/web/train-00000.arrow").write_bytes(b"")
    versions = [manifest.require(settings.storage)]
    damage = verify(versions, executor=InProcess(), progress=silent)
    raw = folder.parent.parent / "raw" / "web" / "a.jsonl"
    content = raw.read_bytes()
    raw.write_bytes(content + b'{"text": "One line more."}\n')
    with pytest.raises(UserError, match=r"web/a.jsonl is not what v0001 was made from, and its documents"):
        builds.mended(settings, versions, damage)
    raw.write_bytes(content)
    assert builds.mended(settings, versions, damage) == []
    assert _version(settings) == before
