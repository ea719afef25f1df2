"""Commands that meet on one storage: one waits, stops or is shut out, and nothing is lost or mixed."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from base import claims, files, layout, manifest
from base.claims import Holder
from base.errors import UserError
from base.layout import Layout
from pipelines.config import Config
from pipelines.corpus.versions import commands
from pipelines.corpus.versions.verify import verify
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent
from tests.helpers.builds import config, documents, put_store, refresh, run, write

ROOT = Path(__file__).parents[4]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Raw text of two sources."""
    for number, source in enumerate(("books", "web")):
        write(tmp_path / "raw" / source / "0.jsonl", documents(number, 30))
    return tmp_path


def settings(project: Path, *overrides: str) -> Config:
    return config(project / "raw", project / "storage", *overrides)


def take_over(folder: str) -> None:
    """What another command does that takes this one to be gone."""
    url = files.join(folder, layout.CLAIM, "000002.json")
    Holder.here("jobs.refresh", 10.0).create(url)


def test_a_refresh_that_waited_builds_on_the_version_that_was_made_meanwhile(project: Path) -> None:
    run(settings(project))
    held = contextlib.ExitStack()
    other = settings(project)
    claim = held.enter_context(commands.claimed(other, "jobs.refresh"))
    write(project / "raw/web/1.jsonl", documents(7, 10))

    def meanwhile(sentence: str) -> None:
        assert sentence.startswith("waiting for jobs.refresh of ")
        inputs = commands.inputs_of(other)
        commands.refresh(other, inputs, claim=claim, executor=InProcess(), progress=silent)
        write(project / "raw/web/2.jsonl", documents(8, 10))
        held.close()

    mine = settings(project, "claims.wait=true")
    with commands.claimed(mine, "jobs.refresh", meanwhile) as second:
        inputs = commands.inputs_of(mine)
        outcome = commands.refresh(mine, inputs, claim=second, executor=InProcess(), progress=silent)
    versions = manifest.versions(mine.storage)
    assert [version.name for version in versions] == ["v0001", "v0002", "v0003"]
    assert outcome.version == versions[-1] and outcome.version.manifest.parent == "v0002"
    names = [Path(item.file).name for item in outcome.version.inputs]
    assert sorted(names) == ["0.jsonl", "0.jsonl", "1.jsonl", "2.jsonl"]


def test_who_does_not_wait_stops_before_anything_is_looked_at(project: Path) -> None:
    first = settings(project)
    with commands.claimed(first, "jobs.prepare"):
        for command in (run, refresh):
            with pytest.raises(UserError, match="is being written by jobs.prepare of .*claims.wait=true"):
                command(first)
    assert run(first).new


@pytest.mark.parametrize("stage", ["measure", "shard", "tables"])
def test_a_build_that_was_taken_over_publishes_nothing(project: Path, stage: str) -> None:
    mine = settings(project)
    corpus = Layout(mine.storage).corpus

    def progress(name: str, done: int, *_: int) -> None:
        if name == stage and done == 0:
            take_over(corpus)

    with pytest.raises(UserError, match="was taken to be gone: jobs.refresh of .* writes"):
        run(mine, progress=progress)
    assert manifest.versions(mine.storage) == []
    files_there = {path.suffix for path in Path(corpus, "versions").rglob("*") if path.is_file()}
    assert files_there == (set() if stage != "tables" else {".arrow", ".parquet", ".json"})
    assert [path.name for path in Path(corpus, layout.CLAIM).iterdir()] == ["000002.json"]


def test_a_shard_that_somebody_else_has_replaced_is_not_published(project: Path) -> None:
    mine = settings(project)

    def progress(name: str, done: int, *_: int) -> None:
        if name == "tables" and done == 0:
            shard = next(Path(mine.storage).rglob("train-00000.arrow"))
            shutil.copy(shard.with_name("heldout-00000.arrow"), shard)

    with pytest.raises(UserError, match="train-00000.arrow is not what this command has written"):
        run(mine, progress=progress)
    assert manifest.versions(mine.storage) == []
    assert run(mine).new


def test_a_manifest_is_never_replaced(project: Path) -> None:
    mine = settings(project)
    url = Layout(mine.storage).manifest("v0001")
    first = run(mine).version.manifest
    with commands.claimed(mine, "jobs.prepare") as claim:
        claim.publish(url, first)
        with pytest.raises(UserError, match="is there already, and is another one"):
            claim.publish(url, first.model_copy(update={"name": "other"}))
    assert manifest.open_version(url).manifest == first


@contextlib.contextmanager
def started(project: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """jobs.prepare in a process of its own."""
    command = [sys.executable, "-m", "jobs.prepare", "--config", str(project / "storage.yaml")]
    for override in ("ray.address=local", *overrides):
        command += ["--set", override]
    environment = os.environ | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


@pytest.mark.slow
def test_two_builds_at_once_make_two_versions_or_one_stops(project: Path) -> None:
    put_store(settings(project))
    seeds = ("shard.seed=1", "shard.seed=2")
    with started(project, seeds[0]) as one, started(project, seeds[1]) as two:
        ends = {process: process.communicate() for process in (one, two)}
    (good,) = [process for process in ends if process.returncode == 0]
    (bad,) = [process for process in ends if process.returncode == 2]
    assert "corpus v0001 " in ends[good][0]
    error = ends[bad][1].splitlines()[-1]
    assert error.startswith("error: ") and f"(process {good.pid}, since " in error
    wait = "claims.wait=true"
    with started(project, seeds[0], wait) as one, started(project, seeds[1], wait) as two:
        ends = {process: process.communicate() for process in (one, two)}
    assert [process.returncode for process in ends] == [0, 0]
    assert any("waiting for jobs.prepare of" in error for _, error in ends.values())
    versions = manifest.versions(str(project / "storage"))
    assert [version.name for version in versions] == ["v0001", "v0002"]
    assert {version.manifest.config["shard"]["seed"] for version in versions} == {1, 2}
    assert verify(versions, executor=InProcess(), progress=silent) == []
    assert claims._newest(str(project / "storage" / "corpus")) == 0
