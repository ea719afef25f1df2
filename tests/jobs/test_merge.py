"""jobs.dedup --against and jobs.merge as commands, the second killed in the middle and run again."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from base.errors import UserError
from jobs import dedup, merge, verify
from pipelines.config import load
from pipelines.runtime.executor import OnRay
from tests.helpers.builds import run
from tests.helpers.sessions import kill_session

ROOT = Path(__file__).parents[2]


def texts(seed: int, count: int) -> list[str]:
    choose = random.Random(seed)
    words = [f"w{number}" for number in range(400)]
    return [" ".join(choose.choices(words, k=choose.randrange(30, 120))) for _ in range(count)]


def project(folder: Path, name: str, documents: list[str], **sections: object) -> Path:
    """The configuration file of a project of one source; the first 200 documents are in one file."""
    raw = folder / f"{name}-raw"
    raw.mkdir()
    for number, part in enumerate((documents[:200], documents[200:])):
        (raw / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    config = {
        "name": name,
        "storage": str(folder / name),
        "sources": [{"name": "web", "urls": [f"{raw}/*.jsonl"], "max_loss": 1.0}],
        "ray": {"address": "local", "workers": 2},
        "shard": {"target_tokens": 4000},
        **sections,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder / f"{name}.yaml"


def command(job: str, path: Path, *arguments: str) -> subprocess.Popen[str]:
    """A started command in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{job}", "--config", str(path), *arguments],
        cwd=ROOT,
        env=os.environ | {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 2})},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """Two finished corpora: of the other's 400 documents 120 are here too, and 40 nearly so."""
    place = tmp_path_factory.mktemp("merge")
    mine = texts(1, 400)
    theirs = mine[:120] + [f"{text} and more" for text in mine[120:160]] + texts(2, 240)
    build(project(place, "mine", mine, tokenize={"vocab_size": 400, "train_bytes": 50000}))
    tokenizer = str(place / "mine/corpus/versions/v0001/tokenizer.json")
    build(project(place, "theirs", theirs, tokenize={"tokenizer": tokenizer}))
    return place


def build(path: Path) -> None:
    """What jobs.prepare does."""
    settings = load(str(path), None)
    run(settings, OnRay(workers=2))


def test_against_another_corpus(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dedup.main(str(folder / "theirs.yaml"), against=str(folder / "mine"))
    lines = capsys.readouterr().out.splitlines()
    counts = {line.rsplit(": ", 1)[1]: int(line.split()[0]) for line in lines if " documents, " in line}
    assert counts == {"exact_duplicate": 120, "near_duplicate": 40}
    tables = [line.strip() for line in lines if line.startswith("  /")]
    rows = [row for table in tables for row in pq.read_table(table).to_pylist()]
    assert len(rows) == 160 and {row["kept_version"] for row in rows} == {"v0001"}
    assert len(list((folder / "theirs/corpus/versions").iterdir())) == 1
    path = project(folder, "else", texts(3, 210), tokenize={"vocab_size": 300, "train_bytes": 9000})
    build(path)
    dedup.main(str(path), against=str(folder / "mine"))
    told = capsys.readouterr().out
    assert f"no document of {folder}/else/corpus/versions/v0001 is in {folder}/mine/corpus" in told
    with pytest.raises(UserError, match="nowhere/corpus holds no corpus version"):
        dedup.main(str(path), against=str(folder / "nowhere"))
    with pytest.raises(UserError, match="nowhere/corpus holds no corpus version"):
        merge.main(str(path), str(folder / "nowhere"))
    with pytest.raises(UserError, match="only if they share a tokenizer"):
        merge.main(str(path), str(folder / "mine"))


def test_phases_and_their_rows_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dedup.main(str(folder / "theirs.yaml"), until="candidates")
    output = capsys.readouterr().out
    phases = {line.split()[0]: line.split() for line in output.splitlines() if line.endswith(" rows")}
    assert phases["exact-runs/"][3] == "400"
    assert phases["band-runs/"][3] == "5,600"
    assert "dropped/" in phases


@pytest.mark.slow
def test_a_killed_merge_shows_nothing_and_finishes_when_run_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, path, other = folder / "mine/corpus", folder / "mine.yaml", str(folder / "theirs")
    process = command("merge", path, "--with", other)
    while not list(corpus.glob("work/merge/*/shards/*.json")):
        assert process.poll() is None
        time.sleep(0.005)
    kill_session(process.pid)
    process.wait()
    assert not (corpus / "versions/v0002/manifest.json").exists()
    done = [path for path in corpus.glob("work/merge/**/*") if path.is_file() and path.name[0] != "."]
    # What a task has written before its last file, the .json, it writes again.
    half = ".dropped.parquet"
    done = [
        path
        for path in done
        if not path.name.endswith(half) or path.with_name(path.name.replace(half, ".json")).exists()
    ]
    before = {path: path.stat().st_mtime_ns for path in done}
    assert before
    output, errors = command("merge", path, "--with", other).communicate(timeout=200)
    assert {path: path.stat().st_mtime_ns for path in before} == before, output + errors
    assert "400 records in" in output and "240 kept" in output and "corpus v0002" in output
    merge.main(str(path), other)
    told = f"nothing to merge: v0002 holds every document of {folder}/theirs/corpus/versions/v0001"
    assert told in capsys.readouterr().out
    verify.main(str(path))
    assert "v0001, v0002: every file is what its manifest says" in capsys.readouterr().out
    assert len(list((corpus / "versions").iterdir())) == 2
