"""Corpus versions: immutable manifests and how they are found."""

import importlib.metadata
import json
from dataclasses import dataclass
from typing import Any

import xxhash

from base import files
from base.errors import UserError

SCHEMA = 1
PACKAGES = (
    "ray",
    "torch",
    "deepspeed",
    "pyarrow",
    "tokenizers",
    "mlflow",
    "fsspec",
    "numba",
    "numpy",
)


@dataclass(frozen=True)
class Version:
    """One corpus version: its folder URL, manifest content and manifest hash (xxh3-128 hex of the file)."""

    url: str
    manifest: dict[str, Any]
    hash: str

    @property
    def name(self) -> str:
        """Folder name, such as v0001."""
        return str(self.manifest["version"])

    @property
    def manifest_url(self) -> str:
        """URL of manifest.json."""
        return files.join(self.url, "manifest.json")


def corpus_url(storage: str) -> str:
    """The corpus folder of a project."""
    return files.join(storage, "corpus")


def open_version(url: str) -> Version:
    """Open a version by its folder or manifest URL.

    Raises UserError if there is no corpus version.
    """
    folder = url.removesuffix("/manifest.json").rstrip("/")
    manifest_url = files.join(folder, "manifest.json")
    if not files.exists(manifest_url):
        raise UserError(f"{url} is not a corpus version: it has no manifest.json")
    content = files.read_bytes(manifest_url)
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise UserError(f"{manifest_url} is not a corpus manifest: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise UserError(f"{manifest_url} is not a corpus manifest of schema {SCHEMA}")
    try:
        _check_paths(folder, manifest)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{manifest_url} is not a corpus manifest: {error!r}") from None
    return Version(folder, manifest, xxhash.xxh3_128_hexdigest(content))


def _check_paths(folder: str, manifest: dict[str, Any]) -> None:
    """Raise UserError if a name or path of a manifest is not below the folder that it belongs to."""
    versions, _, name = folder.rpartition("/")
    corpus = versions.rpartition("/")[0]
    for path in (name, manifest["version"], *filter(None, [manifest.get("parent")])):
        _check_name(versions, path)
    for line in manifest["shards"]:
        files.below(versions, line["path"])
        _check_name(folder, line["source"])
        _check_name(folder, line["split"])
    for path in (*manifest.get("files", {}), *filter(None, [manifest["tokenizer"].get("file")])):
        files.below(folder, path)
    for path in (*manifest.get("indexes", []), *manifest.get("lines", [])):
        files.below(corpus, path)
    for item in manifest.get("inputs", []):
        _check_name(corpus, item["part"])


def _check_name(folder: str, name: str) -> None:
    """Raise UserError for what is not the name of one file or folder below `folder`."""
    files.below(folder, name)
    if "/" in name:
        raise UserError(f"{name!r} is no name below {folder}")


def manifest_urls(storage: str, name: str = "v*") -> list[str]:
    """The manifests of a project's versions, oldest first, or of those whose names match."""
    return files.list_files(files.join(corpus_url(storage), "versions", name, "manifest.json"))


def versions(storage: str) -> list[Version]:
    """Every visible version of a project's corpus, oldest first."""
    return [open_version(url) for url in manifest_urls(storage)]


def next_name(storage: str) -> str:
    """The name of the version that comes after the newest visible one."""
    names = [url.rsplit("/", 2)[1].removeprefix("v") for url in manifest_urls(storage)]
    return f"v{max((int(name) for name in names if name.isdecimal()), default=0) + 1:04d}"


def latest(storage: str) -> Version | None:
    """The newest visible version, or None."""
    found = versions(storage)
    return found[-1] if found else None


def require(storage: str, name: str | None = None) -> Version:
    """The named version of a project's corpus, or its newest.

    Raises UserError if it is not there.
    """
    if name is not None:
        return open_version(files.join(corpus_url(storage), "versions", name))
    version = latest(storage)
    if version is None:
        raise UserError(f"{corpus_url(storage)} holds no corpus version; run jobs.prepare first")
    return version


def ancestry(version: Version) -> list[Version]:
    """The version, its parent, and so on."""
    chain = [version]
    while parent := chain[-1].manifest["parent"]:
        chain.append(open_version(files.join(version.url.rsplit("/", 1)[0], parent)))
    return chain


def package_versions() -> dict[str, str]:
    """Versions of the packages that outputs depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def indexes(version: Version) -> list[str]:
    """URLs of the dedup indexes that hold the documents of a version, oldest first."""
    corpus = version.url.rsplit("/", 2)[0]
    return [files.join(corpus, path) for path in version.manifest["indexes"]]
