import pytest

from base import files
from model import journal


def test_a_remote_journal_gets_lines_while_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = "memory://journal/run"
    kept = journal.Journal(url)
    kept.append({"step": 1})
    assert journal.read(url) == []
    monkeypatch.setattr(journal, "SYNC_SECONDS", 0)
    assert kept.append({"step": 2})
    assert journal.read(url) == [{"step": 1}, {"step": 2}]
    with monkeypatch.context() as away:

        def fail(*_: object) -> None:
            raise OSError("no route to host")

        away.setattr(files, "write_bytes", fail)
        assert kept.append({"step": 3})
    assert "waits: no route to host" in caplog.text
    kept.close()
    assert [line["step"] for line in journal.read(url)] == [1, 2, 3]
