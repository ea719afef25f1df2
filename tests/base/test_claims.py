"""Claims: one holder at a time, and one that is gone or silent is taken over, for good."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from base import claims, files
from base.claims import Claim, ClaimsConfig, Holder, held
from base.errors import UserError
from base.records import Record

STOP = ClaimsConfig()
QUICK = ClaimsConfig(stale_seconds=0.4)
ROOT = Path(__file__).parents[2]


class Note(Record):
    """What is published."""

    text: str


@pytest.fixture(params=["{tmp}/corpus", "memory://claims/corpus"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield str(request.param.format(tmp=tmp_path))
    files.remove("memory://claims")


def left(folder: str) -> list[str]:
    """What there is of claims."""
    return files.list_files(files.join(folder, "claim"))


def refused(folder: str, match: str, settings: ClaimsConfig = STOP, **options: Any) -> None:
    """Try to hold what another one holds."""
    with pytest.raises(UserError, match=match), held(folder, "jobs.refresh", settings, **options):
        pytest.fail("held twice")


def elsewhere(holder: Holder) -> Holder:
    """The same holder as one on another machine."""
    return holder.model_copy(update={"boot": "another", "host": "far"})


def test_a_second_command_stops_with_a_sentence_that_names_the_first(folder: str) -> None:
    with held(folder, "jobs.prepare", STOP) as claim:
        claim.check()
        refused(folder, rf"is being written by jobs.prepare of .* \(process {os.getpid()}, since ")
        claim.check()
    assert left(folder) == []
    with held(folder, "jobs.refresh", STOP):
        pass


def test_nothing_is_left_but_what_was_published(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    with held(str(folder), "jobs.prepare", STOP) as claim:
        claim.publish(str(folder / "v1" / "manifest.json"), Note(text="a"))
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "corpus",
        "corpus/v1",
        "corpus/v1/manifest.json",
    ]


def test_what_is_published_is_never_replaced(folder: str) -> None:
    url = files.join(folder, "manifest.json")
    with held(folder, "jobs.prepare", STOP) as claim:
        claim.publish(url, Note(text="a"))
        claim.publish(url, Note(text="a"))
        with pytest.raises(UserError, match="is there already, and is another one"):
            claim.publish(url, Note(text="b"))
    assert Note.read(url).text == "a"


def test_who_waits_tells_for_whom_and_comes_after(folder: str) -> None:
    told: list[str] = []
    with held(folder, "jobs.prepare", STOP) as first:
        first_url = claims._holder_url(folder, 1)

        def tell(sentence: str) -> None:
            told.append(sentence)
            claims._release(first)

        with held(folder, "jobs.refresh", ClaimsConfig(wait=True), tell=tell) as second:
            assert Holder.read(first_url).command == "jobs.refresh"
            second.check()
            with pytest.raises(UserError, match="was taken to be gone: jobs.refresh of .* writes .* now"):
                first.check()
    assert len(told) == 1 and told[0].startswith("waiting for jobs.prepare of ")
    assert left(folder) == []


def leave(folder: str, change: Callable[[Holder], Holder] = lambda holder: holder) -> Claim:
    """A claim of this process whose holder gives no signs of life."""
    holder = change(Holder.here("jobs.prepare", 0.05))
    assert files.create(claims._holder_url(folder, 1), files.json_bytes(holder.to_json()))
    return Claim(folder=folder, number=1, token=holder.token)


@pytest.mark.parametrize("change", [lambda holder: holder, elsewhere])
def test_a_silent_holder_is_taken_over_and_publishes_nothing(folder: str, change: Any) -> None:
    url = files.join(folder, "manifest.json")
    former = leave(folder, change)
    with held(folder, "jobs.refresh", ClaimsConfig(wait=True, stale_seconds=0.4)) as claim:
        assert claim.number == 2
        with pytest.raises(UserError, match="was taken to be gone: jobs.refresh"):
            former.publish(url, Note(text="late"))
        with pytest.raises(UserError, match="was taken to be gone"):
            former.write(url, b"late")
        assert not files.exists(url)
        claim.publish(url, Note(text="new"))
        claims._release(former)
        claim.check()
    assert left(folder) == []
    with pytest.raises(UserError, match="was taken to be gone: another one has written"):
        former.check()


def test_signs_of_life_keep_a_claim(folder: str) -> None:
    """A holder of another machine that beats is not taken over, and a claim later than it has other files."""
    told: list[str] = []
    with held(folder, "jobs.prepare", ClaimsConfig(stale_seconds=1.2)) as claim:
        url = claims._holder_url(folder, 1)
        elsewhere(Holder.read(url)).write(url)
        refused(folder, "on far .*, last sign of life", ClaimsConfig(stale_seconds=1.2), tell=told.append)
        claim.check()
    assert told


def test_half_written_files_of_a_former_holder_never_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = leave(str(tmp_path), elsewhere)
    url = str(tmp_path / "versions" / "shard")
    work = tmp_path / "work" / ".tmp-x"
    work.parent.mkdir()
    work.write_bytes(b"of somebody else")

    def take_over() -> None:
        with held(str(tmp_path), "jobs.prepare", QUICK, fenced=("versions",)) as claim:
            claim.write(url, b"new")

    looked: list[Claim] = []

    def look(claim: Claim) -> None:
        """Let the other one come after this one has looked."""
        look_again(claim)
        if claim == former and not looked:
            looked.append(claim)
            other = threading.Thread(target=take_over)
            other.start()
            other.join()

    look_again = Claim.check
    monkeypatch.setattr(Claim, "check", look)
    with pytest.raises(UserError, match="was taken to be gone"):
        former.write(url, b"late")
    assert looked and Path(url).read_bytes() == b"new" and work.exists()


def test_a_killed_holder_is_taken_over_at_once(tmp_path: Path) -> None:
    code = f"""
import os, signal
from base.claims import ClaimsConfig, held
with held({str(tmp_path)!r}, "jobs.prepare", ClaimsConfig()):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is there still, as one to be asked about
    assert len(left(str(tmp_path))) == 1
    with held(str(tmp_path), "jobs.prepare", ClaimsConfig(stale_seconds=1e6)) as claim:
        claim.check()
    assert process.wait() == -signal.SIGKILL
    assert left(str(tmp_path)) == []


def test_a_stopped_holder_is_taken_over_and_says_so_when_it_goes_on(tmp_path: Path) -> None:
    code = f"""
import sys
from base.claims import ClaimsConfig, held
with held({str(tmp_path)!r}, "jobs.prepare", ClaimsConfig(stale_seconds=0.5)) as claim:
    print("held", flush=True)
    sys.stdin.readline()
    claim.check()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGSTOP)
    with held(str(tmp_path), "jobs.refresh", ClaimsConfig(wait=True, stale_seconds=0.5)):
        os.kill(process.pid, signal.SIGCONT)
        _, error = process.communicate(b"\n", timeout=60)
    assert b"TakenOverError: this command was taken to be gone: jobs.refresh of" in error
    assert left(str(tmp_path)) == []


def test_of_many_that_begin_at_once_one_at_a_time_holds(tmp_path: Path) -> None:
    """Processes add to a number without any other protection; some are killed while they hold."""
    (tmp_path / "number").write_text("0")
    children = []
    for child in range(8):
        pid = os.fork()
        if not pid:
            try:
                for turn in range(3):
                    with held(str(tmp_path / "x"), "add", ClaimsConfig(wait=True), tell=lambda _: None):
                        number = int((tmp_path / "number").read_text())
                        time.sleep(0.001)
                        (tmp_path / "number").write_text(str(number + 1))
                        if turn == 2 and child % 2:
                            os.kill(os.getpid(), signal.SIGKILL)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    ends = [os.waitpid(pid, 0)[1] for pid in children]
    assert ends == [0, signal.SIGKILL] * 4
    assert (tmp_path / "number").read_text() == "24"


def test_a_storage_that_creates_nothing_exclusively_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "EXCLUSIVE", frozenset())
    with held("memory://claims/shared", "jobs.prepare", STOP):
        refused("memory://claims/shared", "is being written by")
    assert "memory://claims/shared cannot create a file only if there is none" in caplog.text
    assert left("memory://claims/shared") == []


def test_a_storage_that_ignores_the_condition_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    filesystem, _ = files.split("memory://claims")
    whole = type(filesystem).pipe_file
    monkeypatch.setattr(
        type(filesystem), "pipe_file", lambda self, path, value, mode="": whole(self, path, value)
    )
    with held("memory://claims/ignoring", "jobs.prepare", STOP) as claim:
        claim.check()
    assert "cannot create a file only if there is none" in caplog.text


def test_no_former_holder_comes_back_when_the_last_one_is_done(folder: str) -> None:
    """One is silent, the next is killed as it takes over, and the third one does the work."""
    former = leave(folder, elsewhere)
    files.write_bytes(files.join(folder, "claim", "000001.beat"), b"{}")
    gone = elsewhere(Holder.here("jobs.merge", 0.05))
    gone.create(claims._holder_url(folder, 2))
    with held(folder, "jobs.refresh", QUICK) as claim:
        assert claim.number == 3
    with pytest.raises(UserError, match="was taken to be gone"):
        former.check()
    assert left(folder) == []
