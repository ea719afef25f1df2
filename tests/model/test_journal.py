import json
import os
from pathlib import Path

import pytest

from base import files
from base.errors import UserError
from model import journal
from tests.helpers.training import step_record


def test_a_remote_journal_gets_lines_while_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = "memory://journal/run"
    kept = journal.Journal(url)
    kept.append(step_record(1))
    assert journal.read(url) == []
    monkeypatch.setattr(journal, "SYNC_SECONDS", 0)
    assert kept.append(step_record(2))
    assert journal.read(url) == [step_record(1), step_record(2)]
    with monkeypatch.context() as away:

        def fail(*_: object) -> None:
            raise OSError("no route to host")

        away.setattr(files, "write_bytes", fail)
        assert kept.append(step_record(3))
    assert "waits: no route to host" in caplog.text
    kept.close()
    assert [record.step for record in journal.read(url)] == [1, 2, 3]


def test_a_record_keeps_its_bytes_and_a_damaged_line_is_named(tmp_path: Path) -> None:
    kept = journal.Journal(str(tmp_path))
    kept.append(step_record(1, loss=None, evaluation={"a": {"loss": float("nan")}}))
    kept.append(step_record(2, skipped=True, reason="overflow", samples=[8, 16]))
    kept.close()
    first, second = (tmp_path / journal.NAME).read_text().splitlines()
    assert first == (
        '{"step": 1, "time": 1000000001.0, "tokens": 64, "loss": null, "learning_rate": 0.1, '
        '"gradient_norm": 1.0, "loss_scale": 1.0, "tokens_per_second": 100.0, "mfu": 0.5, '
        '"loader_wait": 0.0, "system": {}, "evaluation": {"a": {"loss": NaN}}}'
    )
    assert second.endswith('"system": {}, "skipped": true, "reason": "overflow", "samples": [8, 16]}')
    back = json.dumps(step_record(2, rollback=journal.Rollback(step=2, samples=[8, 16])).to_json())
    for damaged, problem in (
        ("{", "it is no JSON"),
        ('{"step": "3"}', "step: Input should be a valid int"),
        (first, "step 1 is not after the one before it"),
        (json.dumps(step_record(2**48).to_json()), "step 281474976710656 is not after"),
        (back, "step 2 goes back to step 2"),
    ):
        (tmp_path / journal.NAME).write_text(f"{first}\n{damaged}\n")
        with pytest.raises(UserError, match=f"line 2 of .*journal.jsonl is damaged.*{problem}"):
            journal.read(str(tmp_path))


def test_a_local_journal_is_on_the_disk_after_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    path = tmp_path / "run" / journal.NAME
    kept = journal.Journal(str(tmp_path / "run"))
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), len(steps()))),
    )

    def steps() -> list[journal.StepRecord]:
        return journal.read(str(path.parent))

    kept.append(step_record(1))
    assert synced == []
    kept.sync()
    assert synced == [(str(path), 1), (str(path.parent), 1)]
    kept.append(step_record(2))
    kept.close()
    assert synced[2:] == [(str(path), 2), (str(path.parent), 2)]


def test_a_former_trainer_of_a_run_adds_no_line(tmp_path: Path) -> None:
    former = journal.Journal(str(tmp_path))
    former.append(step_record(1))
    now = journal.Journal(str(tmp_path))
    former.append(step_record(2, loss=9.0))  # it had looked whether it is the one just before
    now.append(step_record(2))
    now.append(step_record(3))
    assert journal.read(str(tmp_path)) == [step_record(1), step_record(2), step_record(3)]


@pytest.mark.parametrize("root", ["{tmp}", "memory://journal/claimed"])
def test_a_trainer_that_was_taken_over_stops(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SYNC_SECONDS", 0)
    taken: list[str] = []

    def check() -> None:
        if taken:
            raise UserError(taken[0])

    url = root.format(tmp=tmp_path)
    kept = journal.Journal(url, check)
    assert kept.append(step_record(1))
    taken.append("this command was taken to be gone")
    with pytest.raises(UserError, match="was taken to be gone"):
        kept.append(step_record(2))
    assert journal.read(url) == [step_record(1)]
