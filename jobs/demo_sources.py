"""The raw corpus of the demo: text that every machine has after the installation.

Four sources are taken from the packages installed for the running Python and from its standard
library, and written in the layout of The Pile (one JSON object a line, zstd): the packages' long
descriptions, their licence files (full of near-duplicates), Python sources, and docstrings.
"""

import ast
import json
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import xxhash
import zstandard

from base import files

FILES = {"package_descriptions": 2, "licences": 2, "python_sources": 6, "docstrings": 2}
"""Files of a source in the first batch; a later batch is one file."""
NEW_PERCENT = 8
"""Share of the packages, chosen by name, that makes up the second batch."""
MAX_FILE_BYTES = 200_000
MIN_DOCSTRING_CHARACTERS = 200
DOCSTRING_SHARE = 0.3
"""Files with a smaller share of triple-quoted text are not parsed for docstrings: parsing is slow."""

_LICENCE = re.compile(r"(licen[cs]e|copying|notice|third.?party)[^/]*", re.IGNORECASE)
_NOT_TEXT = (".py", ".pyc", ".so", ".json", ".html", ".png")
_TRIPLE_QUOTED = re.compile(r'^\s*[rRuU]?"""(.*?)"""', re.DOTALL | re.MULTILINE)
_OWN = "piledriver"


@dataclass(frozen=True, order=True)
class _File:
    package: str
    path: str
    """Path that is shown, relative to the folder of packages or of the standard library."""
    absolute: str


@dataclass(frozen=True, order=True)
class _Document:
    package: str
    path: str
    text: str


def collect(
    folder_url: str, batch: int, python_bytes: int = 40_000_000, docstring_bytes: int = 12_000_000
) -> list[str]:
    """Write one batch of the demo's corpus and return the URLs of its files.

    Batch 0 holds about 92 % of the packages, batch 1 the others, so that batch 1 is new text for a
    refresh. The files are `<folder_url>/<source>/batch-<batch>-<number>.jsonl.zst`; a source whose
    files are all there is left alone. `python_bytes` and `docstring_bytes` bound the UTF-8 text of
    these sources over both batches; which files are taken depends on a hash of their paths alone.
    Equal environments give equal bytes.
    """
    urls = {source: _urls(folder_url, source, batch) for source in FILES}
    missing = {source for source, names in urls.items() if not all(map(files.exists, names))}
    if missing:
        share = (100 - NEW_PERCENT if batch == 0 else NEW_PERCENT) / 100
        python, licences = _installed_files(batch)
        documents = {
            "package_descriptions": lambda: _descriptions(batch),
            "licences": lambda: _whole_files(licences),
            "python_sources": lambda: _first_bytes(_whole_files(python), int(share * python_bytes)),
            "docstrings": lambda: _first_bytes(_docstrings(python), int(share * docstring_bytes)),
        }
        for source in FILES:
            if source in missing:
                _write(urls[source], source, sorted(documents[source]()))
    return [url for names in urls.values() for url in names]


def _urls(folder_url: str, source: str, batch: int) -> list[str]:
    count = FILES[source] if batch == 0 else 1
    return [files.join(folder_url, source, f"batch-{batch}-{index:02d}.jsonl.zst") for index in range(count)]


def _batch_of(package: str) -> int:
    return int(xxhash.xxh3_64_intdigest(package.encode()) % 100 < NEW_PERCENT)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _package_folders() -> list[str]:
    paths = sysconfig.get_paths()
    return sorted({os.path.realpath(paths[name]) for name in ("purelib", "platlib")})


def _own_names() -> set[str]:
    """Top-level names that installing piledriver put beside the packages."""
    names = {_OWN}
    for distribution in metadata.distributions(name=_OWN, path=_package_folders()):
        names.update(_normalised(file.parts[0]) for file in distribution.files or [])
        names.add(f"{_OWN}_{distribution.version}.dist_info")
    return names


def _descriptions(batch: int) -> Iterator[_Document]:
    for distribution in metadata.distributions(path=_package_folders()):
        name = _normalised(distribution.metadata["Name"] or "")
        text = distribution.metadata.get_payload() or distribution.metadata.get("Description")  # type: ignore[attr-defined]
        if name not in ("", _OWN) and _batch_of(name) == batch and isinstance(text, str) and text.strip():
            yield _Document(name, f"{distribution.metadata['Name']} {distribution.version}", text)


def _installed_files(batch: int) -> tuple[list[_File], list[_File]]:
    """Python sources and licence files of a batch, in the order of a hash of their paths."""
    own = _own_names()
    found: dict[bool, list[_File]] = {True: [], False: []}
    roots = [(folder, "site-packages") for folder in _package_folders()]
    roots.append((os.path.realpath(sysconfig.get_paths()["stdlib"]), "stdlib"))
    for root, label in roots:
        for folder, folders, names in os.walk(root):
            relative = os.path.relpath(folder, root).replace(os.sep, "/")
            top = relative.split("/")[0]
            skipped = {"__pycache__", *(("site-packages", "dist-packages", "test") if top == "." else ())}
            folders[:] = [
                name
                for name in folders
                if name not in skipped and not (top == "." and _normalised(name) in own)
            ]
            for name in names:
                path = name if relative == "." else f"{relative}/{name}"
                is_python = name.endswith(".py")
                if not is_python and (
                    name.endswith(_NOT_TEXT)
                    or not (_LICENCE.fullmatch(name) or ".dist-info/licenses/" in path)
                ):
                    continue
                first = path.split("/")[0].removesuffix(".py")
                package = _normalised(re.sub(r"-[^-]*\.(dist|egg)-info$", "", first))
                if package not in own and _batch_of(package) == batch:
                    found[is_python].append(_File(package, f"{label}/{path}", os.path.join(folder, name)))
    for chosen in found.values():
        chosen.sort(key=lambda file: (xxhash.xxh3_64_intdigest(file.path.encode()), file.path))
    return found[True], found[False]


def _read(file: _File) -> str | None:
    """The text of a file; None if it is empty, too large, or not UTF-8 text."""
    with open(file.absolute, "rb") as stream:
        content = stream.read(MAX_FILE_BYTES + 1)
    if not content or len(content) > MAX_FILE_BYTES or b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _whole_files(found: list[_File]) -> Iterator[_Document]:
    for file in found:
        text = _read(file)
        if text:
            yield _Document(file.package, file.path, text)


def _docstrings(found: list[_File]) -> Iterator[_Document]:
    for document in _whole_files(found):
        quoted = sum(map(len, _TRIPLE_QUOTED.findall(document.text)))
        if quoted < DOCSTRING_SHARE * len(document.text):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's sources
                module = ast.parse(document.text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        for name, text in _named_docstrings(module, ""):
            if len(text) >= MIN_DOCSTRING_CHARACTERS:
                yield _Document(document.package, f"{document.path}:{name}", text)


def _named_docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text:
        yield name or "module", text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _named_docstrings(child, f"{name}.{child.name}".lstrip("."))


def _first_bytes(documents: Iterator[_Document], limit: int) -> Iterator[_Document]:
    size = 0
    for document in documents:
        size += len(document.text.encode(errors="replace"))
        if size > limit:
            return
        yield document


def _write(urls: list[str], source: str, documents: list[_Document]) -> None:
    """Write documents in order, cut into files of about equal size."""
    lines = []
    for document in documents:
        meta = {"pile_set_name": source, "package": document.package, "path": document.path}
        line = json.dumps({"text": document.text, "meta": meta}, ensure_ascii=False)
        # a docstring may hold a lone surrogate, which has no UTF-8 form
        lines.append(line.encode(errors="replace") + b"\n")
    target = sum(map(len, lines)) / len(urls)
    groups: list[list[bytes]] = [[] for _ in urls]
    size = 0
    for encoded in lines:
        groups[min(int(size / target), len(urls) - 1)].append(encoded)
        size += len(encoded)
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    for url, group in zip(urls, groups, strict=True):
        with files.atomic_writer(url) as file:
            file.write(compressor.compress(b"".join(group)))
