"""What commands print and how they end, on a small corpus, with tasks that run in this process."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import xxhash

from base import manifest
from jobs.session import run
from pipelines.config import Config
from pipelines.corpus.versions import commands
from pipelines.corpus.versions.verify import read_shard
from pipelines.runtime.executor import InProcess
from tests.helpers import builds, manifests
from tests.helpers.indexed import read_indexed


class Silent:
    """A progress that shows nothing and can be closed."""

    def __call__(self, *_: Any) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A project with two versions."""
    folder = tmp_path_factory.mktemp("commands")
    builds.write(folder / "raw" / "books" / "0.jsonl", builds.documents(1, 60))
    builds.write(folder / "raw" / "web" / "0.jsonl", builds.documents(3, 50))
    settings = builds.config(folder / "raw", folder / "project")
    builds.run(settings)
    builds.write(folder / "raw" / "web" / "1.jsonl", builds.documents(7, 30))
    builds.refresh(settings)
    return settings


@pytest.fixture
def command(project: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that runs a command with arguments: its exit code, and its lines of standard output."""

    @contextlib.contextmanager
    def session(settings: Config, **_: bool) -> Iterator[Any]:
        yield SimpleNamespace(executor=InProcess(), progress=Silent())

    def call(name: str, *arguments: str) -> tuple[int, list[str]]:
        module = importlib.import_module(f"jobs.{name}")
        if hasattr(module, "session"):
            monkeypatch.setattr(module, "session", session)
        with pytest.raises(SystemExit) as ended:
            run(module.main, name, ["--config", f"{project.storage}.yaml", *arguments])
        code: Any = ended.value.code
        shown = capsys.readouterr()
        return code, (shown.out if code < 2 else shown.err).splitlines()

    return call


def tokens(version: manifest.Version, **wanted: str) -> int:
    return sum(
        shard.tokens
        for shard in version.shards
        if all(getattr(shard, name) == value for name, value in wanted.items())
    )


def test_a_summary_tells_of_records_documents_and_tokens(project: Config, command: Any) -> None:
    version = manifest.require(project.storage)
    code, lines = command("refresh")
    assert code == 0
    assert lines[0] == "0 new or changed files of 3"
    assert lines[1].split() == [
        "books",
        "0",
        "records",
        "in",
        "0",
        "kept",
        *f"{tokens(version, source='books'):,} tokens in all".split(),
    ]
    kept = sum(shard.documents for shard in version.own_shards)
    assert lines[2].split()[:6] == ["web", "30", "records", "in", str(kept), "kept"]
    shards = len(version.shards)
    assert lines[3] == (
        f"corpus v0002 {xxhash.xxh3_128_hexdigest(Path(version.manifest_url).read_bytes())[:12]}: "
        f"{tokens(version):,} tokens in {shards} shards (already finished)"
    )
    assert lines[4:] == [f"manifest {version.url}/manifest.json", f"report   {version.url}/report.html"]
    new = commands.summary(commands.Outcome(version, True))
    assert new == [line.removesuffix(" (already finished)") for line in lines[1:]]


def test_what_mlflow_is_told_of_a_version(project: Config) -> None:
    first, second = manifest.versions(project.storage)
    metrics = commands.build_metrics(second)
    own = [shard for shard in second.shards if shard.path.startswith("v0002/")]
    assert metrics["tokens"] == sum(shard.tokens for shard in own)
    assert metrics["tokens_total"] == tokens(second) == metrics["tokens"] + tokens(first)
    assert metrics["shards"] == len(own)
    assert metrics["read/documents_out"] == 30
    assert metrics["tokenize/documents_out"] == sum(shard.documents for shard in own)
    assert metrics["tokenize/bytes_out"] == sum(shard.text_bytes for shard in own)
    every = commands.build_metrics(first)
    assert every["read/documents_out"] == 110  # of both sources
    assert [commands.parent_command(version) for version in (first, second)] == ["prepare", "refresh"]


def test_verify_ends_in_one_where_something_is_damaged(project: Config, command: Any) -> None:
    assert command("verify") == (0, ["v0001, v0002: every file is what its manifest says"])
    version = manifest.require(project.storage, "v0002")
    name = "dropped/quality.parquet"
    file = Path(version.file(name))
    content = file.read_bytes()
    file.unlink()
    wrong = [f"damaged: v0002/{name}: it is missing", "v0001, v0002: damaged files: 1"]
    assert command("verify") == (1, wrong)
    assert command("verify", "--version", "v0002") == (1, [wrong[0], "v0002: damaged files: 1"])
    assert command("verify", "--version", "v0001") == (0, ["v0001: every file is what its manifest says"])
    code, lines = command("verify", "--rebuild")
    assert code == 0 and file.read_bytes() == content
    assert lines[0] == wrong[0]
    assert lines[1:] == [f"made again: v0002/{name}", "v0001, v0002: every file is what its manifest says"]


def test_verify_says_what_could_not_be_made_again(project: Config, command: Any) -> None:
    version = manifest.require(project.storage, "v0002")
    original = Path(version.manifest_url).read_bytes()
    content = manifests.read_json(version.manifest_url)
    content["files"]["report.html"] = "0" * 32
    manifests.write_json(version.manifest_url, content)
    code, lines = command("verify", "--rebuild")
    Path(version.manifest_url).write_bytes(original)
    assert code == 1 and lines[0].startswith("damaged: v0002/report.html: its digest is ")
    assert lines[1].startswith("still damaged: v0002/report.html: the file made again has digest ")
    assert lines[2:] == ["v0001, v0002: damaged files: 1"]


def test_export_writes_what_it_is_asked_for(project: Config, command: Any, tmp_path: Path) -> None:
    version = manifest.require(project.storage)
    code, lines = command("export", "--output", str(tmp_path / "all"))
    assert code == 0
    assert [line.split()[-2:] for line in lines] == [
        [f"{tmp_path}/all/{name}-train.bin,", ".idx"] for name in ("books", "web")
    ]
    assert [line.split()[2] for line in lines] == [
        f"{tokens(version, source=name, split='train'):,}" for name in ("books", "web")
    ]
    asked = ["--source", "web", "--split", "heldout", "--split", "train", "--version", "v0001"]
    command("export", "--output", str(tmp_path / "some"), *asked)
    names = {f"web-{split}.{suffix}" for split in ("heldout", "train") for suffix in ("bin", "idx", "json")}
    assert {path.name for path in (tmp_path / "some").iterdir()} == names
    first = manifest.require(project.storage, "v0001")
    sequences, _ = read_indexed(str(tmp_path / "some" / "web-train"))
    assert sum(map(len, sequences)) == tokens(first, source="web", split="train")
    code, (line,) = command("export", "--output", str(tmp_path), "--version", "v0007")
    assert code == 2 and "v0007" in line


def test_dedup_lists_phases_and_compares_corpora(project: Config, command: Any, tmp_path: Path) -> None:
    code, lines = command("dedup", "--until", "candidates")
    assert code == 0 and lines[0].startswith(f"{project.storage}/corpus/work/dedup/")
    phases = {line.split()[0].rstrip("/"): line.split()[1:] for line in lines[1:]}
    assert {"exact-runs", "exact", "band-runs", "candidates"} <= phases.keys()
    assert int(phases["exact-runs"][2].replace(",", "")) > 100 and phases["exact-runs"][1] == "files"
    builds.write(tmp_path / "raw" / "books" / "0.jsonl", builds.documents(1, 60)[:20])
    builds.write(tmp_path / "raw" / "web" / "0.jsonl", builds.documents(11, 50))
    other = builds.config(tmp_path / "raw", tmp_path / "other")
    builds.run(other)
    code, lines = command("dedup", "--against", other.storage)
    assert code == 0 and not any("no document" in line for line in lines)
    (exact,) = [line.split() for line in lines if line.endswith("exact_duplicate")]
    # An id is of source and text: what both corpora hold as it is, has the same in both.
    mine, theirs = (
        {name for table in tables_of(one) for name in table["document_id"].to_pylist()}
        for one in (project, other)
    )
    assert int(exact[0]) == len(mine & theirs) > 5


def tables_of(settings: Config) -> list[Any]:
    """The shards of the newest version of a project."""
    version = manifest.require(settings.storage)
    return [read_shard(version.versions_url, shard) for shard in version.shards]


def test_merge_finds_that_nothing_is_new(project: Config, command: Any, tmp_path: Path) -> None:
    code, (line,) = command("merge", "--with", project.storage)
    assert code == 2 and "is the newest version of this corpus itself" in line


def test_explain_takes_the_version_it_is_told(project: Config, command: Any) -> None:
    code, lines = command("explain", "books/0.jsonl:0")
    assert code == 0 and lines[0].startswith("document ") and "source books" in lines[0]
    identifier = lines[0].split()[1]
    assert command("explain", identifier.upper(), "--corpus", "v0001") == (0, lines)
    code, (line,) = command("explain", "web/1.jsonl:0", "--corpus", "v0001")
    assert code == 2 and line == "error: no input file of v0001 ends in web/1.jsonl"
    assert command("explain", "web/1.jsonl:0")[0] == 0


def test_trace_wants_a_step_or_a_document(command: Any) -> None:
    asked: list[list[str]] = [[], ["--step", "1", "--document", "0" * 32]]
    for arguments in asked:
        code, lines = command("trace", "--run", "r", *arguments)
        assert (code, lines) == (2, ["error: give either --step or --document"])
