"""Speeds and remaining time of a stage."""

import pytest

from pipelines.runtime.progress import Counter, Pace, watched


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, in a list to change it."""
    now = [1000.0]
    monkeypatch.setattr("pipelines.runtime.progress.time.monotonic", lambda: now[0])
    return now


def test_steady_work(clock: list[float]) -> None:
    pace = Pace()
    pace.note(0, 100, 0, 0)
    assert pace.remaining() is None
    for done in range(1, 51):
        clock[0] += 2
        pace.note(done, 100, 10 * done, 1000 * done)
    assert pace.speeds() == pytest.approx((0.5, 5, 500))
    assert pace.remaining() == pytest.approx(100)
    assert pace.seconds == 100
    clock[0] += 1
    pace.note(100, 100, 1000, 100_000)
    clock[0] += 50
    assert pace.seconds == 101
    assert pace.speeds() == pytest.approx((100 / 101, 1000 / 101, 100_000 / 101))
    assert pace.remaining() == 0


def test_tasks_found_finished_do_not_count_for_long(clock: list[float]) -> None:
    pace = Pace()
    pace.note(0, 1000, 0, 0)
    clock[0] += 0.5
    for done in range(1, 501):
        pace.note(done, 1000, done, done)
    for done in range(501, 521):
        clock[0] += 10
        pace.note(done, 1000, done, done)
    assert pace.speeds()[0] == pytest.approx(0.1)
    assert pace.remaining() == pytest.approx(4800)


def test_long_tasks_keep_their_speed(clock: list[float]) -> None:
    pace = Pace()
    pace.note(0, 10, 0, 0)
    for done in (1, 2):
        clock[0] += 600
        pace.note(done, 10, done, done)
    clock[0] += 300
    assert pace.remaining() == pytest.approx(8 * 750)


def test_a_counter_adds_what_results_tell() -> None:
    seen: list[tuple[object, ...]] = []
    count = Counter(lambda *counts: seen.append(counts), "stage", 1, 4)
    stages = [{"documents_in": 9, "bytes_in": 90}, {"documents_in": 3, "bytes_in": 30}]
    count({"documents": 1, "bytes": 1, "ledger": {"books": stages, "web": stages, "none": []}})
    count({"documents": 4, "bytes": 400, "text_bytes": 40})
    count()
    assert seen == [
        ("stage", 1, 4, 0, 0),
        ("stage", 2, 4, 6, 60),
        ("stage", 3, 4, 10, 100),
        ("stage", 4, 4, 10, 100),
    ]


def test_a_progress_that_is_watched_checks_now_and_then(clock: list[float]) -> None:
    checked: list[float] = []
    told: list[tuple[object, ...]] = []
    note = watched(lambda *counts: told.append(counts), lambda: checked.append(clock[0]), 10.0)
    for seconds in (1, 9, 10, 19, 25):
        clock[0] = 1000.0 + seconds
        note("measure", 1, 2, 3, 4)
    assert checked == [1010.0, 1025.0]
    assert told == [("measure", 1, 2, 3, 4)] * 5
