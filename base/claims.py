"""Claims: one command at a time writes a corpus, a training run or an output.

<what is claimed>/claim/
  000001.json    a Holder: who writes it; created exclusively
  000001.beat    a Beat, which only that holder writes, every few seconds
  000002.json    who has taken over from a holder that is gone; the newest one counts

A holder looks before each step that others see whether its file is still the newest. If not, it stops with
one sentence. When it is done it removes its files.
"""

import contextlib
import getpass
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pydantic import Field

from base import files, layout
from base.damage import reached
from base.errors import UserError
from base.layout import CLAIM
from base.records import Record
from base.settings import Section

BEATS = 6
"""Signs of life of a holder in the seconds after which it counts as gone."""
POLL = 1.0
"""Seconds between looks at a holder, at most."""

logger = logging.getLogger("piledriver.claims")


class TakenOverError(UserError):
    """Another command has taken over what this one held."""


class ClaimsConfig(Section):
    """What a command does when another one writes the same corpus, training run or output."""

    wait: bool = False
    """Whether it waits until the other one is done; else it stops with a sentence that names the other."""
    stale_seconds: float = Field(60.0, gt=0)
    """A command that has given no sign of life for so long counts as gone, and its work is taken over. One
    that is gone from this machine is known at once."""


class Holder(Record):
    """Who holds a claim."""

    command: str
    user: str
    host: str
    boot: str
    """Names the time since the host was started; empty where the system does not tell."""
    namespace: str
    """Names the processes among which `process` is one."""
    process: int
    started: str
    """When the process was, in the system's ticks: the number may be that of another one later."""
    job: str | None = None
    """Submission id of the Ray job."""
    since: str
    clock: float
    """Seconds on the host's own clock at `since`."""
    every: float
    """Seconds between its signs of life."""
    token: str
    """Names this claim and no other."""

    @classmethod
    def here(cls, command: str, every: float) -> "Holder":
        """The holder that this process is."""
        return cls(
            command=command,
            user=_user(),
            host=socket.gethostname(),
            boot=_boot(),
            namespace=_namespace(),
            process=os.getpid(),
            started=_started(os.getpid()) or "",
            job=_job(),
            since=_now(),
            clock=time.monotonic(),
            every=every,
            token=uuid.uuid4().hex,
        )

    @property
    def is_of_this_machine(self) -> bool:
        """Whether its process can be looked for here."""
        return self.boot != "" and (self.boot, self.namespace) == (_boot(), _namespace())

    @property
    def has_ended(self) -> bool:
        """Whether it is known here that its process is gone."""
        return self.is_of_this_machine and _started(self.process) != self.started

    def words(self, seen: str | None = None) -> str:
        """The holder in words, and when it gave its last sign of life if that is known."""
        job = f", Ray job {self.job}" if self.job else ""
        last = f", last sign of life {seen}" if seen else ""
        process = f"process {self.process}{job}, since {self.since}{last}"
        return f"{self.command} of {self.user} on {self.host} ({process})"


class Beat(Record):
    """A sign of life."""

    time: str
    clock: float
    """Seconds on the host's own clock."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim as its holder, and whoever works for it on other machines, knows it."""

    folder: str
    """What is claimed."""
    number: int
    token: str

    def check(self) -> None:
        """Raise TakenOverError if another command has taken over."""
        mine = _is_token(self.folder, self.number, self.token)
        if mine and not files.exists(_holder_url(self.folder, self.number + 1)):
            return
        newest = _newest(self.folder)
        with contextlib.suppress(FileNotFoundError):
            if newest:
                now = Holder.read(_holder_url(self.folder, newest))
                raise TakenOverError(
                    f"this command was taken to be gone: {now.words()} writes {self.folder} now"
                )
        raise TakenOverError(f"this command was taken to be gone: another one has written {self.folder}")

    @contextmanager
    def writer(self, url: str) -> Iterator[IO[bytes]]:
        """files.atomic_writer for a file of what is claimed: nobody's who has lost the claim appears."""
        try:
            with files.atomic_writer(url) as file:
                yield file
                self.check()
        except FileNotFoundError:  # who has taken over has removed it
            self.check()
            raise

    def write(self, url: str, content: bytes) -> None:
        """Write a whole file of what is claimed."""
        with self.writer(url) as file:
            file.write(content)

    def publish(self, url: str, record: Record) -> None:
        """Create the file that makes work visible. Raises UserError if there is one with other content."""
        self.check()
        try:
            record.create(url)
        except FileNotFoundError:
            self.check()
            raise


@contextmanager
def held(
    folder: str,
    command: str,
    settings: ClaimsConfig,
    *,
    fenced: tuple[str, ...] = (),
    tell: Callable[[str], None] = logger.warning,
) -> Iterator[Claim]:
    """Claim a folder while the block lasts.

    What a former holder has half written in it is removed, and in the folders below it that `fenced` names.
    tell: gets a sentence about whom this command waits for.

    Raises UserError if another command holds it and settings.wait is off.
    """
    me = Holder.here(command, settings.stale_seconds / BEATS)
    number = _take(folder, me, settings, tell)
    claim = Claim(folder=folder, number=number, token=me.token)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(claim, me.every, stop), name="claim", daemon=True)
    try:
        _warn_if_shared(claim, me)
        if number > 1:
            files.sweep(folder, deep=False)
            for name in fenced:
                files.sweep(files.join(folder, name), deep=True)
            # A former holder that is there still would take its file for the newest when this one is gone.
            _remove(folder, [name for name in _names(folder, "json") if int(name[:6]) < number])
        thread.start()
        yield claim
    except UserError:
        raise
    except Exception:
        with contextlib.suppress(OSError):
            claim.check()  # then it went wrong because another command writes there
        raise
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()
        try:
            _release(claim)
        except Exception as error:  # a disk that cannot be written has a sentence of its own
            logger.warning("the claim of %s could not be given back: %s", folder, error)


def _take(folder: str, me: Holder, settings: ClaimsConfig, tell: Callable[[str], None]) -> int:
    """Become the newest holder of a folder; the number of the claim."""
    content = files.json_bytes(me.to_json())
    while True:
        number, before = _newest(folder), None
        if number:
            try:
                before = Holder.read(_holder_url(folder, number))
            except FileNotFoundError:
                continue
            _watch(folder, number, before, settings, tell)
            if _newest(folder) != number:
                continue
        url = _holder_url(folder, number + 1)
        try:
            if not files.create(url, content):
                continue
        except FileNotFoundError:  # the folder was removed with the last claim in it
            continue
        # A holder may have ended, and another one begun anew, since this one was looked at.
        if _newest(folder) == number + 1 and (before is None or _is_token(folder, number, before.token)):
            return number + 1
        files.remove(url)


def _watch(
    folder: str, number: int, holder: Holder, settings: ClaimsConfig, tell: Callable[[str], None]
) -> None:
    """Return when a holder has ended, or has given no sign of life for long enough."""
    patience = max(settings.stale_seconds, 3 * holder.every)
    beat, since = _last_beat(folder, number), time.monotonic()
    clock = beat.clock if beat is not None else holder.clock
    alive = holder.is_of_this_machine and time.monotonic() - clock < patience
    told = -60.0
    while not holder.has_ended and time.monotonic() - since < patience:
        shown = holder.words(beat.time if beat is not None else None)
        if alive and not settings.wait:
            raise UserError(
                f"{folder} is being written by {shown}; run this command again when that one is done, or let "
                "it wait with claims.wait=true"
            )
        if time.monotonic() - told >= 60:
            tell(f"waiting for {shown}, which writes {folder}")
            told = time.monotonic()
        time.sleep(min(POLL, patience / 20))
        if _newest(folder) != number:
            return
        now = _last_beat(folder, number)
        if now != beat:
            beat, since, alive = now, time.monotonic(), True


def _beat(claim: Claim, every: float, stop: threading.Event) -> None:
    """Give signs of life until told to stop, or another command has taken over."""
    while not stop.wait(every):
        try:
            claim.check()
            beat = Beat(time=_now(), clock=time.monotonic())
            beat.write(_beat_url(claim.folder, claim.number))
        except TakenOverError as error:
            logger.warning("%s", error)
            return
        except Exception as error:  # a storage that is away for a moment
            logger.warning("no sign of life could be given in %s: %s", claim.folder, error)


def _release(claim: Claim) -> None:
    """Remove what is left of a claim; its holder's file only if no other command has taken over."""
    place = files.join(claim.folder, CLAIM)
    files.sweep(place, deep=False)  # of killed commands; who just begins tries again
    # A sign of life that a holder gave while it was taken over is as old as that.
    _remove(claim.folder, [name for name in _names(claim.folder, "beat") if int(name[:6]) <= claim.number])
    if _is_token(claim.folder, claim.number, claim.token):
        _remove(claim.folder, [layout.name_of(_holder_url(claim.folder, claim.number))])
    local = files.local_path(place)
    if local is not None:
        with contextlib.suppress(OSError):
            os.rmdir(local)


def _remove(folder: str, names: list[str]) -> None:
    """Remove files of a claim's folder."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            files.remove(files.join(folder, CLAIM, name))


def _warn_if_shared(claim: Claim, me: Holder) -> None:
    """Tell of a storage on which two commands that begin at the same moment do not see each other."""
    url = _holder_url(claim.folder, claim.number)
    if files.local_path(url) is not None:
        return
    if files.creates_exclusively(url):
        if not files.create(url, b""):
            return
        me.write(url)  # it has no such check, whatever it is said to have
    logger.warning(
        "%s cannot create a file only if there is none: two commands that begin at the same moment may both "
        "write there",
        claim.folder,
    )


def _holder_url(folder: str, number: int) -> str:
    return files.join(folder, CLAIM, f"{number:06d}.json")


def _beat_url(folder: str, number: int) -> str:
    return files.join(folder, CLAIM, f"{number:06d}.beat")


def _newest(folder: str) -> int:
    """The number of the newest holder of a folder; 0 if there is none."""
    return max((int(name[:6]) for name in _names(folder, "json")), default=0)


def _names(folder: str, suffix: str) -> list[str]:
    """Names of files of holders, or of their signs of life, in a claim's folder."""
    filesystem, path = files.split(files.join(folder, CLAIM))
    try:
        with reached(folder):
            names = [layout.name_of(name) for name in filesystem.ls(path, detail=False)]
    except FileNotFoundError:
        return []
    return sorted(name for name in names if re.fullmatch(rf"\d{{6}}\.{suffix}", name))


def _is_token(folder: str, number: int, token: str) -> bool:
    """Whether the holder of a number is that of the token."""
    try:
        return Holder.read(_holder_url(folder, number)).token == token
    except FileNotFoundError:
        return False


def _last_beat(folder: str, number: int) -> Beat | None:
    """The last sign of life of a holder, if it gave one."""
    try:
        return Beat.read(_beat_url(folder, number))
    except FileNotFoundError:
        return None


def _started(process: int) -> str | None:
    """When a process of this machine was started; None if it has ended, empty where the system is silent."""
    if not _boot():
        return ""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else fields[18]


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return str(os.getuid())


def _job() -> str | None:
    """The submission id of the Ray job that this process is the driver of."""
    try:
        metadata = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata") or {}
    except ValueError:
        return None
    found = metadata.get("job_submission_id")
    return found if isinstance(found, str) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
