"""Which files a build reads: listing, content digests, and the parts they become."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import xxhash

from base import files
from base.errors import UserError
from pipelines.config import SourceConfig


@dataclass(frozen=True, order=True)
class Input:
    """One source file with its size in bytes and content digest; `part` names its outputs."""

    source: str
    file: str
    bytes: int
    digest: str
    part: str


def check_sources(sources: list[SourceConfig]) -> set[tuple[str, str]]:
    """(source, file URL) of every file of every source.

    Raises UserError for a URL that matches no file.
    """
    found: set[tuple[str, str]] = set()
    for source in sources:
        for url in source.urls:
            matches = files.list_files(files.absolute(url))
            if not matches:
                raise UserError(f"source {source.name}: no file matches {url}")
            found.update((source.name, match) for match in matches)
    return found


def list_inputs(sources: list[SourceConfig], cache_url: str) -> list[Input]:
    """Every file of every source, sorted, with digests.

    A digest is the object store's checksum where the file system tells one, else xxh3-128 of the
    content. `cache_url` remembers digests by URL, size and modification time, so that a second
    listing does not read the files again.

    Raises UserError for a source that matches no file.
    """
    found = check_sources(sources)
    known = files.read_json(cache_url) if files.exists(cache_url) else {}
    names = sorted({file for _, file in found})
    with ThreadPoolExecutor(8) as pool:
        facts = dict(zip(names, pool.map(lambda file: _facts(file, known.get(file)), names), strict=True))
    files.write_json(cache_url, facts)
    return sorted(
        Input(source, file, facts[file]["bytes"], facts[file]["digest"], _part(source, file, facts[file]))
        for source, file in found
    )


def _facts(file: str, known: dict[str, Any] | None) -> dict[str, Any]:
    filesystem, path = files.split(file)
    info = filesystem.info(path)
    tag = info.get("ETag") or info.get("md5Hash") or info.get("etag")
    stamp = str(tag or info.get("mtime") or info.get("LastModified") or info.get("created"))
    if known and (known["bytes"], known["stamp"]) == (info["size"], stamp):
        return known
    return {"bytes": info["size"], "stamp": stamp, "digest": str(tag) if tag else files.digest(file)}


def _part(source: str, file: str, facts: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest("\0".join([source, file, str(facts["bytes"]), facts["digest"]]).encode())
