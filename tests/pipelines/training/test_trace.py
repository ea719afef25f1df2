import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from base import files
from base.errors import UserError
from jobs import trace as command
from model.corpus import Corpus
from model.run import RUN
from model.shard_cache import ShardCache
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, SOURCES, run_here

if RUNNING:
    from pipelines.training import trace


LENGTH = MODEL.max_sequence_length


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    storage = tmp_path_factory.mktemp("storage")
    manifest = write_corpus(storage, SOURCES)
    run_here(manifest, str(storage / "training" / "tiny"), steps=25)  # more than one epoch
    return str(storage), manifest


def test_a_step_lists_the_tokens_it_trained_on(trained: tuple[str, str]) -> None:
    storage, manifest = trained
    run = trace.RunSamples(storage, "tiny")
    assert run.steps == 25
    corpus = Corpus.open(manifest)
    documents = {}
    for number, entry in enumerate(corpus.shards):
        shard = corpus.shard(number)
        for row in range(entry.documents):
            key = shard.table.column("document_id")[row].as_py().hex()
            values = shard.tokens[shard.offsets[row] : shard.offsets[row + 1]]
            base = 1000 * int(entry.path[-11:-6])
            documents[key] = values, f"/data/{entry.source}-{entry.split}.jsonl", base + row
    for step in (1, 13, 25):
        table = trace.documents_of_step(run, step)
        rebuilt = np.full((8, LENGTH + 1), -1, np.int64)
        for row in table.to_pylist():
            values, file, record = documents[row["document_id"]]
            width = row["stop"] - row["first"]
            rebuilt[row["sequence"], row["position"] : row["position"] + width] = values[
                row["first"] : row["stop"]
            ]
            assert (row["file"], row["record"]) == (file, record)
            assert row["sample"] == (step - 1) * 8 + row["sequence"]
        assert np.array_equal(rebuilt, run.loader.batch((step - 1) * 8, 8))


def test_a_document_lists_exactly_the_steps_that_saw_it(trained: tuple[str, str]) -> None:
    run = trace.RunSamples(trained[0], "tiny")
    expected: dict[str, list[dict[str, Any]]] = {}
    for step in range(1, run.steps + 1):
        for row in trace.documents_of_step(run, step).to_pylist():
            expected.setdefault(row["document_id"], []).append({"step": step, "undone": None, **row})
    assert len(expected) == 50
    for document, rows in expected.items():
        assert trace.steps_of_document(run, document.upper()).to_pylist() == rows


def test_mistakes_are_named(trained: tuple[str, str]) -> None:
    storage, manifest = trained
    run = trace.RunSamples(storage, "tiny")
    corpus = Corpus.open(manifest)
    held = next(entry for entry in range(len(corpus.shards)) if corpus.shards[entry].split == "heldout")
    with pytest.raises(UserError, match="is held out of training"):
        trace.steps_of_document(run, corpus.shard(held).table.column("document_id")[0].as_py().hex())
    with pytest.raises(UserError, match="'xyz' is not an id of 32 hexadecimal digits"):
        trace.steps_of_document(run, "xyz")
    with pytest.raises(UserError, match="holds no document 0000"):
        trace.steps_of_document(run, "0" * 32)
    for step in (0, 26):
        with pytest.raises(UserError, match=f"has taken steps 1 to 25, not step {step}"):
            trace.documents_of_step(run, step)
    with pytest.raises(UserError, match="other is not a training run"):
        trace.RunSamples(storage, "other")


def test_the_command_prints_one_line_a_span(
    trained: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tiny.yaml"
    content = {"name": "t", "storage": trained[0], "sources": [{"name": "a", "urls": ["unused"]}]}
    config.write_text(json.dumps(content))
    command.main(str(config), "tiny", step=2)
    lines = capsys.readouterr().out.splitlines()
    run = trace.RunSamples(trained[0], "tiny")
    rows = trace.documents_of_step(run, 2).to_pylist()
    assert lines[0] == "run tiny, step 2: 8 sequences" and len(lines) == len(rows) + 1
    command.main(str(config), "tiny", document=rows[0]["document_id"])
    output = capsys.readouterr().out
    assert f"({rows[0]['source']}, {rows[0]['file']}:{rows[0]['record']}): seen in " in output
    assert "\n  step       2, sequence    0 at     0: tokens" in output
    with pytest.raises(UserError, match="either --step or --document"):
        command.main(str(config), "tiny")


def test_steps_that_left_nothing_in_the_weights_are_marked(
    trained: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, manifest = trained
    guarded: dict[str, Any] = {"guard": {"window": 8, "rollback_after": 3}, "checkpoint": {"every": 5}}
    url = str(Path(storage) / "training" / "spiky")
    run_here(manifest, url, steps=18, overflows=(4,), spikes=(13, 14, 15), **guarded)
    run = trace.RunSamples(storage, "spiky")
    assert set(run.undone) == {5, 11, 12, 13, 14, 15, 16}
    back = "rolled back: step 16 went back to the weights of step 10"
    assert all(run.undone[step] == back for step in (11, 12, 13))
    assert run.undone[5] == "skipped: gradient norm is not finite"
    assert run.undone[16].startswith("skipped: gradient norm")
    document = trace.documents_of_step(run, 12)["document_id"][0].as_py()
    rows = trace.steps_of_document(run, document).to_pylist()
    assert {row["step"]: row["undone"] for row in rows}[12] == back
    assert all(row["undone"] == run.undone.get(row["step"]) for row in rows)
    config = tmp_path / "tiny.yaml"
    content = {"name": "t", "storage": storage, "sources": [{"name": "a", "urls": ["unused"]}]}
    config.write_text(json.dumps(content))
    command.main(str(config), "spiky", step=5)
    command.main(str(config), "spiky", document=document)
    output = capsys.readouterr().out
    assert "run spiky, step 5: 8 sequences; skipped: gradient norm is not finite\n" in output
    undone = {row["step"] for row in rows if row["undone"]}
    assert f" of 18 steps of run spiky, {len(undone)} of them undone\n" in output
    assert output.count(f"; {back}\n") == sum(row["undone"] == back for row in rows)


def test_only_shards_that_hold_the_document_are_copied(trained: tuple[str, str], tmp_path: Path) -> None:
    storage = trained[0]
    fsspec.filesystem("memory").put(storage, "/traced", recursive=True)
    expected = trace.steps_of_document(trace.RunSamples(storage, "tiny"), _document(trained, "b/train-00000"))
    run = trace.RunSamples("memory://traced", "tiny", ShardCache(str(tmp_path)))
    found = trace.steps_of_document(run, _document(trained, "b/train-00000"))
    assert found.equals(expected) and len(list(tmp_path.iterdir())) == 1


def test_a_document_that_stands_in_two_shards_is_found_in_both(tmp_path: Path) -> None:
    manifest = Path(write_corpus(tmp_path, {"a": [[50] * 3, [70]]}))
    content = json.loads(manifest.read_text())
    first, twin = content["shards"][0], {**content["shards"][0], "path": "v0001/shards/a/train-00009.arrow"}
    for kind, suffix in (("shards", "arrow"), ("origins", "parquet")):
        place = manifest.parent / kind / "a"
        (place / f"train-00009.{suffix}").write_bytes((place / f"train-00000.{suffix}").read_bytes())
    manifest.write_text(json.dumps({**content, "shards": [*content["shards"], twin]}))
    run_here(str(manifest), str(tmp_path / "training" / "tiny"), steps=3)
    run = trace.RunSamples(str(tmp_path), "tiny")
    every = [
        {"step": step, "undone": None, **row}
        for step in (1, 2, 3)
        for row in trace.documents_of_step(run, step).to_pylist()
    ]
    document = _document((str(tmp_path), str(manifest)), "a/train-00000")
    expected = [row for row in every if row["document_id"] == document]
    assert first["documents"] == 3 and len(expected) > 6
    assert trace.steps_of_document(run, document).to_pylist() == expected


def _document(trained: tuple[str, str], shard: str) -> str:
    """The first document of a shard."""
    url = Path(trained[1]).parent / "origins" / f"{shard}.parquet"
    return str(files.read_parquet(str(url))["document_id"][0].as_py().hex())


def test_a_changed_corpus_is_refused(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, SOURCES)
    run_here(manifest, str(tmp_path / "training" / "tiny"), steps=2)
    url = str(tmp_path / "training" / "tiny" / RUN)
    facts = files.read_json(url)
    del facts["seal"]
    files.write_json(url, {**facts, "data": {**facts["data"], "manifest_hash": "0" * 32}})
    with pytest.raises(UserError, match="was trained on another corpus version"):
        trace.RunSamples(str(tmp_path), "tiny")
