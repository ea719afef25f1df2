"""What a person may get wrong: one sentence on standard error and exit code 2.

What depends on the configuration alone is in test_checks.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMMANDS = ("prepare", "train", "evaluate", "infer", "refresh", "plan", "verify", "export", "dedup", "merge")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text('{"text": "something"}\n')
    config = {
        "name": "test",
        "storage": str(tmp_path / "project"),
        "sources": [{"name": "a", "urls": [f"{tmp_path}/raw/*.jsonl"]}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "config.yaml"


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"jobs.{command}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def mistake(command: str, path: Path, *arguments: str) -> str:
    finished = run(command, "--config", str(path), *arguments)
    assert finished.returncode == 2, finished.stdout + finished.stderr
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    finished = run(command, "--help")
    assert finished.returncode == 0
    assert f"python -m jobs.{command} --config" in finished.stdout


def test_configuration(path: Path) -> None:
    assert "unknown key tokenise" in mistake("prepare", path, "--set", "tokenise.vocab_size=1")
    assert "train.precision = 'fp8'" in mistake("plan", path, "--set", "train.precision=fp8")
    assert "workers 0 must be at least 1" in mistake("plan", path, "--workers", "0")
    assert "does not exist" in mistake("train", path.with_name("none.yaml"))
    assert "no file matches /nowhere/x*" in mistake("prepare", path, "--set", "sources.0.urls=[/nowhere/x*]")
    assert "none of the phases" in mistake("dedup", path, "--until", "shuffle")


def test_a_cluster_that_is_not_there(path: Path) -> None:
    assert "ray.address" in mistake("prepare", path, "--set", "ray.address=127.0.0.1:1")


def test_a_corpus_that_is_not_one(path: Path, tmp_path: Path) -> None:
    for command in ("train", "refresh"):
        assert "holds no corpus version; run jobs.prepare first" in mistake(command, path)
    assert "holds no corpus version; run jobs.prepare first" in mistake("verify", path)
    assert "holds no version v0003" in mistake("verify", path, "--version", "v0003")
    folder = tmp_path / "project/corpus/versions/v0001"
    folder.mkdir(parents=True)
    assert "v0001 is not a corpus version" in mistake("train", path, "--corpus", "v0001")
    (folder / "manifest.json").write_text("{broken")
    assert "is not a corpus manifest" in mistake("train", path, "--corpus", "v0001")


def test_a_model_that_is_not_one(path: Path, tmp_path: Path) -> None:
    for command in ("evaluate", "infer"):
        arguments = ["--set", f"infer.prompts={path}"]
        assert "no finished run; run jobs.train first" in mistake(command, path, *arguments)
        assert "neither a finished run" in mistake(command, path, "--model", str(tmp_path), *arguments)


@pytest.mark.train
def test_a_checkpoint_that_does_not_fit_the_model(path: Path, tmp_path: Path) -> None:
    from model.config import ModelConfig
    from model.convert import export_hf
    from model.neox import NeoX

    small = ModelConfig(hidden_size=16, num_layers=1, num_heads=2)
    folder = tmp_path / "hf"
    export_hf(NeoX(small, 300).state_dict(), small, 300, str(folder))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "hidden_size": 32}))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "x"}\n')
    message = mistake("infer", path, "--model", str(folder), "--set", f"infer.prompts={prompts}")
    assert "does not fit" in message
    assert "32" in message
    assert "16" in message


def test_mistakes_are_found_before_ray_is_imported(path: Path) -> None:
    code = f"""
import sys
sys.argv = ["prepare", "--config", {str(path)!r}, "--set", "sources.0.urls=[/nowhere]"]
import jobs.session, jobs.prepare
try:
    jobs.session.run(jobs.prepare.main)
except SystemExit as exit:
    print(exit.code, "ray" in sys.modules, "torch" in sys.modules)
"""
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert finished.stdout.split() == ["2", "False", "False"]
