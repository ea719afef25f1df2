"""jobs.dedup --against and jobs.merge as commands, the second killed in the middle and run again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

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


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, errors = process.communicate(timeout=200)
    assert process.returncode == code, output + errors
    return output + errors


def kill(session: int) -> None:
    """SIGKILL every process of a session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished corpora: of the other's 400 documents 120 are here too, and 40 nearly so."""
    place = tmp_path_factory.mktemp("merge")
    mine = texts(1, 400)
    theirs = mine[:120] + [f"{text} and more" for text in mine[120:160]] + texts(2, 240)
    path = project(place, "mine", mine, tokenize={"vocab_size": 400, "train_bytes": 50000})
    finish(command("prepare", path))
    tokenizer = str(place / "mine/corpus/versions/v0001/tokenizer.json")
    finish(command("prepare", project(place, "theirs", theirs, tokenize={"tokenizer": tokenizer})))
    return place


def test_against_another_corpus(folder: Path) -> None:
    output = finish(command("dedup", folder / "theirs.yaml", "--against", str(folder / "mine")))
    lines = output.splitlines()
    counts = {line.rsplit(": ", 1)[1]: int(line.split()[0]) for line in lines if " documents, " in line}
    assert counts == {"exact_duplicate": 120, "near_duplicate": 40}
    tables = [line.strip() for line in lines if line.startswith("  /")]
    rows = [row for table in tables for row in pq.read_table(table).to_pylist()]
    assert len(rows) == 160 and {row["kept_version"] for row in rows} == {"v0001"}
    assert len(list((folder / "theirs/corpus/versions").iterdir())) == 1
    path = project(folder, "else", texts(3, 210), tokenize={"vocab_size": 300, "train_bytes": 9000})
    finish(command("prepare", path))
    output = finish(command("dedup", path, "--against", str(folder / "mine")))
    assert f"no document of {folder}/else/corpus/versions/v0001 is in {folder}/mine/corpus" in output
    for job, option in (("dedup", "--against"), ("merge", "--with")):
        error = finish(command(job, path, option, str(folder / "nowhere")), 2)
        assert error.count("\n") == 1 and "nowhere/corpus holds no corpus version" in error
    error = finish(command("merge", path, "--with", str(folder / "mine")), 2)
    assert error.count("\n") == 1 and "only if they share a tokenizer" in error


def test_phases_and_their_rows_are_listed(folder: Path) -> None:
    output = finish(command("dedup", folder / "theirs.yaml", "--until", "candidates"))
    phases = {line.split()[0]: line.split() for line in output.splitlines() if line.endswith(" rows")}
    assert phases["exact-runs/"][3] == "400"
    assert phases["band-runs/"][3] == "5,600"
    assert "dropped/" in phases


def test_a_killed_merge_shows_nothing_and_finishes_when_run_again(folder: Path) -> None:
    corpus = folder / "mine/corpus"
    arguments = ("mine.yaml", "--with", str(folder / "theirs"))
    process = command("merge", folder / arguments[0], *arguments[1:])
    while not list(corpus.glob("work/merge/*/shards/*.json")):
        assert process.poll() is None
        time.sleep(0.005)
    kill(process.pid)
    process.wait()
    assert not (corpus / "versions/v0002/manifest.json").exists()
    done = [path for path in corpus.glob("work/merge/**/*") if path.is_file() and path.name[0] != "."]
    before = {path: path.stat().st_mtime_ns for path in done}
    assert before
    output = finish(command("merge", folder / arguments[0], *arguments[1:]))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "400 records in" in output and "240 kept" in output and "corpus v0002" in output
    again = finish(command("merge", folder / arguments[0], *arguments[1:]))
    assert f"nothing to merge: v0002 holds every document of {folder}/theirs/corpus/versions/v0001" in again
    assert "v0001, v0002: every file is what its manifest says" in finish(
        command("verify", folder / arguments[0])
    )
    assert len(list((corpus / "versions").iterdir())) == 2
