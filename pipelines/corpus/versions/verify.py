"""Corpus versions against their manifests: every file is there, and what it should be."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from base import files
from base import manifest as manifests
from base.errors import UserError
from base.manifest import Version
from pipelines.corpus.ledger import Ledger, LedgerError
from pipelines.corpus.text import tokenizer
from pipelines.runtime.cluster import Progress, counter, run_tasks


@dataclass(frozen=True, order=True)
class Damage:
    """One file that is not what its manifest says; `path` is below corpus/versions."""

    path: str
    problem: str


def origins_path(shard: str) -> str:
    """The path of the origins of a shard, given its path in the manifest."""
    version, _, rest = shard.partition("/shards/")
    return f"{version}/origins/{rest.removesuffix('.arrow')}.parquet"


def read_shard(versions: str, line: dict[str, Any]) -> pa.Table:
    """The rows of a shard, given the folder of the versions and its line of a manifest.

    Raises UserError if the file is missing or its bytes are not those of the manifest.
    """
    try:
        return _open_shard(versions, line)
    except _DamagedError as error:
        url = files.join(versions, line["path"])
        raise UserError(f"shard {url}: {error}; jobs.verify --rebuild makes it again") from None


def read_origins(versions: str, line: dict[str, Any]) -> pa.Table:
    """The origins of a shard, given the folder of the versions and its line of a manifest.

    Raises UserError if the file is missing or its bytes are not those of the manifest.
    """
    url = files.join(versions, origins_path(line["path"]))
    try:
        return pq.read_table(pa.BufferReader(_read(url, line.get("origins_digest"))))
    except _DamagedError as error:
        raise UserError(f"origins {url}: {error}; jobs.verify --rebuild makes them again") from None


class _DamagedError(Exception):
    """What is wrong with a file, as one clause."""


def _read(url: str, digest: str | None) -> pa.Buffer:
    """The bytes of a file, mapped if it is local; damage if it cannot be read or has another xxh3-128."""
    local = files.local_path(url)
    try:
        content = pa.memory_map(local).read_buffer() if local else pa.py_buffer(files.read_bytes(url))
    except FileNotFoundError:
        raise _DamagedError("it is missing") from None
    except OSError as error:
        raise _DamagedError(f"it cannot be read: {error}") from None
    found = xxhash.xxh3_128_hexdigest(memoryview(content))
    if digest is not None and found != digest:
        raise _DamagedError(f"its digest is {found}, the manifest says {digest}")
    return content


def _open_shard(versions: str, line: dict[str, Any]) -> pa.Table:
    return pa.ipc.open_file(_read(files.join(versions, line["path"]), line["digest"])).read_all()


@dataclass(frozen=True)
class _Shard:
    """One shard to check: the folder of the versions, its line, its manifest's tokenizer."""

    versions: str
    line: dict[str, Any]
    tokenizer: dict[str, Any]


def _check_shard(task: _Shard) -> dict[str, Any]:
    """Check a shard and its origins; returns its documents, its bytes, and what is (path, problem) wrong."""
    line = task.line
    wrong: list[tuple[str, str]] = []
    identifiers: pa.ChunkedArray | None = None
    try:
        shard = _open_shard(task.versions, line)
        wrong += [(line["path"], problem) for problem in _shard_problems(shard, line, task.tokenizer)]
        identifiers = shard["document_id"]
    except _DamagedError as error:
        wrong.append((line["path"], str(error)))
    path = origins_path(line["path"])
    try:
        content = _read(files.join(task.versions, path), line.get("origins_digest"))
        origins = pq.read_table(pa.BufferReader(content), columns=["document_id", "bytes"])
        wrong += [(path, problem) for problem in _origins_problems(origins, line, identifiers)]
    except _DamagedError as error:
        wrong.append((path, str(error)))
    except (pa.ArrowException, OSError) as error:
        wrong.append((path, f"it is not a parquet file of origins: {error}"))
    return {"documents": line["documents"], "bytes": line["bytes"], "wrong": wrong}


def _shard_problems(shard: pa.Table, line: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """What in a shard disagrees with its line of the manifest."""
    expected = pa.large_list(pa.from_numpy_dtype(np.dtype(facts["dtype"])))
    if shard.schema.field("input_ids").type != expected:
        return [f"input_ids are {shard.schema.field('input_ids').type}, the manifest says {facts['dtype']}"]
    problems = []
    lengths = pc.list_value_length(shard["input_ids"])
    tokens = pc.sum(lengths).as_py() or 0
    for name, found in (("documents", shard.num_rows), ("tokens", tokens)):
        if found != line[name]:
            problems.append(f"it holds {found} {name}, the manifest says {line[name]}")
    for chunk in shard["input_ids"].chunks:
        ends = chunk.offsets.to_numpy()[1:] - 1
        last = chunk.values.to_numpy()[ends]
        if (last != facts["end_of_document_id"]).any():
            problems.append(f"a document does not end in token {facts['end_of_document_id']}")
    return problems


def _origins_problems(
    origins: pa.Table, line: dict[str, Any], identifiers: pa.ChunkedArray | None
) -> list[str]:
    """What in an origins table disagrees with its shard."""
    if origins.num_rows != line["documents"]:
        return [f"it holds {origins.num_rows} documents, the manifest says {line['documents']}"]
    problems = []
    if identifiers is not None:
        same = pc.equal(origins["document_id"].cast(pa.binary()), identifiers.cast(pa.binary()))
        if pc.all(same).as_py() not in (True, None):
            problems.append("its documents are not those of the shard")
    size = pc.sum(origins["bytes"]).as_py() or 0
    if size != line["text_bytes"]:
        problems.append(f"its documents have {size} bytes of text, the manifest says {line['text_bytes']}")
    return problems


def check_manifest(version: Version) -> list[str]:
    """What in a manifest disagrees with itself or with its parent's; one clause each."""
    content = version.raw
    problems = []
    if files.key_of(content["config"]) != content["config_hash"]:
        problems.append("config_hash is not the hash of its configuration")
    ledger = Ledger.from_json(content["ledger"])
    try:
        ledger.check()
    except LedgerError as error:
        problems.append(f"its ledger does not balance: {error}")
    lines = content["shards"]
    if len({line["path"] for line in lines}) != len(lines):
        problems.append("it names a shard twice")
    own = [line for line in lines if line["version"] == version.name]
    for name, stages in ledger.sources.items():
        last = list(stages.values())[-1]
        mine = [line for line in own if line["source"] == name]
        for unit, expected in (("documents", last.documents_out), ("text_bytes", last.bytes_out)):
            found = sum(line[unit] for line in mine)
            if found != expected:
                problems.append(f"its shards of {name} hold {found} {unit}, its ledger says {expected}")
    for name, facts in content["sources"].items():
        for prefix, heldout in (("", False), ("heldout_", True)):
            mine = [
                line for line in lines if line["source"] == name and (line["split"] == "heldout") == heldout
            ]
            for unit in ("documents", "tokens", "text_bytes"):
                if sum(line[unit] for line in mine) != facts[prefix + unit]:
                    problems.append(f"{prefix}{unit} of {name} are not the sum of its shards")
    if {line["source"] for line in lines} != set(content["sources"]):
        problems.append("its sources are not those of its shards")
    if content["parent"]:
        try:
            parent = manifests.open_version(sibling(version, content["parent"]))
        except UserError as error:
            return [*problems, str(error)]
        if parent.hash != content["parent_manifest_hash"]:
            problems.append(f"the manifest of its parent {parent.name} is not the one it was made from")
        inherited = [line for line in lines if line["version"] != version.name]
        if inherited != parent.raw["shards"]:
            problems.append(f"the shards it has from {parent.name} are not those of {parent.name}")
    return problems


def sibling(version: Version, path: str) -> str:
    """The URL of something below the folder of all versions."""
    return files.join(version.url.rsplit("/", 1)[0], path)


def _check_tokenizer(version: Version) -> list[str]:
    """What in a version's tokenizer disagrees with its manifest."""
    facts = version.raw["tokenizer"]
    try:
        found = tokenizer.facts(files.join(version.url, facts["file"]), facts["end_of_document"])
    except UserError as error:
        return [str(error)]
    return [
        f"its {name} is {value}, the manifest says {facts[name]}"
        for name, value in found.items()
        if value != facts[name]
    ]


def open_versions(urls: list[str]) -> tuple[list[Version], list[Damage]]:
    """The versions of some manifests, and the manifests that cannot be read."""
    versions, damage = [], []
    for url in urls:
        try:
            versions.append(manifests.open_version(url))
        except UserError as error:
            damage.append(Damage("/".join(url.split("/")[-2:]), str(error)))
    return versions, damage


def verify(versions: list[Version], workers: int, progress: Progress) -> list[Damage]:
    """Check every file of some versions of one corpus; returns the damaged ones, sorted.

    A shard of several versions is read once. Ray must be initialised.
    """
    damage: list[Damage] = []
    shards: dict[str, _Shard] = {}
    for version in versions:
        content = version.raw
        folder = sibling(version, "")
        for line in content["shards"]:
            shards.setdefault(line["path"], _Shard(folder, line, content["tokenizer"]))
        path = f"{version.name}/manifest.json"
        damage += [Damage(path, problem) for problem in check_manifest(version)]
        path = f"{version.name}/{content['tokenizer']['file']}"
        damage += [Damage(path, problem) for problem in _check_tokenizer(version)]
        for name, digest in content.get("files", {}).items():
            if name == content["tokenizer"]["file"]:
                continue
            try:
                _read(files.join(version.url, name), digest)
            except _DamagedError as error:
                damage.append(Damage(f"{version.name}/{name}", str(error)))
    tasks = list(shards.values())
    found = run_tasks(_check_shard, tasks, workers, counter(progress, "verify", 0, len(tasks)))
    damage += [Damage(path, problem) for result in found for path, problem in result["wrong"]]
    return sorted(damage)
