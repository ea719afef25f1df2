"""File systems in images: small ones that fill up, and ones that can be copied as a power cut leaves them."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import SkipTest

_FICLONE = 0x40049409
"""The request that lets two files of one file system share their blocks (linux/fs.h)."""


def require(*kinds: str) -> None:
    """Raise SkipTest where file systems of these kinds cannot be made and mounted."""
    if os.geteuid():
        raise SkipTest("only root may mount file systems")
    for program in [*(f"mkfs.{kind}" for kind in kinds), "mount", "umount"]:
        if shutil.which(program) is None:
            raise SkipTest(f"there is no program {program}")


def make(image: Path, kind: str, mebibytes: int) -> None:
    """Make an empty file system of a kind in a new image, which takes room only for what is written."""
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    options = {
        "ext4": ["-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
        "xfs": ["-m", "reflink=1"],
    }
    _call(f"mkfs.{kind}", "-q", *options[kind], str(image))


@contextmanager
def mounted(image: Path, folder: Path, *options: str) -> Iterator[None]:
    """An image's file system at an empty folder. Raises SkipTest where the machine does not let it."""
    try:
        _call("mount", "-o", ",".join(["loop", *options]), str(image), str(folder))
    except subprocess.CalledProcessError as error:
        raise SkipTest(f"no file system can be mounted: {error.stderr.decode().strip()}") from None
    try:
        yield
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Take a file system away, as soon as nobody uses it."""
    for _ in range(100):
        try:
            return _call("umount", str(folder))
        except subprocess.CalledProcessError:
            time.sleep(0.1)
    return _call("umount", "--lazy", str(folder))


def copy(source: Path, target: Path) -> None:
    """Copy a file as it is at one moment, on a file system whose files can share blocks."""
    with source.open("rb") as one, target.open("wb") as other:
        fcntl.ioctl(other.fileno(), _FICLONE, one.fileno())


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
