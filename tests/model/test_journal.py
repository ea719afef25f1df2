import json
import os
from pathlib import Path

import fsspec
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


def test_a_remote_journal_is_appended_in_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    url, remote = "memory://journal/segments", fsspec.filesystem("memory")
    old = json.dumps(step_record(1).to_json()) + "\n"
    remote.pipe("/journal/segments/journal.jsonl", old.encode())  # as versions before this one wrote it
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 600)
    written: list[tuple[str, int]] = []
    write = files.write_bytes

    def noted(place: str, content: bytes) -> None:
        written.append((place, len(content)))
        write(place, content)

    monkeypatch.setattr(files, "write_bytes", noted)
    kept = journal.Journal(url)
    assert kept.last_step == 1 and not kept.append(step_record(1))
    for step in range(2, 42):
        kept.append(step_record(step))
        kept.sync()
        kept.sync()  # nothing is new
    kept.close()
    assert len(written) == 40 and max(size for _, size in written) < 600 + 2 * len(old)
    assert remote.cat_file("/journal/segments/journal.jsonl") == old.encode()
    expected = [step_record(step) for step in range(1, 42)]
    assert journal.read(url) == expected
    whole = journal.content(f"{url}/{journal.NAME}", 0)
    for start in (1, len(old), 700, len(whole) - 1, len(whole), len(whole) + 5):
        assert journal.content(f"{url}/{journal.NAME}", start) == whole[start:]
    last = max(place for place, _ in written)
    journal.rewind(url, 20)
    assert journal.read(url) == expected[:20] and not files.exists(last)
    attempt = files.read_bytes(f"{url}/{journal.ATTEMPT.format(1)}")
    assert journal.parse(attempt, "") == expected[20:]
    again = journal.Journal(url)
    for step in (21, 22):
        assert again.append(step_record(step, loss=1.0))
    again.close()
    assert journal.read(url) == [*expected[:20], *(step_record(step, loss=1.0) for step in (21, 22))]
    journal.rewind(url, 0)
    assert journal.read(url) == []


def test_a_kill_in_a_rewind_of_segments_leaves_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "memory://journal/killed"
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 1)
    kept = journal.Journal(url)
    for step in range(1, 9):
        kept.append(step_record(step))
        kept.sync()
    removed: list[str] = []
    remove = files.remove

    def killed(place: str) -> None:
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(place)
        remove(place)

    with monkeypatch.context() as kill:
        kill.setattr(files, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            journal.rewind(url, 3)
    assert [record.step for record in journal.read(url)] == [1, 2, 3, 4, 5, 6]
    journal.rewind(url, 3)
    assert [record.step for record in journal.read(url)] == [1, 2, 3]
    assert len(journal.parse(files.read_bytes(f"{url}/{journal.ATTEMPT.format(1)}"), "")) == 5
    assert not files.exists(f"{url}/{journal.ATTEMPT.format(2)}")


def test_a_former_trainers_late_segment_does_not_count() -> None:
    url = "memory://journal/late"
    former = journal.Journal(url)
    former.append(step_record(1))
    former.sync()
    now = journal.Journal(url)
    former.append(step_record(2, loss=9.0))
    now.append(step_record(2))
    now.append(step_record(3))
    now.close()
    former.sync()  # it had looked whether it is the one just before
    assert journal.read(url) == [step_record(1), step_record(2), step_record(3)]


def test_a_run_that_was_copied_from_an_object_store_goes_on(tmp_path: Path) -> None:
    url = "memory://journal/copied"
    kept = journal.Journal(url)
    kept.append(step_record(1))
    kept.close()
    fsspec.filesystem("memory").get("/journal/copied", str(tmp_path / "run"), recursive=True)
    here = journal.Journal(str(tmp_path / "run"))
    assert here.append(step_record(2))
    here.close()
    assert journal.read(str(tmp_path / "run")) == [step_record(1), step_record(2)]
    assert len((tmp_path / "run" / journal.NAME).read_text().splitlines()) == 2


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
