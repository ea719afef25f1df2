"""A run that goes on: what of its earlier steps counts, and where its learning rate must go on too."""

from pathlib import Path
from typing import Any

import pytest

from base.errors import UserError
from model import journal
from model.job import TrainJob, check
from pipelines.training import trace
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.training import MODEL, SOURCES, StoppedError, run_here, settings
from tests.helpers.values import known

if RUNNING:
    from model import checkpoint, pickles, restore

RATE: dict[str, Any] = {"learning_rate": 1e-2, "min_learning_rate": 1e-3, "warmup_steps": 2}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"), SOURCES)


def _updates(checkpoint_url: str) -> int:
    """How often Adam has changed the weights that a checkpoint of ZeRO 0 holds."""
    state = pickles.load(f"{checkpoint_url}/state/mp_rank_00_model_states.pt")
    return int(state["optimizer"]["state"][0]["step"])


def _lines(run_url: Path) -> list[tuple[int, bool | None]]:
    return [(record.step, record.skipped) for record in journal.read(str(run_url))]


@pytest.mark.parametrize("world", ["memory", "local"])
@pytest.mark.parametrize(("first", "second"), [((5,), ()), ((), (5,)), ((5, 6), (4, 7))])
def test_the_journal_of_a_resumed_run_tells_of_the_steps_in_its_weights(
    tmp_path: Path, world: str, first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    storage = str(tmp_path) if world == "local" else f"memory://resumed/{first}{second}".replace(" ", "")
    manifest = write_corpus(tmp_path, SOURCES)
    url = f"{storage}/training/run"
    shared: dict[str, Any] = {"steps": 10, "zero_stage": 0, "checkpoint": {"every": 4}}
    with pytest.raises(StoppedError):
        run_here(manifest, url, first, stop_at=7, **shared)
    result = run_here(manifest, url, second, **shared)
    assert result.resumed_from == 4 and result.skipped_steps == len(second)
    records = journal.read(url)
    skipped = {step + 1 for step in second}
    assert [record.step for record in records] == list(range(1, 11))
    assert {record.step for record in records if record.skipped} == skipped
    run = trace.RunSamples(storage, "run")
    assert set(run.undone) == skipped
    with restore.local_copy(known(result.checkpoint_url)) as folder:
        assert _updates(folder) == 10 - len(run.undone)


def test_lines_of_an_earlier_attempt_are_kept_aside(tmp_path: Path) -> None:
    kept = journal.Journal(str(tmp_path))
    from tests.helpers.training import step_record

    for step in range(1, 8):
        kept.append(step_record(step, skipped=step == 6 or None))
    kept.close()
    whole = (tmp_path / journal.NAME).read_bytes()
    journal.rewind(str(tmp_path), 7)
    assert (tmp_path / journal.NAME).read_bytes() == whole and len(list(tmp_path.iterdir())) == 1
    journal.rewind(str(tmp_path), 4)
    first = tmp_path / journal.ATTEMPT.format(1)
    assert (tmp_path / journal.NAME).read_bytes() + first.read_bytes() == whole
    (tmp_path / journal.NAME).write_bytes(whole)  # as a kill between the two files leaves it
    journal.rewind(str(tmp_path), 4)
    assert _lines(tmp_path) == [(step, None) for step in range(1, 5)]
    assert not (tmp_path / journal.ATTEMPT.format(2)).exists()
    journal.rewind(str(tmp_path), 0)
    assert _lines(tmp_path) == [] and (tmp_path / journal.ATTEMPT.format(2)).exists()


def test_a_constant_rate_goes_on_exactly(manifest: str, tmp_path: Path) -> None:
    constant = {**RATE, "schedule": "constant"}
    whole = run_here(manifest, str(tmp_path / "whole"), steps=10, optimizer=constant)
    run_here(manifest, str(tmp_path / "parts"), steps=6, optimizer=constant)
    parts = run_here(manifest, str(tmp_path / "parts"), steps=10, optimizer=constant)
    assert parts.resumed_from == 6 and _same(whole, parts)


def test_wsd_goes_on_before_its_decay(manifest: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"optimizer": {**RATE, "schedule": "wsd", "decay_fraction": 0.5}}
    given["checkpoint"] = {"every": 2, "keep_last": 9}
    whole = run_here(manifest, str(tmp_path / "whole"), steps=16, **given)
    run_here(manifest, str(tmp_path / "parts"), steps=10, **given)  # the rate falls from step 6 on
    with pytest.raises(StoppedError):
        run_here(manifest, str(tmp_path / "parts"), steps=16, stop_at=5, **given)
    assert checkpoint.steps(str(tmp_path / "parts")) == [2, 4]
    assert [step for step, _ in _lines(tmp_path / "parts")] == [1, 2, 3, 4, 5]
    parts = run_here(manifest, str(tmp_path / "parts"), steps=16, **given)
    assert parts.resumed_from == 4 and _same(whole, parts)
    assert (tmp_path / "parts" / journal.ATTEMPT.format(1)).read_bytes().count(b"\n") == 6


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"schedule": "cosine"}, {"steps": 12}),
        ({"schedule": "wsd", "decay_fraction": 0.9}, {"steps": 12}),  # nothing is kept from before the decay
        ({"schedule": "constant"}, {"steps": 12, "learning_rate": 1e-3}),
        ({"schedule": "constant"}, {"steps": 12, "schedule": "cosine"}),
    ],
)
def test_a_rate_that_would_jump_needs_a_word(
    manifest: str, tmp_path: Path, before: dict[str, Any], now: dict[str, Any]
) -> None:
    url = str(tmp_path / "annealed")
    optimizer = {**RATE, **before}
    run_here(manifest, url, steps=8, optimizer=optimizer)
    steps = now.pop("steps") if "steps" in now else 8
    changed: dict[str, Any] = {"steps": steps, "optimizer": {**optimizer, **now}}
    for attempt in (
        lambda: run_here(manifest, url, **changed),
        lambda: check(TrainJob(MODEL, settings(**changed), manifest, url)),
    ):
        with pytest.raises(
            UserError, match="annealed had the learning rate .* at step 8, .*rate_jump=accept"
        ):
            attempt()
    result = run_here(manifest, url, **changed, rate_jump="accept")
    assert result.resumed_from == 8 and result.step == steps
    assert [step for step, _ in _lines(tmp_path / "annealed")] == list(range(1, steps + 1))


def _same(first: Any, second: Any) -> bool:
    before, after = (restore.consolidated_state(known(run.checkpoint_url)) for run in (first, second))
    curves = [[record.loss for record in journal.read(run.run_url)] for run in (first, second)]
    return all(before[name].equal(after[name]) for name in before) and curves[0] == curves[1]
