"""Versions checked against their manifests, damaged files made again, and exported."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from base import files, manifest
from base.errors import UserError
from base.layout import origins_path
from pipelines.config import Config
from pipelines.corpus.versions.verify import Damage, open_versions, read_shard, verify
from pipelines.corpus.views.export import ExportedPair, export
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent
from tests.helpers import builds, manifests
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
        manifests.content(manifest.require(project.storage, name)) for name in ("v0001", "v0002")
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
        for line in manifests.content(manifest.require(project.storage, "v0001"))["shards"]
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
    content = manifests.content(version)
    line = content["shards"][0]
    shard = corpus / "versions" / line["path"]
    original = shard.read_bytes()
    line["digest"] = "0" * 32
    manifests.write(version.manifest_url, content)
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
    original = manifests.content(version)
    wrong = json.loads(json.dumps(original))
    wrong["sources"]["books"]["tokens"] += 1
    wrong["config"]["shard"]["seed"] += 1
    wrong["ledger"]["web"][-1]["documents_out"] -= 1
    wrong["shards"][0]["documents"] += 1
    manifests.write(version.manifest_url, wrong)
    problems = " ".join(item.problem for item in check(project, "v0002"))
    assert "tokens of books are not the sum of its shards" in problems
    assert "config_hash" in problems
    assert "ledger does not balance" in problems
    assert "the shards it has from v0001 are not those of v0001" in problems
    assert "documents, the manifest says" in problems
    Path(version.manifest_url).write_text("{")
    (damage,) = check(project)
    assert damage.path == "v0002/manifest.json"


Change = Callable[[pa.Table], pa.Table]


def own_line(content: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of the last shard that its version added, which holds several documents."""
    lines: list[dict[str, Any]] = content["shards"]
    return [line for line in lines if line["version"] == content["version"]][-1]


def rewrite(project: Config, shard: Change | None = None, origins: Change | None = None) -> tuple[str, str]:
    """Change a shard or its origins of v0002, and mend their digests in the manifest; the paths of both."""
    version = manifest.require(project.storage, "v0002")
    content = manifests.content(version)
    line = own_line(content)
    paths = line["path"], origins_path(line["path"])
    for path, change, digest in zip(paths, (shard, origins), ("digest", "origins_digest"), strict=True):
        url = version.below_versions(path)
        if change is None:
            continue
        if path.endswith(".arrow"):
            with pa.memory_map(url) as file:
                table = change(pa.ipc.open_file(file).read_all())
            with files.atomic_writer(url) as stream, pa.ipc.new_file(stream, table.schema) as writer:
                writer.write_table(table)
        else:
            files.write_parquet(url, change(files.read_parquet(url)))
        line[digest] = files.digest(url)
    manifests.write(version.manifest_url, content)
    return paths


def with_ids(change: Callable[[list[list[int]]], list[list[int]]]) -> Change:
    """A change of the token ids of a shard."""

    def changed(table: pa.Table) -> pa.Table:
        ids = pa.array(change(table["input_ids"].to_pylist()), table["input_ids"].type)
        return table.set_column(0, "input_ids", ids)

    return changed


def last_token(row: int) -> Change:
    """One document ends in another token than that which ends documents."""
    return with_ids(lambda ids: [[*one[:-1], 7] if one is ids[row] else one for one in ids])


def split_first(table: pa.Table) -> pa.Table:
    """The first document ends after its first token, and a new one has the others."""
    ids, names = table["input_ids"].to_pylist(), table["document_id"].to_pylist()
    ids = [[0], ids[0][1:], *ids[1:]]
    return pa.table({"input_ids": ids, "document_id": [b"x" * 16, *names]}, schema=table.schema)


SHARDS: list[tuple[Change, str]] = [
    (with_ids(lambda ids: [ids[0][1:], *ids[1:]]), "tokens, the manifest says"),
    (with_ids(lambda ids: [*ids[:-1], [5, *ids[-1]]]), "tokens, the manifest says"),
    (last_token(0), "a document does not end in token 0"),
    (last_token(-1), "a document does not end in token 0"),
    (
        lambda table: table.set_column(0, "input_ids", table["input_ids"].cast(pa.large_list(pa.uint32()))),
        "input_ids are large_list<item: uint32>, the manifest says uint16",
    ),
    (with_ids(lambda ids: [[], [*ids[0], *ids[1]], *ids[2:]]), "a document does not end in token 0"),
    (split_first, "documents, the manifest says"),
]
"""Changes of a shard, and the one thing that is wrong then."""
ORIGINS: list[tuple[Change, str]] = [
    (lambda table: table.slice(1), "documents, the manifest says"),
    (lambda table: table.take([1, 0, *range(2, len(table))]), "its documents are not those of the shard"),
    (
        lambda table: table.set_column(
            table.schema.get_field_index("bytes"),
            "bytes",
            pc.add(table["bytes"], [1, *[0] * (len(table) - 1)]),
        ),
        "bytes of text, the manifest says",
    ),
    (lambda table: table.drop_columns(["bytes"]), "parquet file"),
]
"""Changes of a table of origins, and the one thing that is wrong then."""


@pytest.mark.parametrize(("change", "problem"), SHARDS)
def test_a_shard_whose_digest_was_mended(project: Config, change: Change, problem: str) -> None:
    path, _ = rewrite(project, shard=change)
    (damage,) = check(project)
    assert damage.path == path and problem in damage.problem


@pytest.mark.parametrize(("change", "problem"), ORIGINS)
def test_origins_whose_digest_was_mended(project: Config, change: Change, problem: str) -> None:
    _, path = rewrite(project, origins=change)
    (damage,) = check(project)
    assert damage.path == path and problem in damage.problem


def one_document_more_dropped(content: dict[str, Any]) -> None:
    """A ledger that balances, and lets out a document less than the shards hold."""
    stage = content["ledger"]["web"][-1]
    stage["documents_out"] -= 1
    stage["dropped"]["lost"] = {"documents": 1, "bytes": 0}


def bytes_that_went(content: dict[str, Any]) -> None:
    """A ledger that balances, and lets out fewer bytes than the shards hold."""
    stage = content["ledger"]["web"][-1]
    stage["bytes_out"] -= 5
    stage["bytes_delta"]["lost"] = -5


def first_shard_has_more(content: dict[str, Any]) -> None:
    """A shard of the parent that has a token more here than there, and the total of its source too."""
    line = content["shards"][0]
    line["tokens"] += 1
    content["sources"][line["source"]][f"{'heldout_' * (line['split'] == 'heldout')}tokens"] += 1


def more(*place: str | int) -> Callable[[dict[str, Any]], None]:
    """A number of a manifest is one more."""

    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] += 1

    return change


TOTALS = [f"{prefix}{unit}" for prefix in ("", "heldout_") for unit in ("documents", "tokens", "text_bytes")]
MANIFESTS: list[tuple[Callable[[dict[str, Any]], Any], list[str]]] = [
    (more("config", "shard", "seed"), ["config_hash is not the hash of its configuration"]),
    (lambda content: content.update(config_hash="0" * 16), ["config_hash is not the hash of"]),
    (lambda content: content["shards"].append(content["shards"][-1]), ["it names a shard twice"]),
    (one_document_more_dropped, ["its shards of web hold", "documents, its ledger says"]),
    (bytes_that_went, ["its shards of web hold", "text_bytes, its ledger says"]),
    (more("ledger", "web", 0, "documents_in"), ["its ledger does not balance: source web, stage read"]),
    (more("ledger", "web", 0, "bytes_in"), ["its ledger does not balance: source web, stage read"]),
    *(
        (more("sources", "books", total), [f"{total} of books are not the sum of its shards"])
        for total in TOTALS
    ),
    (
        lambda content: content["sources"].update(none={**dict.fromkeys(TOTALS, 0), "weight": None}),
        ["its sources are not those of its shards"],
    ),
    (
        lambda content: content.update(parent_manifest_hash="0" * 32),
        ["the manifest of its parent v0001 is not the one it was made from"],
    ),
    (first_shard_has_more, ["the shards it has from v0001 are not those of v0001"]),
    (
        lambda content: content["shards"].insert(0, content["shards"].pop(1)),
        ["the shards it has from v0001 are not those of v0001"],
    ),
    (lambda content: content.update(parent="v0009"), ["v0009 is not a corpus version"]),
    (lambda content: content["tokenizer"].update(sha256="0" * 64), ["its sha256 is"]),
    (more("tokenizer", "vocab_size"), ["its vocab_size is"]),
]
"""Changes of the manifest of v0002, and words of what is wrong then."""


@pytest.mark.parametrize(("change", "words"), MANIFESTS, ids=[" ".join(words) for _, words in MANIFESTS])
def test_a_manifest_of_which_one_thing_was_changed(
    project: Config, change: Callable[[dict[str, Any]], Any], words: list[str]
) -> None:
    version = manifest.require(project.storage, "v0002")
    content = manifests.content(version)
    change(content)
    manifests.write(version.manifest_url, content)
    damage = [item for item in check(project) if "/shards/" not in item.path]
    assert {item.path for item in damage} <= {"v0002/manifest.json", "v0002/tokenizer.json"}
    found = [item for item in damage if all(word in item.problem for word in words)]
    assert len(found) == 1, damage
    assert len(damage) == 1 or words == ["it names a shard twice"], damage


def test_every_file_that_a_manifest_names_is_read(project: Config) -> None:
    version = manifest.require(project.storage, "v0002")
    paths = {f"v0002/{path}" for path in version.manifest.files}
    paths |= {path for line in version.own_shards for path in (line.path, line.origins)}
    tables = {"v0002/shards.parquet", "v0002/inputs.parquet"}
    for path in tables:
        before = Path(version.below_versions(path)).read_bytes()
        flip(Path(version.below_versions(path)))
        (damage,) = check(project)
        assert damage.path == path and "its digest is" in damage.problem
        Path(version.below_versions(path)).write_bytes(before)
    paths -= tables
    for path in paths:
        flip(Path(version.below_versions(path)))
    assert {item.path for item in check(project)} == paths


def test_a_shard_of_several_versions_is_read_and_named_once(project: Config) -> None:
    line = manifest.require(project.storage, "v0001").shards[0]
    versions = Path(project.storage, "corpus", "versions")
    flip(versions / line.path)
    (damage,) = check(project)
    assert damage.path == line.path
    (versions / line.path).unlink()
    (damage,) = check(project)
    assert damage == Damage(line.path, "it is missing")


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
        shards = [shard for shard in version.shards if (shard.source, shard.split) == (name, "train")]
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
