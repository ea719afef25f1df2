import pytest

from base import files
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
