import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import UserError
from model import journal
from model.config import GuardConfig
from model.guard import Guard, GuardState
from model.journal import Rollback
from model.run import Summary
from tests.helpers import training
from tests.helpers.corpus import write_corpus
from tests.helpers.training import SOURCES, run_here, run_processes
from tests.helpers.values import known

RULE: dict[str, Any] = {"window": 8, "rollback_after": 3}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"), SOURCES)


def test_six_sigma_of_the_accepted_steps() -> None:
    guard = Guard(GuardConfig(window=40))
    generator = np.random.default_rng(0)
    for value in generator.normal(3, 0.1, 60):
        assert guard.judge(value, 10 * value) is None
        guard.accept(value, 10 * value)
    mean, deviation = float(np.mean(guard.losses)), float(np.std(guard.losses))
    assert len(guard.losses) == len(guard.norms) == 40
    assert guard.judge(mean + 5.9 * deviation, 30.0) is None
    reason = guard.judge(mean + 6.1 * deviation, 30.0)
    assert reason is not None and reason.startswith("loss 3.") and "6.1 sigma above" in reason
    assert "gradient norm 60 is" in str(guard.judge(3.0, 60.0))
    assert guard.judge(math.nan, 1.0) == "loss is not finite"
    assert guard.judge(3.0, math.inf) == "gradient norm is not finite"
    again = Guard(
        GuardConfig(window=40),
        GuardState.from_json(json.loads(json.dumps(guard.state().to_json())), "a checkpoint"),
    )
    assert again.state() == guard.state()


def test_a_flat_curve_has_no_spikes() -> None:
    guard = Guard(GuardConfig(window=8))
    for _ in range(8):
        guard.accept(2.0, 1.0)
    assert guard.judge(2.1, 1.05) is None and guard.judge(2.2, 1.0) is not None


def test_a_guard_judges_from_half_a_window_on_and_only_what_is_above() -> None:
    guard = Guard(GuardConfig(window=8))
    for number in range(8):
        sane = number < 4
        assert (guard.judge(50.0, 5.0) is None) == sane and (guard.judge(3.0, 90.0) is None) == sane
        assert guard.judge(0.1, 0.1) is None
        guard.accept(3.0, 5.0 + number % 2)
    assert Guard(GuardConfig(window=8, sigmas=0), guard.state()).judge(1e9, 1e9) is None
    # The floor of the deviation is a share of the mean, whatever the mean is.
    for mean in (1e-3, 1e3):
        flat = Guard(GuardConfig(window=4), GuardState(losses=[mean] * 4, norms=[mean] * 4))
        assert flat.judge(1.059 * mean, mean) is None and flat.judge(1.061 * mean, mean) is not None


def test_only_bad_steps_in_a_row_lead_back() -> None:
    guard = Guard(GuardConfig(rollback_after=3, max_rollbacks=2))
    assert [guard.refuse() for _ in range(2)] == [False, False]
    guard.accept(3.0, 1.0)
    assert [guard.refuse() for _ in range(4)] == [False, False, True, False]
    state = GuardState(losses=[1.0], norms=[2.0], streak=0)
    again = Guard(GuardConfig(), guard.state())
    assert (again.losses, again.norms, again.streak) == ([3.0], [1.0], 4)
    for _ in range(2):
        assert guard.roll_back(5, state, "") == 5 and guard.state() == state
        guard.accept(9.0, 9.0)
    assert guard.roll_back(7, state, "") == 7
    with pytest.raises(UserError, match="steps 3, after 2 returns to the checkpoint of step 5"):
        guard.roll_back(5, state, "steps 3")


def test_an_overflow_at_a_static_loss_scale_is_a_bad_step(manifest: str, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"precision": "fp16", "loss_scale": {"static": 8.0}, "steps": 8}
    shared |= {"guard": {"rollback_after": 2}, "checkpoint": {"every": 3}}
    result = run_here(manifest, str(tmp_path / "run"), (4, 5), **shared)
    lines = journal.read(result.run_url)
    assert {line.loss_scale for line in lines} == {8.0} and result.rollbacks == 1
    assert lines[4].reason == "overflow at the loss scale 8" and lines[4].rollback is None
    assert lines[5].rollback == Rollback(step=3, samples=[24, 48])


def _same_weights(first: Summary, second: Summary) -> bool:
    from model import restore

    before, after = (restore.consolidated_state(known(run.checkpoint_url)) for run in (first, second))
    return set(before) == set(after) and all(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize(
    ("precision", "stage"), [("fp32", 0), ("bf16", 0), ("fp32", 1), ("fp16", 2), ("fp32", 3)]
)
def test_a_spike_is_skipped_and_changes_nothing(
    manifest: str, tmp_path: Path, precision: str, stage: int
) -> None:
    shared: dict[str, Any] = {"precision": precision, "zero_stage": stage, "guard": RULE}
    shared["optimizer"] = {"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "constant"}
    shared["loss_scale"] = {"initial_power": 4}
    result = run_here(manifest, str(tmp_path / "run"), spikes=(11,), steps=12, **shared)
    line = journal.read(result.run_url)[-1]
    assert line.skipped and line.samples == [88, 96] and known(line.reason).startswith("gradient norm")
    assert known(line.gradient_norm) > 50
    shorter = run_here(manifest, str(tmp_path / "shorter"), steps=11, **shared)
    assert _same_weights(result, shorter)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_bad_steps_lead_back_to_the_checkpoint_and_resume_exactly(
    manifest: str, tmp_path: Path, stage: int
) -> None:
    from model import checkpoint

    shared: dict[str, Any] = {"zero_stage": stage, "guard": RULE, "steps": 24, "spikes": (13, 14, 15)}
    shared |= {"checkpoint": {"every": 5, "keep_last": 9}, "overflows": (4,)}
    result = run_here(manifest, str(tmp_path / "whole"), **shared)
    lines = journal.read(result.run_url)
    assert [line.step for line in lines] == list(range(1, 25))
    assert [line.step for line in lines if line.skipped] == [5, 14, 15, 16]
    # No checkpoint after step 5, which was bad; then one after 10, to which step 16 goes back.
    assert checkpoint.steps(result.run_url) == [10, 20, 24]
    assert lines[15].rollback == Rollback(step=10, samples=[80, 128])
    assert result.rollbacks == 1 and known(result.last_loss) < known(result.first_loss) - 0.3
    # Killed anywhere after the checkpoint of step 10, it does the same again.
    for cut in (10, 12, 16, 20):
        run_url = tmp_path / f"cut-{cut}"
        shutil.copytree(tmp_path / "whole", run_url)
        for step in checkpoint.steps(str(run_url)):
            if step > cut:
                shutil.rmtree(checkpoint.folder(str(run_url), step))
        journal_path = run_url / journal.NAME
        journal_path.write_text("".join(journal_path.read_text().splitlines(keepends=True)[:cut]))
        again = run_here(manifest, str(run_url), **shared)
        assert again.resumed_from == (20 if cut == 20 else 10)
        clock = ("time", "tokens_per_second", "mfu", "loader_wait", "system")
        for record, before in zip(journal.read(str(run_url)), lines, strict=True):
            changed = {name for name, value in record if value != getattr(before, name)}
            assert changed <= set(clock)
        assert _same_weights(result, again)


def test_a_return_on_a_step_of_evaluation_leaves_no_held_out_loss(manifest: str, tmp_path: Path) -> None:
    from model import checkpoint

    shared: dict[str, Any] = {"guard": RULE, "checkpoint": {"every": 5, "keep_last": 9}}
    shared |= {"evaluate_every": 5, "evaluate_batches": 1}
    result = run_here(manifest, str(tmp_path / "run"), spikes=(12, 13, 14), steps=16, **shared)
    lines = {line.step: line for line in journal.read(result.run_url)}
    assert known(lines[15].rollback).step == 10 and lines[15].evaluation is None
    for step in (5, 10, 15, 16):
        folder = Path(checkpoint.folder(result.run_url, step))
        loss = json.loads((folder / checkpoint.DESCRIPTION).read_text())["evaluation_loss"]
        assert (loss is None) == (step == 15)


def test_stages_agree_after_a_return(manifest: str, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"guard": RULE, "steps": 20, "spikes": (13, 14, 15), "checkpoint": {"every": 5}}
    curves = []
    for stage in (0, 1, 2, 3):
        run_here(manifest, str(tmp_path / str(stage)), zero_stage=stage, **shared)
        curves.append([line.loss for line in journal.read(str(tmp_path / str(stage)))])
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=1e-5)


def test_endless_overflow_goes_back_too(manifest: str, tmp_path: Path) -> None:
    rule = {"initial_power": 1, "hysteresis": 1, "minimum": 1.0}
    shared: dict[str, Any] = {
        "precision": "fp16",
        "loss_scale": rule,
        "checkpoint": {"every": 5},
        "steps": 14,
    }
    shared["guard"] = {"rollback_after": 2}
    curves = []
    for stage in (0, 1, 2, 3):
        run_url = str(tmp_path / str(stage))
        result = run_here(manifest, run_url, (6, 7, 8), zero_stage=stage, **shared)
        lines = journal.read(run_url)
        assert lines[6].reason == "overflow" and lines[6].rollback is None
        assert lines[8].rollback == Rollback(step=5, samples=[40, 72])
        assert lines[8].reason == "overflow at the loss scale 1" and lines[9].loss_scale == 2
        assert known(result.last_loss) < known(result.first_loss)
        curves.append([line.loss for line in lines])
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=0.01)
    rule["initial_power"] = 0
    stuck = r"steps 2 to 3 \(samples 8 to 23\) are skipped: overflow at the loss scale 1, and there is no way"
    with pytest.raises(UserError, match=stuck):
        run_here(manifest, str(tmp_path / "stuck"), (1, 2, 3), **shared)


def test_no_way_back_and_going_round_in_circles_are_named(manifest: str, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"steps": 30, "overflows": tuple(range(6, 30)), "checkpoint": {"every": 5}}
    early = r"steps 7 to 9 \(samples 48 to 71\) are skipped: gradient norm is not finite, and there is no way"
    with pytest.raises(UserError, match=early):
        run_here(manifest, str(tmp_path / "none"), guard=RULE, **{**shared, "checkpoint": {"every": 100}})
    with pytest.raises(UserError, match="after 2 returns to the checkpoint of step 5; lower the learning"):
        run_here(manifest, str(tmp_path / "circles"), guard=RULE, **shared)
    never = {**RULE, "rollback_after": 0}
    assert run_here(manifest, str(tmp_path / "never"), guard=never, **shared).skipped_steps == 24


def test_a_rank_that_hangs_is_named_with_its_stack(
    manifest: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_url = tmp_path / "run"
    run = {"run_url": str(run_url), "guard": {"hang_seconds": 3}, "hang": [1, 3]}
    assert 76 in run_processes(2, manifest, [run])
    assert f"in step 4, at {training.__file__}:" in capfd.readouterr().err
    report = json.loads((run_url / "hangs" / "rank_00001.json").read_text())
    assert report["rank"] == 1 and not report["waits"] and report["doing"] == "step 4"
    assert any("time.sleep(1000)" in line for line in report["stacks"]["MainThread"])
    assert "training.py" in (run_url / "hangs" / "rank_00001.txt").read_text()
    other = run_url / "hangs" / "rank_00000.json"
    assert not other.exists() or json.loads(other.read_text())["waits"]
    assert len(journal.read(str(run_url))) == 3
