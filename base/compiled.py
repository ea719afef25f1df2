"""Where numba keeps compiled kernels: by the code that they are made of, not by where it lies.

numba's own place for a file's kernels is named after the file's path. Ray unpacks the working directory of a
job below a folder of its session, so that each new cluster would compile everything again, for a minute and
more. Kernels call kernels of other modules and use their constants, which are compiled into them: the kernels
of a module are in a place that is named after its content and that of all modules of this repository that it
imports, directly or by way of others. A change compiles again what depends on the changed module, no more.
"""

import ast
import contextlib
import functools
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from pickle import STOP
from typing import Any

import xxhash
from numba import config
from numba.core.caching import UserProvidedCacheLocator

ROOT = Path(__file__).parents[1]
_IMPORTS = "imports.json"


class _Imports:
    """The modules that files import, kept beside the kernels: to parse all of them takes 200 ms."""

    def __init__(self, folder: str) -> None:
        self.file = os.path.join(folder, _IMPORTS)
        self.known: dict[str, list[str]] = {}
        """Names that a file imports, by the digest of its content."""
        self.new = False
        with contextlib.suppress(OSError, ValueError, AttributeError), open(self.file, "rb") as file:
            self.known = dict(json.load(file).items())

    def of(self, content: bytes) -> list[str]:
        """The names of what a file with this content imports, anywhere in it; of modules or in them."""
        digest = xxhash.xxh3_128_hexdigest(content)
        if digest not in self.known:
            self.known[digest] = sorted(set(_imported(content)))
            self.new = True
        return self.known[digest]

    def keep(self) -> None:
        """Write what was found for later processes, if their folder can be written."""
        if not self.new:
            return
        temporary = f"{self.file}.{uuid.uuid4().hex[:12]}"
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self.file), exist_ok=True)
            with open(temporary, "w") as file:
                json.dump(self.known, file)
            os.replace(temporary, self.file)
        self.new = False


def _imported(content: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "imports are absolute in this repository"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def _module_files(name: str) -> list[Path]:
    """The files of this repository that an import of a dotted name runs: of packages and of the module."""
    package, _, rest = name.partition(".")
    if not (ROOT / package).is_dir():
        return []
    places = [ROOT / package]
    for part in rest.split(".") if rest else []:
        places.append(places[-1] / part)
    candidates = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py"))]
    return [file for file in candidates if file.is_file()]


@functools.cache
def _content(file: Path) -> bytes:
    return file.read_bytes()


@functools.cache
def _remembered(folder: str) -> _Imports:
    return _Imports(folder)


@functools.cache
def digest(file: Path, folder: str) -> str:
    """128 bits of the paths and contents of a module and of all that it imports of this repository.

    What modules import is remembered in `folder`.
    """
    imports = _remembered(folder)
    found, open_ends = {file}, [file]
    while open_ends:
        for name in imports.of(_content(open_ends.pop())):
            new = set(_module_files(name)) - found
            found |= new
            open_ends += new
    imports.keep()
    hasher = xxhash.xxh3_128()
    for path in sorted(found):
        content = _content(path)
        hasher.update(f"{path.relative_to(ROOT)}\0{len(content)}\0".encode() + content)
    return hasher.hexdigest()


@functools.cache
def _remove_cut(folder: str) -> None:
    """Remove the kernels of a folder that a power cut left empty or cut: numba ends in an error over them."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if not name.endswith((".nbi", ".nbc")):
                continue
            with open(os.path.join(folder, name), "rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
                whole = file.read() == STOP
            if not whole:
                os.unlink(os.path.join(folder, name))


class ByContent(UserProvidedCacheLocator):  # type: ignore[misc]
    """numba's locator for NUMBA_CACHE_DIR, in a folder named after the code; for this repository's files."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        """As numba calls it."""
        super().__init__(py_func, py_file)
        folder = Path(py_file).parent.relative_to(ROOT)
        name = f"{digest(Path(py_file), config.CACHE_DIR)}-{'-'.join(folder.parts)}"
        self._cache_path = os.path.join(config.CACHE_DIR, name)
        _remove_cut(self._cache_path)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        """A locator, or None where another has to be found."""
        if not config.CACHE_DIR or Path(py_file) not in _module_files(py_func.__module__):
            return None
        return super().from_function(py_func, py_file)
