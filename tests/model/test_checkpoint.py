import json
import logging
import math
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from base import files
from base.errors import UserError
from model import journal
from model.config import GuardConfig
from model.guard import Guard
from model.job import TrainJob, check, precision_of
from model.memory import checkpoint_bytes
from tests.helpers import stores
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, SOURCES, run_here, run_processes, run_with_kills, settings
from tests.helpers.values import known

if RUNNING:
    import torch

    from model import checkpoint, pickles, restore, saver
    from model.train import train


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"), SOURCES)


def _losses(run_url: object) -> list[float | None]:
    lines = journal.read(str(run_url))
    assert [line.step for line in lines] == list(range(1, len(lines) + 1))
    return [line.loss for line in lines]


def test_killed_at_any_point_and_run_again_gives_the_same_losses(manifest: str, tmp_path: Path) -> None:
    expected = _losses(run_here(manifest, str(tmp_path / "reference"), steps=10, precision="bf16").run_url)
    run: dict[str, Any] = {
        "run_url": str(tmp_path / "run"),
        "steps": 10,
        "precision": "bf16",
        "checkpoint": {"every": 3},
    }
    for kill in ({"kill_at": 5}, {"kill_in_save": (6, "files")}, {"kill_in_save": (9, "prune")}):
        assert run_processes(1, manifest, [{**run, **kill}]) == [-9]
        if "kill_at" in kill:  # a line that was cut short
            with open(tmp_path / "run" / journal.NAME, "a") as file:
                file.write('{"step": 6, "lo')
    result = run_here(manifest, **run)
    assert result.resumed_from == 9
    assert _losses(tmp_path / "run") == expected
    assert checkpoint.steps(run["run_url"]) == [9, 10]


def test_what_a_checkpoint_names_is_on_the_disk_before_it_has_its_name(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and folder of it, and the journal up to its step."""
    run_url = tmp_path / "run"
    target = Path(checkpoint.folder(str(run_url), 2))
    synced: dict[str, int] = {}
    fsync, rename = os.fsync, os.rename
    seen: list[str] = []

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced[path] = len(_losses(run_url)) if path.endswith(journal.NAME) else 0

    def renamed(source: str, to: str) -> None:
        if Path(to) == target:
            every = [Path(source), *Path(source).rglob("*")]
            names = {
                path.parent / f".tmp-{path.name}" if path.name == checkpoint.DESCRIPTION else path
                for path in every
            }
            seen.extend(str(path) for path in names)
            on_disk = {re.sub(r"\.tmp-[0-9a-f]{12}-", ".tmp-", path) for path in synced}
            assert {str(path) for path in names} <= on_disk
            assert synced[str(run_url / journal.NAME)] == 2
        rename(source, to)
        synced.pop(str(target.parent), None)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", renamed)
    run_here(manifest, str(run_url), steps=2)
    assert len(seen) > 4 and str(target.parent) in synced


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision", "kills", "steps"), [(1, "bf16", 30, 1200), (3, "fp16", 5, 150)]
)
def test_random_kills_change_no_loss(
    manifest: str, tmp_path: Path, stage: int, precision: str, kills: int, steps: int
) -> None:
    run: dict[str, Any] = {
        "run_url": str(tmp_path / "run"),
        "steps": steps,
        "precision": precision,
        "zero_stage": stage,
    }
    run |= {"checkpoint": {"every": 4, "keep_every": 100}, "evaluate_batches": 1, "evaluate_every": 50}
    run["loss_scale"] = {"initial_power": 8, "window": 100}
    with ThreadPoolExecutor(1) as pool:  # each has one core
        killing = pool.submit(run_with_kills, manifest, run, kills, seed=stage)
        expected = _losses(run_here(manifest, **{**run, "run_url": str(tmp_path / "reference")}).run_url)
        assert killing.result() == kills
    assert _losses(tmp_path / "run") == expected and len(expected) == steps
    assert all(
        checkpoint.damage(checkpoint.folder(run["run_url"], s)) is None
        for s in checkpoint.steps(run["run_url"])
    )


@pytest.mark.parametrize("stage", [0, 3])
def test_fp16_resumes_exactly_with_its_loss_scale(manifest: str, tmp_path: Path, stage: int) -> None:
    same: dict[str, Any] = {
        "precision": "fp16",
        "zero_stage": stage,
        "loss_scale": {"initial_power": 8, "window": 3},
    }
    same["optimizer"] = {"learning_rate": 1e-2, "schedule": "constant", "warmup_steps": 2}
    whole = run_here(manifest, str(tmp_path / "whole"), (2, 7), steps=10, **same)
    for steps in (3, 6, 10):
        run_here(manifest, str(tmp_path / "parts"), (2, 7), steps=steps, **same)
    fields = ("step", "loss", "loss_scale", "gradient_norm", "learning_rate")
    before, after = journal.read(whole.run_url), journal.read(str(tmp_path / "parts"))
    assert [[getattr(line, name) for name in fields] for line in after] == [
        [getattr(line, name) for name in fields] for line in before
    ]


def test_damaged_and_unfinished_checkpoints_are_passed_over(
    manifest: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run: dict[str, Any] = {
        "run_url": str(tmp_path / "run"),
        "steps": 6,
        "checkpoint": {"every": 2, "keep_last": 3},
    }
    expected = _losses(run_here(manifest, **run).run_url)
    folders = [Path(checkpoint.folder(run["run_url"], step)) for step in (2, 4, 6)]
    weights = sorted((folders[2] / "state").iterdir())[0]
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    (folders[1] / checkpoint.DESCRIPTION).unlink()
    with caplog.at_level(logging.WARNING):
        assert restore.latest(run["run_url"]) == str(folders[0])
    assert "step_00000006 is damaged" in caplog.text and weights.name in caplog.text
    result = run_here(manifest, **run)
    assert result.resumed_from == 2 and _losses(run["run_url"]) == expected
    assert restore.latest(run["run_url"]) == str(folders[2])


def _edit_description(run_url: str, step: int, **changes: Any) -> None:
    path = Path(checkpoint.folder(run_url, step), checkpoint.DESCRIPTION)
    content = {**json.loads(path.read_text()), **changes}
    del content["seal"]
    path.write_text(json.dumps(content))


def test_a_damaged_description_stops_nothing_and_what_is_damaged_is_not_kept_in_place_of_what_is_whole(
    manifest: str, tmp_path: Path
) -> None:
    run_url = str(tmp_path / "run")
    run_here(manifest, run_url, steps=6, checkpoint={"every": 2, "keep_last": 3})
    for step, loss in ((2, 3.0), (4, math.nan), (6, 2.0)):
        _edit_description(run_url, step, evaluation_loss=loss)
    shutil.copytree(checkpoint.folder(run_url, 4), checkpoint.folder(run_url, 4) + "-good")
    assert checkpoint.steps(run_url) == [2, 4, 6] and checkpoint.best(run_url, 3) == [6, 2]
    newest = Path(checkpoint.folder(run_url, 6))
    (newest / checkpoint.DESCRIPTION).write_text('{"step": 6')
    assert checkpoint.best(run_url, 3) == [2]
    check(TrainJob(MODEL, settings(steps=6), manifest, run_url))
    with pytest.raises(UserError, match="step_00000004 has data.seed = 1234, this run has 5"):
        check(TrainJob(MODEL, settings(seed=5), manifest, run_url))
    kept = {"every": 1, "keep_last": 1, "keep_best": 1}
    result = run_here(manifest, run_url, steps=5, checkpoint=kept, rate_jump="accept")
    assert result.resumed_from == 4 and result.best_checkpoint_url == checkpoint.folder(run_url, 2)
    assert checkpoint.steps(run_url) == [2, 5] and (newest / checkpoint.DAMAGED).exists()
    assert restore.latest(run_url) == checkpoint.folder(run_url, 5)


def test_keep_policy(manifest: str, tmp_path: Path) -> None:
    policy = {"every": 1, "keep_last": 2, "keep_every": 3}
    run_here(manifest, str(tmp_path / "run"), steps=8, checkpoint=policy)
    assert checkpoint.steps(str(tmp_path / "run")) == [3, 6, 7, 8]


def test_the_best_checkpoints_stay(manifest: str, tmp_path: Path) -> None:
    policy = {"every": 2, "keep_last": 1, "keep_best": 2}
    # A rate this high makes the held-out loss rise again.
    shared: dict[str, Any] = {"checkpoint": policy, "evaluate_batches": 2, "evaluate_every": 4, "steps": 16}
    rates = {"learning_rate": 3.0, "warmup_steps": 16, "gradient_clipping": 0, "schedule": "constant"}
    result = run_here(manifest, str(tmp_path / "run"), **shared, optimizer=rates, guard={"sigmas": 0})
    losses = {}
    for line in journal.read(result.run_url):
        if line.evaluation is not None:
            losses[line.step] = sum(values["loss"] for values in line.evaluation.values()) / 2
    ranked = sorted(losses, key=lambda step: losses[step])
    assert ranked[0] != 16 and checkpoint.steps(result.run_url) == sorted({*ranked[:2], 16})
    assert result.best_checkpoint_url == checkpoint.folder(result.run_url, ranked[0])


def test_checkpoints_are_written_while_training_goes_on(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = files.sync

    def slowly(path: str) -> None:
        if "step_00000002" in path and path.endswith(".pt"):
            time.sleep(0.5)
        written(path)

    monkeypatch.setattr(files, "sync", slowly)
    results = {}
    for name, asynchronous in (("behind", True), ("before", False)):
        policy = {"every": 2, "asynchronous": asynchronous}
        results[name] = run_here(manifest, str(tmp_path / name), steps=3, checkpoint=policy)
        begin = journal.read(str(tmp_path / name))
        waited = begin[2].time - begin[1].time
        assert (waited > 0.9) == (not asynchronous)
    first, second = (checkpoint.folder(str(tmp_path / name), 2) for name in results)
    before, after = (json.loads(Path(url, checkpoint.DESCRIPTION).read_text()) for url in (first, second))
    assert before == after
    assert sum(results["before"].checkpoint_stalls) > 0.9


def test_a_checkpoint_that_cannot_be_written_costs_only_itself(
    manifest: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full(state: Any, path: Any, *rest: Any) -> None:
        save(state, path, *rest)
        if "step_00000004" in str(path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with caplog.at_level(logging.WARNING):
        result = run_here(manifest, str(tmp_path / "run"), steps=6, checkpoint={"every": 2, "keep_last": 5})
    assert "no checkpoint at step 4: OSError: rank 0: OSError: [Errno 28] No space left" in caplog.text
    assert (
        checkpoint.steps(result.run_url) == [2, 6] and checkpoint.damage(known(result.checkpoint_url)) is None
    )
    # What was half written takes no room any more.
    assert {path.name for path in Path(result.run_url, "checkpoints").iterdir()} == {
        "step_00000002",
        "step_00000006",
    }


def test_a_rank_that_fails_alone_costs_a_checkpoint_and_an_evaluation(
    manifest: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run: dict[str, Any] = {
        "run_url": str(tmp_path / "run"),
        "steps": 6,
        "damaged_shards": "skip",
        "fail": [1, 4],
    }
    run |= {"checkpoint": {"every": 2, "keep_last": 5}, "evaluate_batches": 1, "evaluate_every": 3}
    assert run_processes(2, manifest, [run]) == [0, 0]
    assert "no checkpoint at step 4: RuntimeError: rank 1 did not finish" in capfd.readouterr().err
    folders = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert folders == {"step_00000002", "step_00000006"}
    lines = [line for line in journal.read(str(tmp_path / "run")) if line.evaluation is not None]
    assert [(line.step, set(known(line.evaluation))) for line in lines] == [(3, {"b"}), (6, {"b"})]


def test_another_model_or_corpus_is_refused_by_name(manifest: str, tmp_path: Path) -> None:
    run_url = str(tmp_path / "run")
    run_here(manifest, run_url, steps=2)
    wider = TrainJob(MODEL.model_copy(update={"hidden_size": 64}), settings(), manifest, run_url)
    with pytest.raises(UserError, match="model.hidden_size = 32, this run has 64"):
        train(wider)
    with pytest.raises(UserError, match="data.seed = 1234, this run has 5"):
        run_here(manifest, run_url, seed=5)
    other = write_corpus(tmp_path / "other", SOURCES, seed=9)
    with pytest.raises(UserError, match="data.manifest_hash"):
        run_here(other, run_url)


def test_what_must_stay_the_same_in_a_run_and_what_may_change(manifest: str, tmp_path: Path) -> None:
    run_url = str(tmp_path / "run")
    run_here(manifest, run_url, steps=1)

    def job(
        mixture: dict[str, float] | None = None, model: dict[str, Any] | None = None, **train: Any
    ) -> TrainJob:
        return TrainJob(
            MODEL.model_copy(update=model or {}), settings(**train), manifest, run_url, mixture or {}
        )

    refused: list[tuple[str, dict[str, Any]]] = [
        ("data.seed", {"seed": 5}),
        ("data.global_batch_size", {"global_batch_size": 16}),
        ("data.batch_warmup", {"batch_warmup": {"start": 4, "increment": 4, "steps": 5}}),
        ("data.weights", {"mixture": {"a": 1.0, "b": 1.0}}),
        ("model.max_sequence_length", {"model": {"max_sequence_length": 16}}),
        ("model.num_layers", {"model": {"num_layers": 3}}),
        ("model.attention_reset", {"model": {"attention_reset": True}}),
        ("model.rotary_base", {"model": {"rotary_base": 500.0}}),
        ("model.precision", {"precision": "bf16"}),
    ]
    for name, changes in refused:
        with pytest.raises(UserError, match=f"step_00000001 has {name} = .*; continue with the former value"):
            check(job(**changes))
    for changes in (
        *({"micro_batch_size": 4}, {"zero_stage": 3}, {"steps": 100}, {"checkpoint": {"every": 2}}),
        {"optimizer": {"learning_rate": 1e-3}, "rate_jump": "accept"},
        *({"guard": {"sigmas": 3}}, {"log_every": 5}),
    ):
        check(job(**changes))
    _edit_description(
        run_url, 1, model={**checkpoint.read_description(checkpoint.folder(run_url, 1)).model, "new": 1}
    )
    with pytest.raises(UserError, match="has model.new = 1, this run has None"):
        check(job())


def test_a_precision_that_the_workers_choose_is_not_checked_before(manifest: str, tmp_path: Path) -> None:
    run_url = str(tmp_path / "run")
    run_here(manifest, run_url, steps=2, precision="fp16")  # as workers with GPUs would
    check(TrainJob(MODEL, settings(precision="auto"), manifest, run_url))
    with pytest.raises(UserError, match="model.precision = 'fp16', this run has 'fp32'"):
        check(TrainJob(MODEL, settings(precision="fp32"), manifest, run_url))
    chosen = precision_of(settings(precision="auto"))
    with pytest.raises(UserError, match=f"model.precision = 'fp16', this run has '{chosen}'"):
        run_here(manifest, run_url, precision="auto")


def test_no_space_keeps_the_last_checkpoint_and_goes_on(
    manifest: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: dict[str, Any] = {"run_url": str(tmp_path / "run"), "checkpoint": {"every": 2}}
    run_here(manifest, steps=2, **run)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with caplog.at_level(logging.WARNING):
        result = run_here(manifest, steps=5, **run)
    assert "no checkpoint at step 4" in caplog.text
    assert result.step == 5 and checkpoint.steps(run["run_url"]) == [2] and result.hf_url is None
    assert [path.name for path in Path(run["run_url"], "checkpoints").iterdir()] == ["step_00000002"]


def test_no_room_for_one_checkpoint_stops_before_the_first_step(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_url = str(tmp_path / "run")
    vocab_size = check(TrainJob(MODEL, settings(), manifest, run_url)).corpus.tokenizer.vocab_size
    needed = int(1.05 * checkpoint_bytes(MODEL, settings(), vocab_size))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    sentence = (
        rf"the disk of {re.escape(run_url)}/checkpoints, mounted at /\S*, has {needed:,} free bytes, "
        f"and a checkpoint needs {needed:,}; "
    )
    with pytest.raises(UserError, match=sentence):
        run_here(manifest, run_url, steps=2)
    assert not os.path.exists(run_url)
    run_here(manifest, "memory://training/no-room-here", steps=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed + 1))
    assert run_here(manifest, run_url, steps=2).checkpoint_url == checkpoint.folder(run_url, 2)


def test_training_stops_when_no_checkpoint_can_be_written(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save, whole = torch.save, "none"

    def full(state: Any, path: Any, *rest: Any) -> None:
        if "step_" in str(path) and whole not in str(path):
            raise OSError(28, "No space left on device")
        save(state, path, *rest)

    monkeypatch.setattr(torch, "save", full)
    run_url, policy = str(tmp_path / "run"), {"every": 1, "asynchronous": False}
    with pytest.raises(
        UserError, match=r"no checkpoint, and 3 in a row could not be written .*No space left"
    ):
        run_here(manifest, run_url, steps=5, checkpoint=policy)
    assert len(_losses(run_url)) == 3
    assert caplog.text.count(f"; the disk of {run_url}/checkpoints, mounted at /") == 3
    endless = run_here(manifest, run_url, steps=5, checkpoint={**policy, "stop_after_failures": 0})
    assert endless.resumed_from == 0 and endless.checkpoint_url is None
    # With one that is whole the others cost only themselves.
    whole = "step_00000001"
    policy |= {"stop_after_failures": 1}
    result = run_here(manifest, str(tmp_path / "one"), steps=4, checkpoint=policy)
    assert result.checkpoint_url == checkpoint.folder(result.run_url, 1)


def test_all_ranks_stop_when_no_checkpoint_can_be_written(
    manifest: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = {"run_url": str(tmp_path / "run"), "steps": 6, "fail": [1, 2]}
    run |= {"checkpoint": {"every": 2, "stop_after_failures": 1}}
    assert run_processes(2, manifest, [run]) == [1, 1]
    assert capfd.readouterr().err.count("1 in a row could not be written") == 2


def test_no_room_that_runs_out_counts_too(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, journal_path = shutil.disk_usage(tmp_path), tmp_path / "run" / journal.NAME
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage._replace(free=7) if journal_path.exists() else usage
    )
    with pytest.raises(UserError, match="2 in a row could not be written .*has 7 free bytes"):
        run_here(manifest, str(tmp_path / "run"), steps=9, checkpoint={"every": 2, "stop_after_failures": 2})
    assert len(_losses(tmp_path / "run")) == 4


CONSTANT = {"learning_rate": 1e-2, "schedule": "constant", "warmup_steps": 2}
"""A schedule that does not depend on the number of steps, for runs that are continued."""


def _exchange(manifest: str, run_url: Path, parts: list[tuple[int, int]], **same: Any) -> list[float | None]:
    """The losses of a run whose n-th 3 steps are trained by (workers, ZeRO stage) of parts[n]."""
    for number, (workers, stage) in enumerate(parts):
        run: dict[str, Any] = {
            "run_url": str(run_url),
            "zero_stage": stage,
            "steps": 3 * (number + 1),
            **same,
        }
        if workers == 1:
            assert run_here(manifest, optimizer=CONSTANT, **run).resumed_from == 3 * number
        else:
            assert run_processes(workers, manifest, [{"optimizer": CONSTANT, **run}]) == [0] * workers
    return _losses(run_url)


def test_workers_and_zero_stage_may_change_between_runs(manifest: str, tmp_path: Path) -> None:
    expected = _losses(run_here(manifest, str(tmp_path / "reference"), steps=12, optimizer=CONSTANT).run_url)
    losses = _exchange(manifest, tmp_path / "run", [(1, 1), (2, 3), (1, 2), (1, 0)])
    assert losses == pytest.approx(expected, abs=1e-5)
    assert not [path for path in (tmp_path / "run").rglob("*") if "universal" in path.name]


@pytest.mark.parametrize(
    "parts",
    [
        [(1, 0), (1, 1), (1, 0), (1, 2), (1, 0), (1, 3), (1, 0)],
        pytest.param([(1, 0), (2, 1), (2, 0), (1, 3)], marks=pytest.mark.slow),
    ],
)
def test_to_zero_0_and_back(manifest: str, tmp_path: Path, parts: list[tuple[int, int]]) -> None:
    reference = run_here(manifest, str(tmp_path / "reference"), steps=3 * len(parts), optimizer=CONSTANT)
    expected = _losses(reference.run_url)
    assert _exchange(manifest, tmp_path / "run", parts) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_keep_master_weights_and_loss_scale_between_zero_0_and_others(
    manifest: str, tmp_path: Path, precision: str
) -> None:
    same: dict[str, Any] = {"precision": precision, "loss_scale": {"initial_power": 8, "window": 3}}
    parts = [(1, 0), (1, 2), (1, 0), (1, 3), (1, 0)]
    reference = run_here(
        manifest, str(tmp_path / "reference"), steps=15, zero_stage=0, optimizer=CONSTANT, **same
    )
    lines = journal.read(reference.run_url)
    losses = _exchange(manifest, tmp_path / "run", parts, **same)
    # One step of ZeRO 2 or 3 rounds its gradients elsewhere than one of ZeRO 0.
    assert losses == pytest.approx([line.loss for line in lines], abs=2e-3)
    scales = [line.loss_scale for line in journal.read(str(tmp_path / "run"))]
    assert scales == [line.loss_scale for line in lines]


def test_a_remote_run_folder(manifest: str) -> None:
    run_url = "memory://training/remote"
    same: dict[str, Any] = {"optimizer": {"learning_rate": 1e-2, "schedule": "constant", "warmup_steps": 2}}
    run_here(manifest, run_url, steps=3, **same)
    result = run_here(manifest, run_url, steps=5, **same)
    assert result.resumed_from == 3 and len(_losses(run_url)) == 5
    assert len(restore.consolidated_state(known(result.checkpoint_url))) == 28


def test_a_machine_downloads_what_its_ranks_read(manifest: str, tmp_path: Path) -> None:
    same: dict[str, Any] = {"run_url": f"far://{tmp_path}/run", "zero_stage": 1, "optimizer": CONSTANT}
    machines = tmp_path / "machines"
    for steps in (3, 5):
        assert run_processes(2, manifest, [{**same, "steps": steps}], machines) == [0, 0]
    whole: dict[str, Any] = {**same, "run_url": str(tmp_path / "whole"), "steps": 5}
    assert run_processes(2, manifest, [whole]) == [0, 0]
    assert _losses(tmp_path / "run") == pytest.approx(_losses(tmp_path / "whole"), abs=1e-6)
    for rank in (0, 1):
        names = (machines / str(rank) / "downloads").read_text().split()
        states = [name for name in names if "optim_states" in name]
        assert states == [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"]
    # Damage that any rank finds counts for all of them.
    broken = next(Path(checkpoint.folder(str(tmp_path / "run"), 5)).glob("state/zero_pp_rank_1_*"))
    broken.write_bytes(broken.read_bytes()[:-1] + b"?")
    assert run_processes(2, manifest, [{**same, "steps": 6}], machines) == [0, 0]
    assert checkpoint.steps(str(tmp_path / "run")) == [3, 6]


def test_one_function_reads_what_torch_has_saved() -> None:
    folder = Path(pickles.__file__).parent
    loads = re.compile(r"(?<!safetensors\.)torch\.(serialization\.)?load\(")
    readers = [path.name for path in folder.glob("*.py") if loads.search(path.read_text())]
    assert readers == ["pickles.py"]


class _Bomb:
    """What makes a folder when pickle reads it."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.makedirs, (self.marker,)


def _poison(run_url: str, step: int, path: Path, marker: Path) -> None:
    """Put code into a file of a checkpoint, with the digest that belongs to it."""
    torch.save({**torch.load(path, weights_only=False), "foreign": _Bomb(marker)}, path)
    url = checkpoint.folder(run_url, step)
    stored = checkpoint.read_description(url).to_json()["files"]
    stored[os.path.relpath(path, url)] = {"bytes": path.stat().st_size, "digest": files.digest(str(path))}
    _edit_description(run_url, step, files=stored)
    assert checkpoint.damage(url) is None


@pytest.mark.parametrize(("stage", "later"), [(0, 0), (2, 2), (3, 3), (0, 1), (1, 3), (3, 0)])
def test_a_foreign_checkpoint_runs_nothing(manifest: str, tmp_path: Path, stage: int, later: int) -> None:
    run_url, marker = str(tmp_path / "run"), tmp_path / "marker"
    run_here(manifest, run_url, steps=2, zero_stage=stage)
    url = checkpoint.folder(run_url, 2)
    description = Path(url, checkpoint.DESCRIPTION).read_text()
    for path in sorted(Path(url, "state").glob("*.pt")):
        whole = path.read_bytes()
        _poison(run_url, 2, path, marker)
        refused = f"{re.escape(str(path))} is no file of .* nothing in it was run: it names os.makedirs$"
        with pytest.raises(UserError, match=refused):
            run_here(manifest, run_url, steps=3, zero_stage=later)
        with pytest.raises(UserError, match=refused):
            restore.consolidated_state(url)
        assert not marker.exists()
        path.write_bytes(whole)
        Path(url, checkpoint.DESCRIPTION).write_text(description)
    torch.load(_saved_bomb(tmp_path, marker), weights_only=False)
    assert marker.exists()  # so the code does run where nobody refuses it


def _saved_bomb(folder: Path, marker: Path) -> Path:
    torch.save(_Bomb(marker), folder / "bomb.pt")
    return folder / "bomb.pt"


def test_files_that_are_no_checkpoints_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for name in ("../../x", "/x", ".."):
        torch.save({"param_shapes": [{name: torch.Size([1])}]}, path)
        with pytest.raises(UserError, match=f"x.pt is no file of .* a parameter named '{name}'"):
            pickles.load(path)
        torch.save({"optimizer": ([{"state": {name: 1}}],)}, path)
        with pytest.raises(UserError, match="a parameter named"):
            pickles.load(path)
    torch.save({"a": torch.zeros(3)}, path)
    whole = path.read_bytes()
    for content in (b"", b"x", whole[: len(whole) // 2], bytes(100), b"PK\x03\x04" + bytes(50)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="x.pt is no file of a checkpoint that training writes"):
            pickles.load(path)
    with pytest.raises(FileNotFoundError):
        pickles.load(tmp_path / "absent.pt")


def test_torch_load_is_safe_within_the_guard_alone(tmp_path: Path) -> None:
    marker, before = tmp_path / "marker", torch.load
    path = _saved_bomb(tmp_path, marker)
    with pickles.guarded(), pytest.raises(UserError, match="it names os.makedirs"):
        torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    assert torch.load is before and not marker.exists()


@pytest.mark.parametrize(("written", "world"), [(4, 4), (4, 2), (2, 4), (4, 1), (4, 3)])
@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_each_file_of_a_checkpoint_is_read_by_one_rank_and_its_own_by_the_rank_that_wrote_it(
    written: int, world: int, tensor_parallel: int
) -> None:
    data, models = written // tensor_parallel, range(tensor_parallel)
    names = {
        f"state/bf16_zero_pp_rank_{part}_mp_rank_{split:02d}_optim_states.pt": part * tensor_parallel + split
        for part in range(data)
        for split in models
    }
    shared = {f"state/mp_rank_{split:02d}_model_states.pt" for split in models}
    stored = dict.fromkeys([*names, *shared], {"bytes": 1, "digest": "0"})
    order = {"manifest_hash": "0", "seed": 0, "sequence_length": 8, "weights": {}, "global_batch_size": 4}
    description = checkpoint.Description.model_validate(
        {
            **{"step": 1, "sample": 4, "guard": Guard(GuardConfig(), None).state(), "evaluation_loss": None},
            **{"model": {}, "data": order, "files": stored, "zero_stage": 1},
            **{"tensor_parallel": tensor_parallel, "world_size": written},
        }
    )
    parts = [checkpoint.own_files(description, rank, world) for rank in range(world)]
    assert sorted(name for part in parts for name in part) == sorted([*names, *shared])
    assert checkpoint.shared_files(description) == shared
    if world == written:
        assert all(name in parts[rank] for name, rank in names.items())


def test_a_machine_needs_room_for_its_share_of_a_remote_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1100))
    folder, run_url = str(tmp_path / "made"), "memory://training/share"
    assert "a checkpoint needs 2,100" in str(saver.make_room(folder, run_url, 2000, 1.0))
    assert saver.make_room(folder, run_url, 2000, 0.5) is None and os.path.isdir(folder)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_ranks_read_their_own_files_from_an_object_store(manifest: str, tmp_path: Path, stage: int) -> None:
    remote: dict[str, Any] = {"run_url": "s3://bucket/run", "zero_stage": stage, "optimizer": CONSTANT}
    here = {**remote, "run_url": str(tmp_path / "run")}
    with stores.serving("s3"):
        for run in (here, remote):
            assert run_processes(2, manifest, [{**run, "steps": 3}]) == [0, 0]
            assert run_processes(2, manifest, [{**run, "steps": 6}]) == [0, 0]
        assert _losses("s3://bucket/run") == _losses(tmp_path / "run")
    assert len(_losses(tmp_path / "run")) == 6
