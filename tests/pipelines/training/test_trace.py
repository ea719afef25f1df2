import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from base import files
from base.errors import UserError
from jobs import trace as command
from model import checkpoint, journal
from model.corpus import Corpus
from model.run import RUN
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, SOURCES, run_here

if RUNNING:
    from model.loop import Loop
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


def test_a_run_on_remote_storage_is_traced_without_reading_tokens(
    trained: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = trained[0]
    fsspec.filesystem("memory").put(storage, "/traced", recursive=True)
    expected = trace.steps_of_document(trace.RunSamples(storage, "tiny"), _document(trained, "b/train-00000"))
    run = trace.RunSamples("memory://traced", "tiny")
    monkeypatch.delattr("model.ranged.RemoteShards.tokens")
    found = trace.steps_of_document(run, _document(trained, "b/train-00000"))
    assert found.equals(expected)


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


def _damage(manifest: str, name: str, place: int, value: bytes) -> None:
    """Overwrite a token of a shard, or cut it short there."""
    path = Path(manifest).parent / "shards" / f"{name}.arrow"
    table = pa.ipc.open_file(path).read_all()
    tokens = table["input_ids"].combine_chunks().values.to_numpy().tobytes()
    content = bytearray(path.read_bytes())
    begin = bytes(content).index(tokens) + 2 * place
    content[begin : begin + 2] = value
    path.write_bytes(content if value else content[:begin])


@pytest.mark.parametrize(
    ("run", "damaged"),
    [
        ({"seed": 7}, None),
        ({"mixture": {"a": 1.0, "b": 5.0}}, None),
        ({"mixture": {"a": 0.0, "b": 1.0}}, None),
        ({"global_batch_size": 16, "batch_warmup": {"start": 4, "increment": 4, "steps": 7}}, None),
        ({"damaged_shards": "skip"}, b"\xff\xff"),
        ({"damaged_shards": "skip"}, b""),
        ({"damaged_shards": "skip", "verify_shards": True}, b"\x05\x00"),
    ],
    ids=["seed", "mixture", "without a source", "batch warm-up", "strange token", "short shard", "verified"],
)
def test_the_trace_tells_the_rows_that_the_loop_fed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: dict[str, Any], damaged: bytes | None
) -> None:
    manifest = write_corpus(tmp_path, {"a": [[200] * 6, [100] * 6], "b": [[333] * 4]})
    tokens: dict[str, list[int]] = {}
    for path in sorted(Path(manifest).parent.glob("shards/*/train-*.arrow")):
        table = pa.ipc.open_file(path).read_all()
        ids = [identifier.hex() for identifier in table["document_id"].to_pylist()]
        tokens |= dict(zip(ids, table["input_ids"].to_pylist(), strict=True))
    if damaged is not None:
        _damage(manifest, "a/train-00000", 777, damaged)
    fed: list[np.ndarray] = []
    accumulate = Loop.accumulate

    def spy(loop: Loop, step: int, rows: Any) -> float:
        fed.append(rows.numpy().copy())
        return accumulate(loop, step, rows)

    monkeypatch.setattr(Loop, "accumulate", spy)
    run_here(manifest, str(tmp_path / "training" / "tiny"), steps=12, **run)
    traced = trace.RunSamples(str(tmp_path), "tiny")
    seen: dict[Any, Any] = {}
    for step, rows in enumerate(fed, 1):
        told = np.full_like(rows, -1)
        for span in trace.documents_of_step(traced, step).to_pylist():
            part = tokens[span["document_id"]][span["first"] : span["stop"]]
            told[span["sequence"], span["position"] : span["position"] + len(part)] = part
            seen.setdefault(span["document_id"], []).append((step, span["sequence"], span["position"]))
        assert np.array_equal(told, rows)
    for document in tokens:
        rows_of = trace.steps_of_document(traced, document).to_pylist()
        assert [(row["step"], row["sequence"], row["position"]) for row in rows_of] == seen.get(document, [])


def test_steps_whose_lines_are_not_there_yet_count_by_the_checkpoint(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, SOURCES)
    url = tmp_path / "training" / "tiny"
    run_here(manifest, str(url), steps=4, log_every=3)
    assert trace.RunSamples(str(tmp_path), "tiny").steps == 4
    path = url / journal.NAME
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))  # steps 1 and 3
    assert trace.RunSamples(str(tmp_path), "tiny").steps == 4
    files.remove(checkpoint.folder(str(url), 4))
    assert trace.RunSamples(str(tmp_path), "tiny").steps == 3
    path.write_text(path.read_text().replace('"step": 3,', f'"step": {2**40},'))
    with pytest.raises(
        UserError, match=f"journal.jsonl is damaged: it has {3 * 8 * LENGTH} tokens at step 1"
    ):
        trace.RunSamples(str(tmp_path), "tiny")
