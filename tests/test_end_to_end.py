"""The whole chain as a newcomer runs it: `python -m jobs.demo`, every command with `ray job submit`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.demo_sources import collect
from tests.helpers.late import RUNNING

if RUNNING:
    from mlflow import MlflowClient
    from transformers import AutoModelForCausalLM


ROOT = Path(__file__).parents[1]
SMALL = [
    "tokenize.vocab_size=512",
    "tokenize.train_bytes=200000",
    "shard.target_tokens=100000",
    "shard.heldout_fraction=0.2",
    "model.hidden_size=32",
    "model.num_layers=2",
    "model.num_heads=2",
    "model.max_sequence_length=64",
    "train.steps=12",
    "train.log_every=2",
    "train.evaluate_every=6",
    "train.evaluate_batches=1",
    "train.checkpoint.every=6",
    "train.optimizer.warmup_steps=2",
    "evaluate.max_documents=5",
    "infer.max_new_tokens=8",
]


def demo(storage: Path) -> str:
    overrides = [argument for override in SMALL for argument in ("--set", override)]
    command = [sys.executable, "-m", "jobs.demo", "--storage", str(storage), *overrides]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_makes_a_model_and_a_second_one_repeats_nothing(tmp_path: Path) -> None:
    collect(str(tmp_path / "raw"), 0, python_bytes=600_000, docstring_bytes=300_000)
    first = demo(tmp_path)

    # The corpus has two versions, the second on top of the first.
    manifests = [
        json.loads((tmp_path / f"corpus/versions/v000{n}/manifest.json").read_text()) for n in (1, 2)
    ]
    assert [content["parent"] for content in manifests] == [None, "v0001"]
    assert set(manifests[0]["sources"]) == {
        "package_descriptions",
        "licences",
        "python_sources",
        "docstrings",
    }

    # The model has learned something, and Hugging Face reads it.
    latest = json.loads((tmp_path / "training/latest.json").read_text())["run"]
    result = json.loads((tmp_path / "training" / latest / "result.json").read_text())
    assert result["step"] == 12
    assert result["last_loss"] < result["first_loss"] - 0.2
    assert AutoModelForCausalLM.from_pretrained(result["model"]).config.model_type == "gpt_neox"

    # Every source is evaluated, every prompt is completed.
    evaluation = json.loads(next((tmp_path / "evaluation").glob("*/result.json")).read_text())
    assert evaluation["all"]["bits_per_byte"] > 1
    assert "python_sources" in evaluation["sources"]
    results = next((tmp_path / "inference").glob("*/results.jsonl")).read_text().splitlines()
    prompts = (ROOT / "configs/quickstart_prompts.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in results] == [json.loads(line)["id"] for line in prompts]
    assert all("completion" in json.loads(line) for line in results)

    # MLflow has five finished runs, each linked to the one it builds on, with their reports.
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("quickstart")
    runs = {
        run.data.tags["piledriver.command"]: run for run in client.search_runs([experiment.experiment_id])
    }
    assert set(runs) == {"prepare", "train", "evaluate", "infer", "refresh"}
    assert all(run.info.status == "FINISHED" for run in runs.values())
    for command, upstream in (
        ("train", "prepare"),
        ("evaluate", "train"),
        ("infer", "train"),
        ("refresh", "prepare"),
    ):
        assert runs[command].data.tags["piledriver.upstream"] == runs[upstream].info.run_id
    artifacts = {
        name: {item.path for item in client.list_artifacts(run.info.run_id)} for name, run in runs.items()
    }
    assert {"report.html", "manifest.json"} <= artifacts["prepare"]
    assert {"training.png", "samples.json"} <= artifacts["train"]
    assert "evaluation.png" in artifacts["evaluate"]
    assert "results.jsonl" in artifacts["infer"]
    (dataset,) = runs["train"].inputs.dataset_inputs
    assert dataset.dataset.digest == runs["train"].data.tags["piledriver.corpus"]
    assert "python_sources" in json.loads(dataset.dataset.profile)["tokens"]
    assert "system/process_memory_megabytes" in runs["train"].data.metrics
    for alias in ("latest", "best"):
        assert client.get_model_version_by_alias("quickstart", alias).source == result["model"]
    losses = client.get_metric_history(runs["train"].info.run_id, "loss")
    assert [point.step for point in losses] == sorted({point.step for point in losses})

    second = demo(tmp_path)
    assert second.count("already finished") >= 4
    assert "0 new or changed files" in second
    assert len(client.search_runs([experiment.experiment_id])) == 5
    assert "corpus v0002" in first
