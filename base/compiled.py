"""Where numba keeps compiled kernels: by the code that they are made of, not by where it lies.

numba's own place for a file's kernels is named after the file's path. Ray unpacks the working directory of a
job below a folder of its session, so that each new cluster would compile everything again, for a minute and
more. Kernels call kernels of other modules: they share one place, named after all modules with kernels.
"""

import functools
import os
from pathlib import Path
from typing import Any

import xxhash
from numba import config
from numba.core.caching import UserProvidedCacheLocator

ROOT = Path(__file__).parents[1]


@functools.cache
def _digest() -> str:
    """128 bits of the paths and contents of this repository's modules that mention numba."""
    hasher = xxhash.xxh3_128()
    for folder in ("base", "dedup", "model", "pipelines"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            content = path.read_bytes()
            if b"numba" in content:
                hasher.update(f"{path.relative_to(ROOT)}\0{len(content)}\0".encode() + content)
    return hasher.hexdigest()


class ByContent(UserProvidedCacheLocator):  # type: ignore[misc]
    """numba's locator for NUMBA_CACHE_DIR, in a folder named after the code; for this repository's files."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        """As numba calls it."""
        super().__init__(py_func, py_file)
        folder = Path(py_file).parent.relative_to(ROOT)
        self._cache_path = os.path.join(config.CACHE_DIR, f"{_digest()}-{'-'.join(folder.parts)}")

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        """A locator, or None where another has to be found."""
        if not config.CACHE_DIR or not Path(py_file).is_relative_to(ROOT):
            return None
        return super().from_function(py_func, py_file)
