"""Two corpora with an overlap become one, by their indexes, as a person would join them by hand."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from base import files, manifest
from base.errors import UserError
from base.layout import origins_path
from base.manifest import Version
from model.corpus import Corpus
from model.loader import Loader
from pipelines.config import Config
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.stages.indexes import deduplicate_indexes
from pipelines.corpus.versions import commands, merge
from pipelines.corpus.versions.verify import Damage, read_shard, verify
from pipelines.corpus.views.explain import explain
from pipelines.runtime import tracking
from pipelines.runtime.executor import Executor, InProcess, OnRay
from pipelines.runtime.progress import Progress, silent
from tests.helpers import builds, manifests
from tests.helpers.builds import config, documents, refresh, run, version_bytes, write

PUBLIC = [f"{documents(50 + number, 1)[0]} {number}" for number in range(12)]
"""Texts of a file that both corpora read; mine leaves out the short ones, theirs what is longer."""
SHORT = [" ".join(text.split()[:12]) for text in documents(70, 5)]


def mine_of(folder: Path, *overrides: str) -> Config:
    """The configuration of the corpus that another joins: sources books and web."""
    return config(folder / "mine-raw", folder / "mine", "quality.basic.min_words=15", *overrides)


def theirs_of(folder: Path, *overrides: str) -> Config:
    """The configuration of the other corpus, of sources news (below `books`) and web."""
    tokenizer = (folder / "mine-raw").resolve().parent / "mine/corpus/versions/v0001/tokenizer.json"
    return config(
        folder / "theirs-raw",
        folder / "theirs",
        "sources.0.name=news",
        f"sources.1.urls=[{folder}/theirs-raw/web/*.jsonl, {folder}/mine-raw/web/public.jsonl]",
        f"tokenize.tokenizer={tokenizer}",
        "ingest.max_document_bytes=2000",
        "shard.seed=5",
        *overrides,
    )


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished corpora, `mine` and `theirs`."""
    folder = tmp_path_factory.mktemp("merge")
    long = " ".join(documents(90, 12))
    write(folder / "mine-raw/books/0.jsonl", documents(1, 60))
    write(folder / "mine-raw/web/0.jsonl", documents(2, 50))
    write(folder / "mine-raw/web/public.jsonl", [long, *SHORT, *PUBLIC])
    mixed = documents(3, 40) + documents(1, 20) + [text + " at the end" for text in documents(2, 12)]
    write(folder / "theirs-raw/books/0.jsonl", mixed)
    write(folder / "theirs-raw/books/1.jsonl", documents(4, 45))
    write(folder / "theirs-raw/web/0.jsonl", documents(2, 15) + documents(5, 30))
    run(mine_of(folder))
    run(theirs_of(folder))
    return folder


@pytest.fixture
def project(corpora: Path, tmp_path: Path) -> Path:
    """A copy of the folder with both corpora; their indexes name the documents files of the first one."""
    for name in ("mine", "theirs"):
        shutil.copytree(corpora / name, tmp_path / name)
    for name in ("mine-raw", "theirs-raw"):
        (tmp_path / name).symlink_to(corpora / name)
    return tmp_path


def joined(
    folder: Path, *overrides: str, progress: Progress = silent, executor: Executor | None = None
) -> commands.Outcome:
    return builds.merge(mine_of(folder, *overrides), str(folder / "theirs"), executor, progress)


def mended(settings: Config, damage: list[Damage]) -> list[Damage]:
    return builds.mended(settings, manifest.versions(settings.storage), damage)


def check(settings: Config) -> list[Damage]:
    return verify(manifest.versions(settings.storage), executor=InProcess(), progress=silent)


def rows(version: Version, of: str | None = None) -> dict[bytes, dict]:
    """Rows of the origins by document id, with the source and text, of all shards or those of one version."""
    found = {}
    folder = version.url.rsplit("/", 1)[0]
    for line in manifests.content(version)["shards"]:
        if of in (None, line["version"]):
            for row in pq.read_table(f"{folder}/{origins_path(line['path'])}").to_pylist():
                text = json.loads(Path(row["file"]).read_text().splitlines()[row["record"]])["text"]
                found[row["document_id"]] = {**row, "source": line["source"], "text": text}
    return found


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return {tuple(words[first : first + 5]) for first in range(max(len(words) - 4, 1))}


def similarity(one: str, other: str) -> float:
    left, right = shingles(one), shingles(other)
    return len(left & right) / len(left | right)


def test_the_documents_that_only_the_other_holds_are_added(project: Path) -> None:
    first = manifest.require(str(project / "mine"))
    other = manifest.require(str(project / "theirs"))
    outcome = joined(project)
    version = outcome.version
    assert outcome.new and version.name == "v0002" and manifest.latest(str(project / "mine")) == version
    assert version.manifest.to_json()["parent_manifest_hash"] == first.hash
    assert version.manifest.to_json()["merged"] == {
        "url": other.url,
        "version": "v0001",
        "manifest_hash": other.hash,
    }
    assert (
        manifests.content(version)["shards"][: len(manifests.content(first)["shards"])]
        == manifests.content(first)["shards"]
    )
    # The survivors of a comparison of every text with every other.
    mine, theirs, added = rows(first), rows(other), rows(version, "v0002")
    best = {
        key: max((similarity(row["text"], old["text"]), old["document_id"]) for old in mine.values())
        for key, row in theirs.items()
    }
    threshold = mine_of(project).dedup.threshold
    assert added.keys() == {key for key, (value, _) in best.items() if value < threshold}
    assert {row["source"] for row in added.values()} == {"news", "web"}
    dropped = pq.read_table(f"{version.url}/dropped/duplicates.parquet").to_pylist()
    assert {row["document_id"] for row in dropped} == theirs.keys() - added.keys()
    assert {row["reason"] for row in dropped} == {"exact_duplicate", "near_duplicate"}
    assert {row["kept_version"] for row in dropped} == {"v0001"}
    for row in dropped:
        assert row["kept_id"] in mine
        found = similarity(theirs[row["document_id"]]["text"], mine[row["kept_id"]]["text"])
        assert row["similarity"] == pytest.approx(found)
        assert row["similarity"] == 1 or row["reason"] == "near_duplicate"
        assert row["bytes"] == theirs[row["document_id"]]["bytes"]
    # What entered is in the new shards or in the table, source by source.
    ledger = Ledger.from_json(version.manifest.to_json()["ledger"])
    ledger.check()
    assert ledger.sources.keys() == {"news", "web"}
    for name, stages in ledger.sources.items():
        entered = [row for row in theirs.values() if row["source"] == name]
        stayed = [row for row in added.values() if row["source"] == name]
        assert stages["read"].documents_in == len(entered)
        assert stages["read"].bytes_in == sum(row["bytes"] for row in entered)
        assert stages["fuzzy"].documents_out == len(stayed)
        assert stages["fuzzy"].bytes_out == sum(row["bytes"] for row in stayed)
    sources = version.manifest.to_json()["sources"]
    for name in ("books", "news", "web"):
        of = [content.manifest.to_json()["sources"].get(name, {"documents": 0}) for content in (first, other)]
        assert sources[name]["documents"] <= sum(facts["documents"] for facts in of)
    assert check(mine_of(project)) == []


def test_tokens_order_and_split_are_those_of_the_other_corpus(project: Path) -> None:
    version, other = joined(project).version, manifest.require(str(project / "theirs"))
    tokens: dict[tuple[str, str], list[tuple[bytes, list[int]]]] = {}
    for content, name in ((other, "v0001"), (version, "v0002")):
        tokens.clear() if content is version else None
        for shard in content.shards:
            if shard.version == name:
                table = read_shard(content.versions_url, shard)
                rows = zip(table["document_id"].to_pylist(), table["input_ids"].to_pylist(), strict=True)
                tokens.setdefault((shard.source, shard.split), []).extend(rows)
        if content is other:
            theirs = dict(tokens)
    assert {split for _, split in tokens} == {"train", "heldout"}
    for group, pairs in tokens.items():
        added = {key for key, _ in pairs}
        assert pairs == [pair for pair in theirs[group] if pair[0] in added]


def test_the_same_bytes_for_any_number_of_workers_and_after_every_interruption(
    project: Path, tmp_path: Path, ray_cluster: None
) -> None:
    class Interrupted(Exception):
        """As if the command had been killed."""

    whole = version_bytes(joined(project, executor=OnRay(workers=2)).version)
    shutil.rmtree(project / "mine")
    shutil.copytree(Path(project / "mine-raw").resolve().parent / "mine", project / "mine")
    stops = iter([("dedup entries", 1), ("dedup edges", 1), ("shard", 2), ("index bands", 3)])
    stop = next(stops, None)
    finished: dict[Path, int] = {}
    while stop is not None:

        def progress(stage: str, done: int, *_: int, at: tuple[str, int] = stop) -> None:
            if (stage, done) == at:
                raise Interrupted

        with pytest.raises(Interrupted):
            joined(project, progress=progress)
        assert len(manifest.versions(str(project / "mine"))) == 1
        assert {path: path.stat().st_mtime_ns for path in finished if path.exists()} == {
            path: stamp for path, stamp in finished.items() if path.exists()
        }
        for folder in ("work/merge", "versions/v0002", "index"):
            for path in Path(project, "mine/corpus", folder).rglob("*"):
                if path.is_file():
                    finished[path] = path.stat().st_mtime_ns
        stop = next(stops, None)
    assert any(path.suffix == ".arrow" for path in finished)
    assert version_bytes(joined(project).version) == whole


def test_the_same_corpus_again_is_found_and_one_that_adds_nothing_makes_no_version(project: Path) -> None:
    merged = joined(project).version
    before = sorted(Path(project / "mine/corpus").rglob("*"))
    again = joined(project)
    assert not again.new and again.version.hash == merged.hash
    assert sorted(Path(project / "mine/corpus").rglob("*")) == before
    # The other corpus joined with the merged one gets what it lacks; the merged one then gets nothing.
    settings = theirs_of(project)
    outcome = builds.merge(settings, str(project / "mine"))
    assert outcome.new
    nothing = joined(project)
    assert not nothing.new and nothing.version.hash == merged.hash
    assert len(manifest.versions(str(project / "mine"))) == 2
    page = Path(merged.url, "report.html").read_text()
    assert f"made from v0001 and {manifest.require(str(project / 'theirs'), 'v0001').url}" in page
    run_of = tracking.find(tracking.Tracking.of(mine_of(project)), "merge", corpus=merged.hash)
    assert run_of is not None
    tags = run_of.data.tags
    assert tags["piledriver.merged_corpus"] == merged.manifest.to_json()["merged"]["manifest_hash"]
    assert tags["piledriver.parent_corpus"] == merged.manifest.to_json()["parent_manifest_hash"]


def test_documents_of_a_merge_are_explained(project: Path) -> None:
    version = joined(project).version
    added = rows(version, "v0002")
    identifier, row = next(item for item in added.items() if item[1]["text"] in SHORT)
    text = "\n".join(explain(version, identifier.hex()))
    assert f"from {row['file']}, record {row['record']}" in text
    assert "kept in v0002, in v0002/shards/web/" in text
    for gone in pq.read_table(f"{version.url}/dropped/duplicates.parquet").to_pylist():
        text = "\n".join(explain(version, gone["document_id"].hex()))
        if gone["kept_id"] == gone["document_id"]:
            assert "kept in v0001" in text and "read again in v0002 from" in text
        else:
            assert f"of document {gone['kept_id'].hex()} of v0001" in text
        assert "is gone" not in text
        if gone["reason"] == "near_duplicate":
            assert "+++ this document" in text
    news = next(row for row in added.values() if row["source"] == "news")
    place = f"{'/'.join(news['file'].split('/')[-3:])}:{news['record']}"
    assert "kept in v0002" in "\n".join(explain(version, place))


def test_a_file_that_both_have_cleaned_keeps_its_rows_apart(project: Path) -> None:
    version = joined(project).version
    added = rows(version, "v0002")
    assert {row["text"] for row in added.values()} >= set(SHORT)
    places = {(row["part"], row["row"]) for row in rows(version).values()}
    assert len(places) == len(rows(version))
    parts = {row["part"] for row in added.values()}
    assert parts <= {item["part"] for item in manifests.content(version)["inputs"]}
    # The merged corpus against the other: every document of the other is one of its own, by its right text.
    settings = mine_of(project)
    other = manifest.require(str(project / "theirs"))
    outcome = deduplicate_indexes(
        version.indexes,
        other.indexes,
        work=str(project / "against"),
        config=settings.dedup,
        executor=InProcess(),
        progress=silent,
    )
    found = [row for url in outcome.dropped for row in files.read_parquet(url).to_pylist()]
    ids = {row["document_id"] for row in found if row["similarity"] == 1}
    assert added.keys() <= ids


def test_a_merged_corpus_is_refreshed_and_read_for_training(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.corpus.versions.indexes.MAX_INDEXES", 1)
    merged = joined(project, "mixture={books: 1, web: 2, news: 3}").version
    assert len(merged.manifest.to_json()["indexes"]) == 1
    assert {name: facts["weight"] for name, facts in merged.manifest.to_json()["sources"].items()} == {
        "books": 1,
        "web": 2,
        "news": 3,
    }
    Path(project / "mine-raw").unlink()
    write(project / "mine-raw/books/0.jsonl", documents(1, 60))
    write(project / "mine-raw/books/9.jsonl", documents(4, 30) + documents(9, 20))
    write(project / "mine-raw/web/0.jsonl", documents(2, 50))
    settings = mine_of(project)
    version = refresh(settings).version
    assert version.name == "v0003" and "merged" not in version.manifest.to_json()
    dropped = pq.read_table(f"{version.url}/dropped/duplicates.parquet").to_pylist()
    assert sum(row["kept_version"] == "v0002" for row in dropped) >= 20
    assert check(settings) == []
    corpus = Corpus.open(version.manifest_url, verify=True)
    loader = Loader(corpus, 32, seed=1, weights={"books": 1.0, "web": 1.0, "news": 1.0})
    assert loader.batch(0, 16).shape == (16, 33)
    assert "news" in {span.source for sample in range(16) for span in loader.trace(sample)}


def test_damaged_files_of_a_merge_are_made_again(project: Path) -> None:
    settings = mine_of(project)
    version = joined(project).version
    before = version_bytes(version)
    own = [line for line in manifests.content(version)["shards"] if line["version"] == "v0002"]
    shard = Path(project, "mine/corpus/versions", own[-1]["path"])
    shard.write_bytes(shard.read_bytes()[:-50])
    damage = check(settings)
    assert [item.path for item in damage] == [own[-1]["path"]]
    assert mended(settings, damage) == []
    shutil.rmtree(project / "mine/corpus/work")
    Path(project, "mine/corpus/versions", origins_path(own[0]["path"])).unlink()
    Path(version.url, "dropped/duplicates.parquet").unlink()
    damage = check(settings)
    assert len(damage) == 2
    assert mended(settings, damage) == []
    assert check(settings) == []
    assert version_bytes(version) == before
    shard.unlink()
    shutil.rmtree(project / "theirs")
    with pytest.raises(UserError, match=r"v0002 was merged from .*/theirs/corpus/versions/v0001, which is"):
        mended(settings, check(settings))


def test_mistakes_are_one_sentence(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the newest version of this corpus itself"):
        commands.merge_plan(mine_of(project), str(project / "mine"))
    with pytest.raises(UserError, match="none/corpus holds no corpus version"):
        commands.merge_plan(mine_of(project), str(project / "none"))
    with pytest.raises(UserError, match="a merge needs the configuration of v0001, but dedup changed"):
        joined(project, "dedup.threshold=0.7")
    with pytest.raises(UserError, match="mixture.poems: there is no such source; .* books, news, web"):
        joined(project, "mixture={poems: 1}")
    other = manifest.require(str(project / "theirs"))
    index = Path(other.indexes[0], "index.json")
    content = json.loads(index.read_text())
    content["minhash"]["ngram"] = 7
    del content["seal"]
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"dedup.minhash.ngram = 5, but the index .* was made with 7"):
        joined(project)
    facts = manifests.read_json(other.manifest_url)
    facts["tokenizer"]["sha256"] = "0" * 64
    manifests.write_json(other.manifest_url, facts)
    with pytest.raises(UserError, match=r"tokenizer of .*/theirs/.* has sha256 0+, but that of .*/mine/"):
        joined(project)
    settings = mine_of(project, "dedup.exact=false")
    parent = manifest.require(settings.storage)
    with pytest.raises(UserError, match="dedup.exact = False, but a merge needs it"):
        merge.check(settings, parent, other)
    assert np.all([version.name == "v0001" for version in manifest.versions(settings.storage)])


class Guarded(MemoryFileSystem):
    """A storage whose URLs carry a user and a password."""

    protocol = "guarded"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = MemoryFileSystem._strip_protocol(path.replace(GUARDED, ""))
        return stripped

    def unstrip_protocol(self, name: str) -> str:
        return f"{GUARDED}{self._strip_protocol(name)}"


GUARDED = "guarded://someone:s3cret@host"


def test_credentials_in_the_url_of_the_other_are_in_no_file_and_no_message(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    settings = mine_of(project)
    fsspec.filesystem("guarded").put(str(project / "theirs"), "/theirs", recursive=True)
    parent, other = commands.merge_plan(settings, f"{GUARDED}/theirs")
    assert "s3cret" in other.url
    with commands.claimed(settings, "jobs.merge") as claim:
        outcome = commands.merge(settings, parent, other, claim=claim, executor=InProcess(), progress=silent)
    assert outcome.new and outcome.version.manifest.merged is not None
    written = [path for path in (project / "mine").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"s3cret" in path.read_bytes()]
    assert "s3cret" not in caplog.text + "\n".join(commands.summary(outcome))
