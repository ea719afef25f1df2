"""The corpus build on a real Ray cluster: the same bytes however it is run, and nothing is lost."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from base import files, manifest
from base.errors import UserError
from pipelines.corpus.ledger import Ledger, LedgerError
from pipelines.corpus.stages.losses import SourceLossError
from pipelines.corpus.stages.measure import PartCounts
from pipelines.corpus.versions import commands
from pipelines.corpus.versions.verify import verify
from pipelines.corpus.views import explain
from pipelines.runtime.executor import InProcess, OnRay
from pipelines.runtime.progress import silent
from tests.helpers import manifests
from tests.helpers.builds import config, documents, refresh, run, version_bytes, write


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    write(folder / "books" / "0.jsonl", documents(1, 60))
    write(folder / "books" / "1.jsonl", documents(2, 50) + documents(1, 5))
    write(folder / "web" / "0.jsonl", [*documents(3, 40), *documents(1, 9), "", "short"])
    (folder / "web" / "1.jsonl").write_text('{"text": "not closed\n{"no_text": 1}\n')
    (folder / "web" / "2.jsonl").write_bytes(b"")
    return folder


def test_conservation_drops_and_rejects(raw: Path, tmp_path: Path) -> None:
    outcome = run(config(raw, tmp_path / "a"))
    content = manifests.content(outcome.version)
    ledger = Ledger.from_json(content["ledger"])
    ledger.check()
    books, web = ledger.sources["books"], ledger.sources["web"]
    assert books["read"].documents_in == 115
    assert books["read"].bytes_in == sum(path.stat().st_size for path in (raw / "books").iterdir())
    assert web["read"].bytes_in == sum(path.stat().st_size for path in (raw / "web").iterdir())
    assert web["read"].dropped.keys() == {"invalid_json", "missing_text"}
    assert web["normalise"].dropped["empty_text"]["documents"] == 1
    assert sum(entry["documents"] for entry in web["quality"].dropped.values()) == 1
    kept = sum(stages["tokenize"].documents_out for stages in ledger.sources.values())
    assert kept == sum(line["documents"] for line in content["shards"])
    texts = documents(1, 60) + documents(2, 50) + documents(3, 40)
    assert kept <= len(set(texts))
    rejects = pq.read_table(f"{outcome.version.url}/rejects.parquet").to_pylist()
    found = {(Path(row["file"]).name, row["record"], row["reason"]) for row in rejects}
    assert found == {
        ("1.jsonl", 0, "invalid_json"),
        ("1.jsonl", 1, "missing_text"),
        ("0.jsonl", 49, "empty_text"),
    }
    duplicates = pq.read_table(f"{outcome.version.url}/dropped/duplicates.parquet").to_pylist()
    assert {row["reason"] for row in duplicates} == {"exact_duplicate", "near_duplicate"}
    # Books have priority: no document of books gives way to one of web.
    assert web["exact"].documents_dropped >= 9
    report = Path(outcome.version.url, "report.html").read_text()
    assert "invalid_json" in report
    # The summary names a source of which nothing is left, too.
    del content["sources"]["web"]
    assert "  web                             53 records in" in "\n".join(commands.summary(outcome))


def test_the_same_bytes_for_any_workers_and_any_order_of_files(
    raw: Path, tmp_path: Path, ray_cluster: None
) -> None:
    books = [f"{raw}/books/{number}.jsonl" for number in range(2)]
    first = run(config(raw, tmp_path / "a", f"sources.0.urls={books}")).version
    backwards = config(raw, tmp_path / "b", f"sources.0.urls={books[::-1]}")
    second = run(backwards, OnRay(workers=2)).version
    one = version_bytes(first)
    assert version_bytes(second) == one
    assert second.hash == first.hash
    ranges = run(config(raw, tmp_path / "c", "ingest.split_bytes=4096"), OnRay(workers=2)).version
    three = version_bytes(ranges)
    same = {name for name in one if one[name] == three.get(name)}
    assert {name for name in one if "shards/" in name} | {"tokenizer.json", "rejects.parquet"} <= same
    assert ranges.manifest.to_json()["ledger"] == first.manifest.to_json()["ledger"]
    assert len(manifests.content(ranges)["inputs"]) > 2 * len(manifests.content(first)["inputs"])
    # The names of parts, and rows within them, are all that ranges change.
    for name in one:
        if name.endswith(".parquet") and name not in manifests.TABLES.values():
            tables = [pq.read_table(f"{version.url}/{name}") for version in (first, ranges)]
            columns = [name for name in tables[0].column_names if name not in ("part", "row", "cluster")]
            assert sorted(map(repr, tables[0].select(columns).to_pylist())) == sorted(
                map(repr, tables[1].select(columns).to_pylist())
            )


def test_a_second_run_repeats_nothing(raw: Path, tmp_path: Path) -> None:
    settings = config(raw, tmp_path / "a")
    first = run(settings)
    stamps = {
        path: path.stat().st_mtime_ns
        for path in Path(settings.storage, "corpus").rglob("*")
        if path.is_file()
    }
    again = run(settings)
    assert first.new
    assert not again.new
    assert again.version.hash == first.version.hash
    after = {path: path.stat().st_mtime_ns for path in stamps}
    assert {path.name for path in stamps if stamps[path] != after[path]} <= {"inputs.json"}


def test_a_changed_threshold_measures_nothing_again(raw: Path, tmp_path: Path) -> None:
    run(config(raw, tmp_path / "a"))
    folder = Path(tmp_path / "a" / "corpus")
    before = {path: path.stat().st_mtime_ns for path in (folder / "documents").rglob("*.arrow")}
    outcome = run(config(raw, tmp_path / "a", "quality.basic.min_words=40"))
    assert outcome.version.name == "v0002"
    assert {path: path.stat().st_mtime_ns for path in (folder / "documents").rglob("*.arrow")} == before
    dropped = sum(
        entry["documents"]
        for stages in outcome.version.manifest.to_json()["ledger"].values()
        for stage in stages
        if stage["stage"] == "quality"
        for entry in stage["dropped"].values()
    )
    assert dropped > 10


def test_refresh_reads_new_files_alone_and_keeps_the_old_documents(raw: Path, tmp_path: Path) -> None:
    settings = config(raw, tmp_path / "a")
    first = run(settings).version
    assert not refresh(settings).new
    fresh = documents(7, 30)
    write(raw / "web" / "9.jsonl", fresh + documents(1, 20) + [documents(2, 1)[0] + " extra"])
    outcome = refresh(settings)
    second = outcome.version
    assert outcome.new
    assert second.name == "v0002"
    assert second.manifest.to_json()["parent_manifest_hash"] == first.hash
    assert (
        manifests.content(second)["shards"][: len(manifests.content(first)["shards"])]
        == manifests.content(first)["shards"]
    )
    assert second.manifest.to_json()["tokenizer"] == first.manifest.to_json()["tokenizer"]
    ledger = Ledger.from_json(second.manifest.to_json()["ledger"])
    assert ledger.sources.keys() == {"web"}
    assert ledger.sources["web"]["read"].documents_in == 51
    added = [line for line in manifests.content(second)["shards"] if line["version"] == "v0002"]
    assert sum(line["documents"] for line in added) <= len(set(fresh))
    duplicates = pq.read_table(f"{second.url}/dropped/duplicates.parquet").to_pylist()
    assert sum(row["kept_version"] == "v0001" for row in duplicates) >= 18
    assert manifest.latest(settings.storage) == second
    # The same sources now are the refreshed version: nothing to build, nothing to refresh.
    assert not run(settings).new
    assert not refresh(settings).new
    assert version_bytes(first) == version_bytes(manifest.open_version(first.url))


def test_weights_of_the_mixture_or_epochs_times_tokens_are_in_manifest_and_report(
    raw: Path, tmp_path: Path
) -> None:
    weighted = run(config(raw, tmp_path / "a", "mixture={books: 3, web: 1}")).version.manifest.to_json()[
        "sources"
    ]
    assert {name: facts["weight"] for name, facts in weighted.items()} == {"books": 3, "web": 1}
    outcome = run(config(raw, tmp_path / "a", "mixture_epochs={books: 2, web: 0.5}"))
    sources = outcome.version.manifest.to_json()["sources"]
    assert outcome.new
    assert sources["books"]["weight"] == 2 * sources["books"]["tokens"]
    assert sources["web"]["weight"] == 0.5 * sources["web"]["tokens"]
    page = Path(outcome.version.url, "report.html").read_text()
    assert "share of the mixture" in page
    assert "No mixture is configured" not in page


def test_many_indexes_become_one_that_finds_the_same(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for most in (8, 1):
        monkeypatch.setattr("pipelines.corpus.versions.indexes.MAX_INDEXES", most)
        storage = tmp_path / f"most-{most}"
        settings = config(tmp_path / f"raw-{most}", storage)
        shutil.copytree(raw, tmp_path / f"raw-{most}")
        run(settings)
        for number in (8, 9):
            texts = documents(number, 20) + documents(number - 1, 9) + documents(1, 9)
            write(tmp_path / f"raw-{most}" / "web" / f"{number}.jsonl", texts)
            version = refresh(settings).version
            assert len(version.manifest.to_json()["indexes"]) == (1 if most == 1 else number - 6)
        rows = pq.read_table(f"{version.url}/dropped/duplicates.parquet").to_pylist()
        names = ("document_id", "kept_id", "kept_version", "similarity")
        found[most] = sorted([row[name] or "" for name in names[:3]] + [row["similarity"]] for row in rows)
        assert explain.explain(version, rows[0]["document_id"].hex())[-1]
    assert found[1] == found[8] and {row[2] for row in found[1]} >= {"v0001", "v0002"}


def test_a_source_that_loses_too_much_stops_the_build(raw: Path, tmp_path: Path) -> None:
    settings = config(raw, tmp_path / "a", "sources.1.max_loss=0.1")
    with pytest.raises(
        SourceLossError, match=r"source web loses \d+% of its \d+ documents in stage exact"
    ) as error:
        run(settings)
    assert "0.jsonl" in str(error.value)
    rejected = config(raw, tmp_path / "a", "sources.1.text_field=content")
    with pytest.raises(SourceLossError, match=r"web loses 100% of its 53 documents in stage read") as error:
        run(rejected)
    assert f"examples: record 0 of {raw}/web/0.jsonl (missing_text); record 1 of" in str(error.value)
    write(raw / "blank" / "0.jsonl", [" "] * 9)
    blank = config(raw, tmp_path / "a", f"sources.1.urls=[{raw}/blank/0.jsonl]")
    with pytest.raises(SourceLossError, match=r"in stage normalise \(empty_text 9\).*record 0 of"):
        run(blank)
    assert manifest.latest(settings.storage) is None


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        ("quality", ["quality.basic.min_words=1000"]),
        ("fuzzy", ["dedup.exact=false", "sources.0.max_loss=0.05"]),
        ("decontaminate", ["decontaminate.benchmarks=[{name: quiz, urls: [RAW/books]}]"]),
    ],
)
def test_a_loss_in_any_stage_stops_the_build(
    stage: str, overrides: list[str], raw: Path, tmp_path: Path
) -> None:
    settings = config(raw, tmp_path / "a", *(override.replace("RAW", str(raw)) for override in overrides))
    with pytest.raises(SourceLossError, match=rf"source books loses \d+% .* in stage {stage} \(") as error:
        run(settings)
    assert f"of {raw}/books/" in str(error.value)
    assert manifest.latest(settings.storage) is None


def test_a_source_of_which_the_edits_leave_nothing_leaves_the_others(raw: Path, tmp_path: Path) -> None:
    benchmark = f"decontaminate.benchmarks=[{{name: quiz, urls: [{raw}/books]}}]"
    version = run(config(raw, tmp_path / "a", benchmark, "sources.0.max_loss=1.0")).version
    assert {shard.source for shard in version.shards} == {"web"} == set(version.manifest.sources)
    ledger = Ledger.from_json(version.manifest.ledger)
    books = ledger.stage("books", "decontaminate")
    assert books.documents_in > 40 and books.documents_out == books.bytes_out == 0
    assert ledger.stage("web", "tokenize").documents_out > 20
    assert verify([version], executor=InProcess(), progress=silent) == []


def test_a_corpus_without_documents_is_a_mistake(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(
        raw,
        tmp_path / "a",
        f"sources=[{{name: web, urls: [{raw}/web/*.jsonl], text_field: content, max_loss: 1, "
        "kinds: {Novels: prose, web: prose}}]",
    )
    with pytest.raises(UserError, match=r"no document is left .* 53 records, and .* dropped: read 53$"):
        run(settings)
    assert "kinds of source web: no record is named novels" in caplog.messages
    assert manifest.latest(settings.storage) is None


def test_mistakes_are_one_sentence(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mixture.poems: there is no such source; the sources are books, web"):
        run(config(raw, tmp_path / "a", "mixture={poems: 1.0}"))
    settings = config(raw, tmp_path / "b")
    with pytest.raises(UserError, match="no corpus version; run jobs.prepare"):
        refresh(settings)
    run(settings)
    changed = config(raw, tmp_path / "b", "dedup.threshold=0.7")
    with pytest.raises(UserError, match="dedup changed"):
        refresh(changed)
    with pytest.raises(UserError, match="no file matches"):
        commands.inputs_of(config(raw, tmp_path / "b", f"sources.0.urls=[{raw}/none/*]"))
    (tmp_path / "b" / "corpus" / "versions" / "v0001" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="not a corpus manifest"):
        manifest.require(settings.storage)
    with pytest.raises(UserError, match="not a corpus version"):
        manifest.require(settings.storage, "v0007")


def test_a_ledger_that_does_not_balance_fails_the_build(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(raw, tmp_path / "a")
    run(settings)
    parts = Path(settings.storage, "corpus", "parts").rglob("*.json")
    # One of the files is empty.
    part, counts = next((part, counts) for part in parts if (counts := PartCounts.read(str(part))).ledger)
    for stage in next(iter(counts.ledger.values())):  # they balance, and are not what the part holds
        stage["bytes_in"] += 1
        stage["bytes_out"] += 1
    counts.write(str(part))
    with pytest.raises(LedgerError, match=r"normalise let out .* but quality took in"):
        run(config(raw, tmp_path / "a", "quality.basic.min_words=4"))


def test_a_version_of_schema_1_is_read_checked_and_refreshed(raw: Path, tmp_path: Path) -> None:
    settings = config(raw, tmp_path / "a")
    first = run(settings).version
    content = {**manifests.content(first), "schema": 1}
    for name in ("shard_count", "input_count"):
        del content[name]
    for path in manifests.TABLES.values():
        del content["files"][path]
        Path(first.file(path)).unlink()
    Path(first.manifest_url).write_bytes(files.json_bytes(content))
    old = manifest.require(settings.storage)
    assert (old.shards, old.inputs) == (first.shards, first.inputs)
    assert not run(settings).new
    write(raw / "web" / "later.jsonl", documents(9, 30))
    second = refresh(settings).version
    assert second.manifest.parent_manifest_hash == old.hash
    assert second.shards[: len(old.shards)] == old.shards and second.own_shards
    versions = manifest.versions(settings.storage)
    assert verify(versions, executor=InProcess(), progress=silent) == []


def test_a_manifest_does_not_grow_with_the_number_of_shards(raw: Path, tmp_path: Path) -> None:
    few = run(config(raw, tmp_path / "a", "shard.target_tokens=100000")).version
    many = run(config(raw, tmp_path / "b", "shard.target_tokens=1024")).version
    assert many.manifest.shard_count > 2 * few.manifest.shard_count
    assert abs(files.size(many.manifest_url) - files.size(few.manifest_url)) < 100
