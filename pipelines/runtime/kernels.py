"""Whether this machine has compiled kernels: a build without them begins with minutes of compiling."""

import os
from pathlib import Path

import xxhash

ROOT = Path(__file__).parents[2]
SECONDS = "one to two minutes"
"""How long compiling takes, about, on two cores."""


def cache_folder() -> str:
    """Where compiled kernels are kept: NUMBA_CACHE_DIR, else a folder of the user."""
    return os.environ.get("NUMBA_CACHE_DIR") or str(Path.home() / ".cache" / "piledriver" / "numba")


def compiled() -> bool:
    """Whether a build or jobs.compile has compiled the kernels of this code here."""
    return _mark().exists()


def note_compiled() -> None:
    """Remember that the kernels are compiled, if their folder can be written."""
    mark = _mark()
    if mark.parent.is_dir() and os.access(mark.parent, os.W_OK):
        mark.touch()


def _mark() -> Path:
    """The file that says so, named after the content of all modules with kernels and of what they import."""
    from base import compiled  # numba takes half a second, and the command imports it anyway

    folder = cache_folder()
    modules = [
        file
        for package in ("base", "dedup", "pipelines")
        for file in sorted((ROOT / package).rglob("*.py"))
        if b"base.kernels import" in file.read_bytes()
    ]
    digests = "".join(compiled.digest(file, folder) for file in modules)
    return Path(folder, f"{xxhash.xxh3_128_hexdigest(digests.encode())}.compiled")
