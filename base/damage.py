"""Files of ours that are missing or damaged: one sentence that names the file and the way out."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from base.errors import StorageError, UserError, is_of_storage, mistake

_LOCAL = ("file://", "local://")

_MANIFEST = (
    "jobs.prepare makes it again if it is of just these sources and settings; else restore it, or move it "
    "away and run the command that made the version again"
)
_AGAIN = "remove it and run the same command again, which makes it again"
_WAYS = (
    *((f"/{name}", _MANIFEST) for name in ("manifest.json", "shards.parquet", "inputs.parquet")),
    ("/corpus/versions/", "jobs.verify --rebuild makes damaged files of a version again"),
    ("/corpus/index/", "jobs.verify --rebuild makes a dedup index again"),
    ("/corpus/", _AGAIN),
    ("/training/", "restore it, or train under another run name"),
    ("/evaluation/", _AGAIN),
    ("/inference/", _AGAIN),
)
"""What helps with a damaged file, by the folder of a storage that it lies in."""


class DamagedError(UserError):
    """A file of ours cannot be what was written."""


class UnreadableError(UserError, OSError):
    """The operating system or a storage does not let a file be read."""


class MissingError(DamagedError, FileNotFoundError):
    """A file of ours is not there."""


def damaged(url: str, problem: object, what: str = "damaged") -> DamagedError:
    """The error that says what is wrong with a file, as one clause, and what to do."""
    ways = (way for folder, way in _WAYS if folder in url)
    gist = " ".join(str(problem).split())[:300] or type(problem).__name__
    return DamagedError(f"{url} is {what}: {gist.rstrip('.')}; {next(ways, 'restore it from where it came')}")


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Turn what a storage that is not on this machine raises in the block into StorageError.

    It names the URL and this machine, whose credentials and network it may be about. Whether a file is there
    is told as before.
    """
    try:
        yield
    except (
        UserError,
        StorageError,
        FileNotFoundError,
        FileExistsError,
        NotADirectoryError,
        IsADirectoryError,
    ):
        raise
    except Exception as error:
        if (
            "://" not in url
            or url.startswith(_LOCAL)
            or not (isinstance(error, OSError) or is_of_storage(error))
        ):
            raise
        kind, gist = type(error).__name__, " ".join(str(error).split())[:300].rstrip(".")
        refused = isinstance(error, PermissionError) or "Credentials" in kind
        raise StorageError(
            f"{url} cannot be used from {socket.gethostname()}: {kind}: {gist}"
            + ("; look at the credentials of that machine" if refused else "")
        ) from None


@contextmanager
def readable(url: str) -> Iterator[None]:
    """Turn what is raised over a file in the block into MissingError, UnreadableError or StorageError.

    All name the file.
    """
    try:
        with reached(url):
            yield
    except (UserError, StorageError):
        raise
    except FileNotFoundError:
        ways = [way for folder, way in _WAYS if folder in url]
        raise MissingError("; ".join([f"{url} is missing", *ways[:1]])) from None
    except OSError as error:
        if error.errno is None:
            raise
        raise UnreadableError(f"{url} cannot be read: {os.strerror(error.errno)}") from None


@contextmanager
def sound(url: str) -> Iterator[None]:
    """Turn what is raised over the content of a file in the block into DamagedError that names the file.

    A file that is not there is MissingError, one that the operating system keeps back UnreadableError.
    """
    try:
        with readable(url):
            yield
    except Exception as error:
        if mistake(error) is not None:
            raise
        if isinstance(error, pa.ArrowMemoryError | MemoryError):
            raise damaged(url, "it asks for more memory than there is") from None
        raise damaged(url, error) from None
