import itertools
import json
import math
import operator
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from base.errors import UserError
from model import journal
from model.config import OptimizerConfig
from model.job import TrainJob, check
from model.schedule import learning_rate
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, SOURCES, run_here, run_processes, settings, start
from tests.helpers.values import known

if RUNNING:
    import torch

    from model import checkpoint, restore
    from model.convert import export_hf, import_hf
    from model.deepspeed_settings import deepspeed_config
    from model.engine import build_engine, initialize_distributed
    from model.meter import Meter
    from model.neox import NeoX
    from model.train import train


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"), SOURCES)


def _losses(run_url: object) -> list[float | None]:
    return [line.loss for line in journal.read(str(run_url))]


def test_schedules_are_plain_functions_of_the_step() -> None:
    values = {"learning_rate": 1.0, "min_learning_rate": 0.1, "warmup_steps": 10}
    cosine = OptimizerConfig(**values, schedule="cosine")
    assert learning_rate(cosine, 0, 110) == pytest.approx(0.1)
    assert learning_rate(cosine, 10, 110) == pytest.approx(1.0)
    assert learning_rate(cosine, 60, 110) == pytest.approx(0.55)
    assert learning_rate(cosine, 110, 110) == pytest.approx(0.1)
    wsd = OptimizerConfig(**values, schedule="wsd", decay_fraction=0.2)
    assert [learning_rate(wsd, step, 100) for step in (20, 79, 89, 99)] == pytest.approx([1, 1, 0.55, 0.1])
    late = OptimizerConfig(**{**values, "warmup_steps": 90}, schedule="wsd", decay_fraction=0.2)
    assert [learning_rate(late, step, 100) for step in (44, 89, 94, 99)] == pytest.approx([0.5, 1, 0.55, 0.1])
    assert learning_rate(OptimizerConfig(**values, schedule="constant"), 99, 100) == 1.0


def test_every_stage_gives_the_same_curve(manifest: str, tmp_path: Path) -> None:
    reference = run_here(manifest, str(tmp_path / "reference"), micro_batch_size=8, zero_stage=0)
    expected = _losses(reference.run_url)
    assert len(expected) == 8 and known(expected[-1]) < known(expected[0]) - 0.3
    for stage in (1, 2, 3):
        run_here(manifest, str(tmp_path / f"one-{stage}"), zero_stage=stage)
        assert _losses(tmp_path / f"one-{stage}") == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_stage_workers_accumulation_and_precision_give_the_same_curve(manifest: str, tmp_path: Path) -> None:
    bounds = {"fp32": 1e-5, "bf16": 2e-3, "fp16": 5e-4}
    matrix = list(itertools.product(bounds, (0, 1, 2, 3), (1, 2), (1, 2)))
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for precision, stage, workers, accumulation in matrix:
        runs[workers].append(
            {
                "run_url": str(tmp_path / f"{precision}-{stage}-{workers}-{accumulation}"),
                "precision": precision,
                "zero_stage": stage,
                "micro_batch_size": 8 // workers // accumulation,
            }
        )
    processes = [process for workers, group in runs.items() for process in start(workers, manifest, group)]
    assert [process.wait(timeout=400) for process in processes] == [0, 0, 0]
    apart = dict.fromkeys(bounds, 0.0)
    for precision, *rest in matrix:
        expected = _losses(tmp_path / f"{precision}-0-1-1")
        losses = _losses(tmp_path / "-".join([precision, *map(str, rest)]))
        assert len(losses) == len(expected) == 8 and known(expected[-1]) < known(expected[0]) - 0.3
        apart[precision] = max(apart[precision], *map(abs, map(operator.sub, losses, expected)))
    print("largest difference of a loss:", apart)
    assert all(apart[precision] <= bound for precision, bound in bounds.items()), apart


def test_batch_warm_up_gives_the_same_curve_everywhere(manifest: str, tmp_path: Path) -> None:
    warmup = {"start": 4, "increment": 4, "steps": 6}
    shared: dict[str, Any] = {"global_batch_size": 16, "batch_warmup": warmup, "steps": 9}
    result = run_here(manifest, str(tmp_path / "reference"), zero_stage=0, micro_batch_size=4, **shared)
    expected = _losses(result.run_url)
    lines = journal.read(result.run_url)
    samples = [4, 8, 16, 24, 36, 48, 64, 80, 96]
    assert [line.tokens for line in lines] == [32 * number for number in samples]
    plain = run_here(manifest, str(tmp_path / "plain"), zero_stage=0, global_batch_size=4, steps=9)
    assert expected[:2] == pytest.approx(_losses(plain.run_url)[:2], abs=1e-5)
    for stage in (1, 2, 3):
        run_here(manifest, str(tmp_path / str(stage)), zero_stage=stage, **shared)
        assert _losses(tmp_path / str(stage)) == pytest.approx(expected, abs=1e-5)
    run = {"run_url": str(tmp_path / "two"), "zero_stage": 2, **shared}
    assert run_processes(2, manifest, [run]) == [0, 0]
    assert _losses(tmp_path / "two") == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match="data.batch_warmup = "):
        run_here(manifest, str(tmp_path / "two"), **{**shared, "batch_warmup": None})


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.01), ("fp16", 0.005)])
def test_half_precisions_follow_fp32(manifest: str, tmp_path: Path, precision: str, bound: float) -> None:
    expected = _losses(run_here(manifest, str(tmp_path / "fp32")).run_url)
    for stage in (0, 1, 2, 3):
        run_url = str(tmp_path / f"{precision}-{stage}")
        run_here(manifest, run_url, precision=precision, zero_stage=stage)
        assert _losses(run_url) == pytest.approx(expected, abs=bound)


def _scales(overflows: set[int], steps: int, power: int, window: int, hysteresis: int) -> list[float]:
    """The dynamic rule, told anew: scale of each step."""
    scale, patience, clean, scales = 2.0**power, hysteresis, 0, []
    for step in range(steps):
        scales.append(scale)
        if step in overflows:
            clean = 0
            if patience == 1:
                scale /= 2
            else:
                patience -= 1
        else:
            if clean and clean % window == 0:
                scale, patience = scale * 2, hysteresis
            clean += 1
    return scales


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_scripted_overflows_are_skipped_and_the_loss_scale_follows_the_rule(
    manifest: str, tmp_path: Path, stage: int
) -> None:
    overflows = (1, 2, 3, 9, 15, 16)
    rule = {"initial_power": 10, "window": 4, "hysteresis": 2}
    changes: dict[str, Any] = {"precision": "fp16", "zero_stage": stage, "steps": 18, "loss_scale": rule}
    result = run_here(manifest, str(tmp_path / "run"), overflows, **changes)
    lines = journal.read(result.run_url)
    assert [line.step - 1 for line in lines if line.skipped] == list(overflows)
    assert [line.loss_scale for line in lines] == _scales(set(overflows), 18, 10, 4, 2)
    assert lines[9].samples == [72, 80] and lines[9].gradient_norm is None
    assert result.skipped_steps == len(overflows)
    losses = _losses(result.run_url)
    assert known(losses[-1]) < known(losses[0])


@pytest.mark.parametrize(("precision", "stage"), [("fp32", 0), ("fp32", 1), ("bf16", 1), ("fp32", 3)])
def test_a_step_that_is_not_finite_changes_nothing(
    manifest: str, tmp_path: Path, precision: str, stage: int
) -> None:
    shared: dict[str, Any] = {"precision": precision, "zero_stage": stage}
    shared["optimizer"] = {"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "constant"}
    result = run_here(manifest, str(tmp_path / "run"), (7,), **shared)
    shorter = run_here(manifest, str(tmp_path / "shorter"), steps=7, **shared)
    assert journal.read(result.run_url)[7].skipped
    before = restore.consolidated_state(known(shorter.checkpoint_url))
    after = restore.consolidated_state(known(result.checkpoint_url))
    assert set(before) == set(after) and all(before[name].equal(after[name]) for name in before)


def test_evaluation_reports_loss_and_bits_per_byte_by_source(manifest: str, tmp_path: Path) -> None:
    result = run_here(manifest, str(tmp_path / "run"), evaluate_batches=2, evaluate_every=4)
    lines = [line for line in journal.read(result.run_url) if line.evaluation is not None]
    assert [line.step for line in lines] == [4, 8]
    assert set(result.evaluation) == {"a", "b"}
    tokens = {"a": 400, "b": 666}
    for source, values in result.evaluation.items():
        assert values["loss"] < known(lines[0].evaluation)[source]["loss"]
        expected = values["loss"] * tokens[source] / (1000 * math.log(2))
        assert values["bits_per_byte"] == pytest.approx(expected)


CONSTANT = {"learning_rate": 1e-2, "schedule": "constant", "warmup_steps": 2}


def test_journal_and_summary_tell_what_was_trained(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, counted = Meter.read, list[int]()

    def count(meter: Meter, tokens: int) -> dict[str, float]:
        counted.append(tokens)
        return {**read(meter, tokens), "mfu": len(counted) / 8}

    def clock(seconds: float) -> None:
        """Let training take so long."""
        moments = iter([7.0, 7.0 + seconds])
        monkeypatch.setattr("model.train.time", SimpleNamespace(perf_counter=lambda: next(moments)))

    monkeypatch.setattr(Meter, "read", count)
    clock(4.0)
    run: dict[str, Any] = {"run_url": str(tmp_path / "run"), "optimizer": CONSTANT, "log_every": 3}
    run |= {"global_batch_size": 16, "batch_warmup": {"start": 4, "increment": 4, "steps": 3}}
    run |= {"evaluate_batches": 1, "evaluate_every": 4, "checkpoint": {"every": 3, "keep_last": 9}}
    summary = run_here(manifest, **run, steps=7, overflows=(4,))
    ends = [0, 4, 12, 24, 40, 56, 72, 88, 104, 120]
    """The first sample after each step."""
    lines = journal.read(summary.run_url)
    assert [line.step for line in lines] == [1, 3, 4, 5, 6, 7]
    assert [line.tokens for line in lines] == [32 * ends[line.step] for line in lines]
    assert counted == [32 * (ends[b] - ends[a]) for a, b in itertools.pairwise([0, 1, 3, 4, 5, 6, 7])]
    assert all(line.loader_wait > 0 for line in lines)
    assert [line.samples for line in lines] == [None, None, None, [40, 56], None, None]
    assert [line.step for line in lines if line.evaluation is not None] == [4, 7]
    assert summary.evaluation == lines[-1].evaluation != lines[2].evaluation
    assert (summary.step, summary.tokens, summary.resumed_from) == (7, 32 * 88, 0)
    assert (summary.first_loss, summary.last_loss) == (lines[0].loss, lines[-1].loss)
    assert (summary.skipped_steps, summary.rollbacks, summary.mfu) == (1, 0, 6 / 8)
    assert summary.tokens_per_second == 32 * 88 / 4
    assert len(summary.checkpoint_stalls) == 3 and min(summary.checkpoint_stalls) > 0
    assert summary.checkpoint_url == checkpoint.folder(summary.run_url, 7)
    described = [checkpoint.read_description(checkpoint.folder(summary.run_url, step)) for step in (3, 6, 7)]
    assert [(one.step, one.sample) for one in described] == [(3, 24), (6, 72), (7, 88)]
    held = known(lines[-1].evaluation)
    mean = sum(values["loss"] for values in held.values()) / len(held)
    assert [one.evaluation_loss for one in described] == [None, None, pytest.approx(mean)]
    assert summary.best_checkpoint_url == summary.checkpoint_url
    # Again, with nothing left to do.
    clock(4.0)
    again = run_here(manifest, **run, steps=7)
    nothing: dict[str, Any] = {"tokens_per_second": None, "checkpoint_stalls": [], "resumed_from": 7}
    assert again == summary.model_copy(update=nothing)
    # Two steps more are the work of two steps.
    clock(2.0)
    more = run_here(manifest, **run, steps=9)
    assert (more.tokens, more.tokens_per_second, more.resumed_from) == (32 * 120, 32 * 32 / 2, 7)
    assert more.first_loss == summary.first_loss and more.skipped_steps == 1


def test_lines_are_told_as_they_are_written_and_a_remote_journal_is_there_with_a_checkpoint(
    manifest: str,
) -> None:
    run_url, told, there = "memory://training/told", list[journal.StepRecord](), list[int]()

    def tell(record: journal.StepRecord) -> None:
        told.append(record)
        there.append(len(journal.read(run_url)))

    train(TrainJob(MODEL, settings(steps=5, checkpoint={"every": 2}), manifest, run_url), on_metrics=tell)
    assert told == journal.read(run_url) and there == [0, 0, 2, 2, 4]


def test_settings_reach_the_model_and_its_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[NeoX] = []
    monkeypatch.setattr(NeoX, "compile_parts", lambda model: compiled.append(model))
    initialize_distributed()
    given = settings(activation_checkpointing=True, loss_chunk=7, compile=True, seed=3, zero_stage=0)
    model = build_engine(MODEL, given, 128, 5, 1).module
    assert compiled == [model] and model.embed_out.chunk == 7
    assert model.activation_checkpointing and model.end_of_document_id == 5
    wanted = NeoX(MODEL, 128, seed=3).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    plain = build_engine(MODEL, settings(), 128, 5, 1).module
    assert len(compiled) == 1 and not plain.activation_checkpointing


def test_settings_reach_deepspeed() -> None:
    rule = {"static": 8.0, "initial_power": 3, "window": 5, "hysteresis": 7, "minimum": 2.0}
    changes: dict[str, Any] = {"loss_scale": rule, "precision": "fp16", "zero_stage": 2}
    changes |= {"optimizer": {"gradient_clipping": 0.7}, "deepspeed": {"prescale_gradients": True}}
    found = deepspeed_config(settings(**changes, offload_optimizer=True), 2, 10**6)
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert [found[name] for name in sizes] == [8, 2, 2]
    assert found["gradient_clipping"] == 0.7 and found["prescale_gradients"] is True
    assert found["fp16"] == {
        "enabled": True,
        "loss_scale": 8.0,
        "initial_scale_power": 3,
        "loss_scale_window": 5,
        "hysteresis": 7,
        "min_loss_scale": 2.0,
    }
    assert found["zero_optimization"]["stage"] == 2
    assert found["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert found["bf16"]["enabled"] is False and "tensor_parallel" not in found
    split = deepspeed_config(settings(precision="bf16", tensor_parallel=2, workers=4), 4, 10**6)
    assert split["bf16"] == {"enabled": True, "check_grad_overflow": True}
    assert split["gradient_accumulation_steps"] == 2 and split["fp16"]["enabled"] is False
    assert "offload_optimizer" not in split["zero_optimization"]
    assert split["tensor_parallel"]["autotp_size"] == 2
    kinds = {
        pattern: spec["partition_type"]
        for spec in split["tensor_parallel"]["partition_config"]["layer_specs"]
        for pattern in spec["patterns"]
    }
    assert list(kinds.values()) == ["column", "column", "row", "row"]
    assert ["query_key" in pattern or "_h_to_4h" in pattern for pattern in kinds] == [
        True,
        True,
        False,
        False,
    ]


def test_a_warm_up_that_the_run_ends_in_is_a_warning(
    manifest: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for warmup, told in ((8, False), (9, True)):
        check(TrainJob(MODEL, settings(optimizer={"warmup_steps": warmup}), manifest, str(tmp_path / "run")))
        assert ("the run ends in its warm-up" in caplog.text) == told


def test_bad_settings_are_named_before_training(manifest: str, tmp_path: Path) -> None:
    job = TrainJob(MODEL, settings(global_batch_size=1000), manifest, str(tmp_path / "run"))
    with pytest.raises(UserError, match="fewer than one batch of 1000"):
        check(job)
    job = TrainJob(MODEL, settings(workers=3, tensor_parallel=3, global_batch_size=6), manifest, "")
    with pytest.raises(UserError, match=r"tensor_parallel = 3 must divide model.num_heads = 4 and the MLP's"):
        check(job)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="train.compile: on a CPU torch .* fp32 alone, not bf16"):
            run_here(manifest, str(tmp_path / "run"), compile=True, precision="bf16")
    assert not (tmp_path / "run").exists() or not journal.read(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offload_optimizer": True, "zero_stage": 0}, "offload_optimizer needs zero_stage 1, 2 or 3, not 0"),
        ({"compile": True, "zero_stage": 3}, "compile needs zero_stage 0, 1 or 2, not 3"),
        ({"optimizer": {"learning_rate": 1e-5}}, "min_learning_rate 0.0001 must not be above learning_rate"),
        ({"optimizer": {"learning_rate": math.inf}}, "finite number"),
        ({"optimizer": {"betas": (1.5, -3)}}, r"betas \[1.5, -3.0\] must each be at least 0 and below 1"),
    ],
)
def test_settings_that_contradict_each_other_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_a_shard_damaged_in_the_middle_of_training_stops_or_is_skipped(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, SOURCES)
    run: dict[str, Any] = {"run_url": str(tmp_path / "run"), "steps": 12, "checkpoint": {"every": 3}}
    run["rate_jump"] = "accept"
    run_here(manifest, **{**run, "steps": 6})
    shard = tmp_path / "corpus" / "versions" / "v0001" / "shards" / "a" / "train-00001.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[:1000])
    with pytest.raises(UserError, match=r"a/train-00001.arrow is damaged: "):
        run_here(manifest, **run)
    result = run_here(manifest, **run, damaged_shards="skip")
    assert result.resumed_from == 6 and result.step == 12
    shard.write_bytes(content)
    held = tmp_path / "corpus" / "versions" / "v0001" / "shards" / "b" / "heldout-00000.arrow"
    held.write_bytes(b"")
    evaluated = {**run, "steps": 13, "evaluate_batches": 1}
    evaluated["optimizer"] = {"schedule": "constant", "warmup_steps": 2}
    with pytest.raises(UserError, match=r"b/heldout-00000.arrow is damaged"):
        run_here(manifest, **evaluated)
    assert set(run_here(manifest, **evaluated, damaged_shards="skip").evaluation) == {"a"}


def test_a_vocabulary_or_mixture_that_does_not_fit_is_named(manifest: str, tmp_path: Path) -> None:
    for mixture, message in [
        ({"a": 1.0, "c": 1.0}, "mixture.c"),
        ({"a": 1.0}, "b"),
    ]:
        with pytest.raises(UserError, match=message):
            check(TrainJob(MODEL, settings(), manifest, str(tmp_path / "run"), mixture))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"zero_optimisation": {}}, "train.deepspeed.zero_optimisation: unknown or not supported; known are"),
        (
            {"zero_optimization": {"sub_group": 1}},
            "zero_optimization.sub_group: DeepSpeed does not know this",
        ),
        ({"zero_optimization": {"sub_group_size": "x"}}, "sub_group_size = 'x': Input should be"),
        ({"zero_optimization": {"cpu_offload": True}}, "cpu_offload: set train.offload_optimizer instead"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, "offload_param: not supported; only"),
        (
            {"communication_data_type": "fp17"},
            "communication_data_type = 'fp17': Input should be 'fp16', 'bf16'",
        ),
        ({"gradient_predivide_factor": "abc"}, "gradient_predivide_factor = 'abc': Input should be a valid"),
        ({"prescale_gradients": "no"}, "prescale_gradients = 'no': Input should be a valid boolean"),
        ({"zero_optimization": {"stage": 2}}, "zero_optimization.stage: set train.zero_stage instead"),
        (
            {"zero_optimization": {"compute_grad_norm": False}},
            "set train.guard, which needs the norm, instead",
        ),
        ({"train_batch_size": 2}, "deepspeed.train_batch_size: set train.global_batch_size instead"),
        ({"zero_optimization": 3}, "zero_optimization = 3: it is a section"),
    ],
)
def test_unknown_deepspeed_keys_are_named(
    manifest: str, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    job = TrainJob(MODEL, settings(deepspeed=keys), manifest, str(tmp_path / "run"))
    with pytest.raises(UserError, match=message):
        check(job)


def test_deepspeed_keys_reach_the_engine(manifest: str, tmp_path: Path) -> None:
    given = settings(deepspeed={"zero_optimization": {"sub_group_size": 1000}}, zero_stage=3)
    assert deepspeed_config(given, 1, 10**6)["zero_optimization"]["sub_group_size"] == 1000
    expected = _losses(run_here(manifest, str(tmp_path / "plain")).run_url)
    changes = given.model_dump(include={"deepspeed", "zero_stage"})
    assert _losses(run_here(manifest, str(tmp_path / "keys"), **changes).run_url) == pytest.approx(
        expected, abs=1e-5
    )


def test_the_model_is_exported_for_hugging_face(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[str] = []

    def export(*arguments: Any, **options: Any) -> None:
        running.extend(thread.name for thread in threading.enumerate())
        export_hf(*arguments, **options)

    monkeypatch.setattr("model.train.export_hf", export)
    result = run_here(manifest, str(tmp_path / "run"), steps=3)
    assert running and "watchdog" not in running  # it may take longer than a step
    config, vocab_size, state = import_hf(known(result.hf_url))
    assert vocab_size == 128 and config.hidden_size == 32
    expected = restore.consolidated_state(known(result.checkpoint_url))
    assert all(state[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_the_export_has_one_precision_whatever_the_stage(
    manifest: str, tmp_path: Path, precision: str
) -> None:
    exported = {}
    for stage in range(4):
        for chosen in ("auto", "fp32") if stage < 2 else ("auto",):
            changes: dict[str, Any] = {"precision": precision, "zero_stage": stage}
            changes["export_precision"] = chosen
            result = run_here(manifest, f"{tmp_path}/{stage}{chosen}", steps=2, **changes)
            exported[stage, chosen] = import_hf(known(result.hf_url))[2]
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    for stage in range(4):
        plain, master = exported[stage, "auto"], exported[min(stage, 1), "fp32"]
        assert {values.dtype for values in plain.values()} == {dtypes[precision]}
        assert {values.dtype for values in master.values()} == {torch.float32}
        assert all(master[name].to(dtypes[precision]).equal(plain[name]) for name in plain)
        assert (precision == "fp32") == all(master[name].equal(plain[name].float()) for name in plain)


def test_optimizer_offload_gives_the_same_curve(manifest: str, tmp_path: Path) -> None:
    expected = _losses(run_here(manifest, str(tmp_path / "plain"), zero_stage=1).run_url)
    run_here(manifest, str(tmp_path / "offload"), zero_stage=2, offload_optimizer=True)
    assert _losses(tmp_path / "offload") == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_torch_compile_gives_the_same_curve(manifest: str, tmp_path: Path) -> None:
    same: dict[str, Any] = {"evaluate_batches": 1, "activation_checkpointing": True}
    expected = _losses(run_here(manifest, str(tmp_path / "plain"), **same).run_url)
    run_here(manifest, str(tmp_path / "compiled"), compile=True, **same)
    assert _losses(tmp_path / "compiled") == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_tensor_parallel_layers_give_the_same_curve_checkpoint_and_model(
    manifest: str, tmp_path: Path
) -> None:
    # With the usual epsilon Adam makes as much of a gradient that is all rounding as of any other.
    constant = {"learning_rate": 1e-2, "schedule": "constant", "warmup_steps": 2, "epsilon": 1e-5}
    same: dict[str, Any] = {"optimizer": constant, "evaluate_batches": 2, "evaluate_every": 3}
    expected = run_here(manifest, str(tmp_path / "reference"), steps=6, **same)
    state = restore.consolidated_state(known(expected.checkpoint_url))
    for workers, stage in ((2, 1), (4, 2)):
        run = {"run_url": str(tmp_path / str(workers)), "workers": workers, "zero_stage": stage, **same}
        run["tensor_parallel"] = 2
        # The second run continues the first.
        assert run_processes(workers, manifest, [{**run, "steps": 3}, {**run, "steps": 6}]) == [0] * workers
        summary = json.loads((tmp_path / str(workers) / "summary.json").read_text())
        assert summary["resumed_from"] == 3
        lines, reference = (journal.read(url) for url in (run["run_url"], expected.run_url))
        assert [line.loss for line in lines] == pytest.approx([line.loss for line in reference], abs=1e-5)
        norms = [line.gradient_norm for line in lines]
        assert norms == pytest.approx([line.gradient_norm for line in reference], rel=1e-4)
        for source, values in expected.evaluation.items():
            assert summary["evaluation"][source]["loss"] == pytest.approx(values["loss"], abs=1e-5)
        exported = import_hf(summary["hf_url"])[2]
        assert set(exported) == set(state)
        for name, wanted in state.items():
            found = exported[name]
            if name.endswith("query_key_value.bias"):
                # Softmax takes no notice of a key's bias: its gradient is rounding, which Adam makes large.
                kept = torch.arange(len(found)).view(MODEL.num_heads, 3, MODEL.head_size)[:, ::2].flatten()
                found, wanted = found[kept], wanted[kept]
            assert torch.allclose(found, wanted, rtol=0, atol=1e-5), name
    with pytest.raises(UserError, match="with tensor parallelism a run is continued by as many workers"):
        run_here(manifest, run["run_url"], steps=9, **same)


def test_tensor_parallel_settings_that_do_not_fit_are_named() -> None:
    for changes, message in [
        ({"workers": 3}, "workers 3 must be a multiple of tensor_parallel 2"),
        ({"workers": 2, "zero_stage": 3}, "needs zero_stage 1 or 2, not 3"),
        ({"workers": 4, "min_workers": 2}, "leave min_workers out"),
    ]:
        with pytest.raises(ValueError, match=message):
            settings(tensor_parallel=2, **changes)
