"""Which version a command finds or builds on, and what MLflow knows of it afterwards."""

from pathlib import Path

import pytest

from base import files, manifest
from base.errors import UserError
from pipelines.config import Config, build_configuration
from pipelines.corpus.inputs import Input
from pipelines.corpus.versions import commands
from pipelines.corpus.versions.build import find_build, new_inputs
from pipelines.runtime import tracking
from tests.helpers import builds
from tests.helpers.late import RUNNING

if RUNNING:
    from mlflow import MlflowClient


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A project with a version and its refresh."""
    folder = tmp_path_factory.mktemp("commands")
    builds.write(folder / "raw" / "books" / "0.jsonl", builds.documents(1, 40))
    builds.write(folder / "raw" / "web" / "0.jsonl", builds.documents(3, 40))
    settings = builds.config(folder / "raw", folder / "project")
    builds.run(settings)
    builds.write(folder / "raw" / "web" / "1.jsonl", builds.documents(7, 20))
    builds.refresh(settings)
    return settings


def changed(project: Config, *overrides: str) -> Config:
    return builds.config(Path(project.storage).parent / "raw", Path(project.storage), *overrides)


ELSEWHERE = ["train.steps=7", "ray.workers=1", "evaluate.micro_batch_size=1", "tracking.experiment=other"]
BUILD = [
    "ingest.batch_bytes=100000",
    "language.max_characters=10",
    "score.max_characters=10",
    "quality.basic.min_words=3",
    "dedup.threshold=0.9",
    "decontaminate.ngram=9",
    "redact.email=null",
    "tokenize.vocab_size=300",
    "shard.seed=7",
    "corpus.keep_rejects=9",
]
FREE = ["mixture={books: 1.0, web: 2.0}", "mixture_epochs={books: 1.0, web: 2.0}", "sources.0.priority=3"]


def test_a_version_is_found_by_inputs_and_by_what_decides_its_content(project: Config) -> None:
    inputs = commands.inputs_of(project)
    of_first = [item for item in inputs if not item.file.endswith("web/1.jsonl")]
    assert len(inputs) == 3 and len(of_first) == 2
    found = find_build(project, of_first)
    assert found is not None and found.name == "v0001"
    assert find_build(project, inputs[1:]) is find_build(project, of_first[:1]) is None
    for override in ELSEWHERE:
        found = find_build(changed(project, override), of_first)
        assert found is not None and found.name == "v0001", override
    for override in (*BUILD, *FREE):
        assert find_build(changed(project, override), of_first) is None, override


def test_a_refresh_needs_the_configuration_of_its_parent(project: Config) -> None:
    inputs = commands.inputs_of(project)
    for override in (*ELSEWHERE, *FREE):
        parent, fresh = commands.refresh_plan(changed(project, override), inputs)
        assert parent.name == "v0002" and fresh == [], override
    for override in BUILD:
        section = override.split(".")[0]
        words = f"a refresh needs the configuration of v0002, but {section} changed; run jobs.prepare"
        with pytest.raises(UserError, match=words):
            commands.refresh_plan(changed(project, override), inputs)


def test_new_inputs_are_those_of_another_source_name_or_content(project: Config) -> None:
    inputs = commands.inputs_of(project)
    first, second = manifest.versions(project.storage)
    assert [item.file[-11:] for item in new_inputs(first, inputs)] == ["web/1.jsonl"]
    assert new_inputs(second, inputs) == []
    book = inputs[0]
    others = [
        Input(**{**vars(book), **change})
        for change in ({"source": "web"}, {"file": "/elsewhere"}, {"digest": "0" * 32})
    ]
    assert new_inputs(second, [book, *others]) == others


def test_what_mlflow_knows_of_a_prepare_and_of_a_refresh(project: Config) -> None:
    first, second = manifest.versions(project.storage)
    place = tracking.Tracking.of(project)
    client = MlflowClient(place.uri)
    prepared, refreshed = (tracking.find(place, name) for name in ("prepare", "refresh"))
    assert prepared and refreshed
    for run, version in ((prepared, first), (refreshed, second)):
        tags = {name: value for name, value in run.data.tags.items() if name.startswith("piledriver.")}
        assert tags["piledriver.version"] == version.name and tags["piledriver.corpus"] == version.hash
        assert tags["piledriver.storage"] == project.storage
        assert run.info.status == "FINISHED"
        totals = commands.build_metrics(version)
        assert {name: run.data.metrics[name] for name in totals} == totals
        assert run.data.metrics["measure/tasks"] == len(version.inputs) - 2 * (version is second)
        expected = {name: str(value)[:500] for name, value in tracking.flatten(build_configuration(project))}
        assert {name: run.data.params[name] for name in expected} == expected
        stored = [item.path for item in client.list_artifacts(run.info.run_id)]
        assert stored == ["manifest.json", "report.html"]
        copy = client.download_artifacts(run.info.run_id, "manifest.json")
        assert files.read_bytes(copy) == files.read_bytes(version.manifest_url)
    assert "piledriver.parent_corpus" not in prepared.data.tags
    assert refreshed.data.tags["piledriver.parent_corpus"] == first.hash
    assert refreshed.data.tags["piledriver.upstream"] == prepared.info.run_id


def test_what_is_there_makes_no_run(project: Config) -> None:
    place = tracking.Tracking.of(project)
    before = tracking.find(place, "refresh")
    outcome = builds.refresh(project)
    after = tracking.find(place, "refresh")
    assert not outcome.new and outcome.version.name == "v0002"
    assert before and after and before.info.run_id == after.info.run_id
