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
from base.contents import ShardEntry
from base.errors import UserError
from base.layout import INPUTS, MANIFEST, SHARDS, name_of, parent_of
from base.manifest import TokenizerFacts, Version
from dedup.catalog import INDEX, read_summary
from pipelines.corpus.ledger import Ledger, LedgerError
from pipelines.corpus.text import tokenizer
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress

INDEXES = "../index/"
"""The folder of dedup indexes, from that of versions."""


@dataclass(frozen=True, order=True)
class Damage:
    """One file that is not what its manifest says; `path` is below corpus/versions, or in INDEXES."""

    path: str
    problem: str


def read_shard(versions: str, shard: ShardEntry) -> pa.Table:
    """The rows of a shard, given the folder of the versions.

    Raises UserError if the file is missing or its bytes are not those of the manifest.
    """
    try:
        return _open_shard(versions, shard)
    except _DamagedError as error:
        url = files.join(versions, shard.path)
        raise UserError(f"shard {url}: {error}; jobs.verify --rebuild makes it again") from None


def read_origins(versions: str, shard: ShardEntry) -> pa.Table:
    """The origins of a shard, given the folder of the versions.

    Raises UserError if the file is missing or its bytes are not those of the manifest.
    """
    url = files.join(versions, shard.origins)
    try:
        return _origins(_read(url, shard.origins_digest))
    except _DamagedError as error:
        raise UserError(f"origins {url}: {error}; jobs.verify --rebuild makes them again") from None


def _origins(content: pa.Buffer, columns: list[str] | None = None) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(content), columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _DamagedError(f"it is no parquet file: {' '.join(str(error).split())}") from None
    for name, kind in (("document_id", pa.binary(16)), ("bytes", pa.int64())):
        place = table.schema.get_field_index(name)
        if place < 0 or table.schema.field(place).type != kind:
            raise _DamagedError(f"its column {name} is missing or of another type")
    return table


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


DTYPES = (pa.large_list(pa.uint16()), pa.large_list(pa.uint32()))
"""Types of token ids in a shard."""


def _open_shard(versions: str, shard: ShardEntry) -> pa.Table:
    content = _read(files.join(versions, shard.path), shard.digest)
    try:
        table = pa.ipc.open_file(content).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise _DamagedError(f"it is no Arrow file: {' '.join(str(error).split())}") from None
    for name, types in (("input_ids", DTYPES), ("document_id", (pa.binary(16),))):
        place = table.schema.get_field_index(name)
        if place < 0 or table.schema.field(place).type not in types:
            raise _DamagedError(f"its column {name} is missing or of another type")
    return table


@dataclass(frozen=True, kw_only=True)
class _CheckShard:
    """One shard to check: the folder of the versions, its entry, its manifest's tokenizer."""

    versions: str
    shard: ShardEntry
    tokenizer: TokenizerFacts


def _check_shard(task: _CheckShard) -> dict[str, Any]:
    """Check a shard and its origins; returns its documents, its bytes, and what is (path, problem) wrong."""
    entry = task.shard
    wrong: list[tuple[str, str]] = []
    identifiers: pa.ChunkedArray | None = None
    try:
        table = _open_shard(task.versions, entry)
        wrong += [(entry.path, problem) for problem in _shard_problems(table, entry, task.tokenizer)]
        identifiers = table["document_id"]
    except _DamagedError as error:
        wrong.append((entry.path, str(error)))
    try:
        content = _read(files.join(task.versions, entry.origins), entry.origins_digest)
        origins = _origins(content, ["document_id", "bytes"])
        wrong += [(entry.origins, problem) for problem in _origins_problems(origins, entry, identifiers)]
    except _DamagedError as error:
        wrong.append((entry.origins, str(error)))
    return {"documents": entry.documents, "bytes": entry.bytes, "wrong": wrong}


def _shard_problems(table: pa.Table, entry: ShardEntry, tokenizer: TokenizerFacts) -> list[str]:
    """What in a shard disagrees with the manifest."""
    expected = pa.large_list(pa.from_numpy_dtype(np.dtype(tokenizer.dtype)))
    if table.schema.field("input_ids").type != expected:
        return [f"input_ids are {table.schema.field('input_ids').type}, the manifest says {tokenizer.dtype}"]
    problems = []
    tokens = pc.sum(pc.list_value_length(table["input_ids"])).as_py() or 0
    for unit, held, said in (
        ("documents", table.num_rows, entry.documents),
        ("tokens", tokens, entry.tokens),
    ):
        if held != said:
            problems.append(f"it holds {held} {unit}, the manifest says {said}")
    for chunk in table["input_ids"].chunks:
        offsets = chunk.offsets.to_numpy()
        empty = offsets[1:] == offsets[:-1]
        last = chunk.values.to_numpy()[offsets[1:][~empty] - 1]
        if empty.any() or (last != tokenizer.end_of_document_id).any():
            problems.append(f"a document does not end in token {tokenizer.end_of_document_id}")
    return problems


def _origins_problems(origins: pa.Table, entry: ShardEntry, identifiers: pa.ChunkedArray | None) -> list[str]:
    """What in an origins table disagrees with its shard."""
    if origins.num_rows != entry.documents:
        return [f"it holds {origins.num_rows} documents, the manifest says {entry.documents}"]
    problems = []
    if identifiers is not None and len(identifiers) == origins.num_rows:
        same = pc.equal(origins["document_id"].cast(pa.binary()), identifiers.cast(pa.binary()))
        if pc.all(same).as_py() not in (True, None):
            problems.append("its documents are not those of the shard")
    size = pc.sum(origins["bytes"]).as_py() or 0
    if size != entry.text_bytes:
        problems.append(f"its documents have {size} bytes of text, the manifest says {entry.text_bytes}")
    return problems


def check_manifest(version: Version) -> list[str]:
    """What in a manifest disagrees with itself or with its parent's; one clause each."""
    manifest = version.manifest
    problems = []
    if files.key_of(manifest.config) != manifest.config_hash:
        problems.append("config_hash is not the hash of its configuration")
    if (len(version.shards), len(version.inputs)) != (manifest.shard_count, manifest.input_count):
        problems.append("its counts of shards and inputs are not those of their tables")
    if len({shard.path for shard in version.shards}) != len(version.shards):
        problems.append("it names a shard twice")
    problems += _ledger_problems(version)
    problems += _totals_problems(version)
    if manifest.parent is None:
        return problems
    try:
        parent = manifests.open_version(version.below_versions(manifest.parent))
    except UserError as error:
        return [*problems, str(error)]
    if parent.hash != manifest.parent_manifest_hash:
        problems.append(f"the manifest of its parent {parent.name} is not the one it was made from")
    inherited = [shard for shard in version.shards if shard.version != version.name]
    if inherited != parent.shards:
        problems.append(f"the shards it has from {parent.name} are not those of {parent.name}")
    return problems


def _ledger_problems(version: Version) -> list[str]:
    """What in the ledger of a version does not balance, or disagrees with the shards that it added."""
    ledger = Ledger.from_json(version.manifest.ledger)
    problems = []
    try:
        ledger.check()
    except LedgerError as error:
        problems.append(f"its ledger does not balance: {error}")
    for name, stages in ledger.sources.items():
        last = list(stages.values())[-1]
        mine = [shard for shard in version.own_shards if shard.source == name]
        for unit, expected in (("documents", last.documents_out), ("text_bytes", last.bytes_out)):
            held = sum(getattr(shard, unit) for shard in mine)
            if held != expected:
                problems.append(f"its shards of {name} hold {held} {unit}, its ledger says {expected}")
    return problems


def _totals_problems(version: Version) -> list[str]:
    """Which totals of sources are not the sums of their shards."""
    problems = []
    for name, totals in version.manifest.sources.items():
        for prefix, heldout in (("", False), ("heldout_", True)):
            mine = [
                shard
                for shard in version.shards
                if shard.source == name and (shard.split == "heldout") == heldout
            ]
            for unit in ("documents", "tokens", "text_bytes"):
                if sum(getattr(shard, unit) for shard in mine) != getattr(totals, prefix + unit):
                    problems.append(f"{prefix}{unit} of {name} are not the sum of its shards")
    if {shard.source for shard in version.shards} != set(version.manifest.sources):
        problems.append("its sources are not those of its shards")
    return problems


def _check_tokenizer(version: Version) -> list[str]:
    """What in a version's tokenizer disagrees with its manifest."""
    said = version.manifest.tokenizer
    try:
        held = tokenizer.facts(version.tokenizer_url, said.end_of_document)
    except UserError as error:
        return [str(error)]
    return [
        f"its {name} is {value}, the manifest says {getattr(said, name)}"
        for name, value in held.items()
        if value != getattr(said, name)
    ]


def _check_index(url: str) -> list[tuple[str, str]]:
    """What is (path, problem) wrong with a dedup index: a file that is not there, or not what was written."""
    place = f"{INDEXES}{name_of(url)}"
    try:
        summary = read_summary(url)
    except UserError as error:
        return [(f"{place}/{INDEX}", str(error))]
    wrong = []
    for folder, count in summary.files.items():
        for number in range(count):
            path = f"{folder}/{number:05d}.parquet"
            try:
                files.read_parquet(files.join(url, path))
            except UserError as error:
                wrong.append((f"{place}/{path}", str(error)))
    return wrong


def open_versions(urls: list[str]) -> tuple[list[Version], list[Damage]]:
    """The versions of some manifests; and the manifests and tables beside them that cannot be read."""
    versions, damage = [], []
    for url in urls:
        try:
            version = manifests.open_version(url)
        except UserError as error:
            damage.append(Damage(f"{name_of(parent_of(url))}/{MANIFEST}", str(error)))
            continue
        wrong = []
        for path, table in ((SHARDS, "shards"), (INPUTS, "inputs")):
            try:
                getattr(version, table)
            except UserError as error:
                wrong.append(Damage(f"{version.name}/{path}", str(error)))
        damage += wrong
        if not wrong:
            versions.append(version)
    return versions, damage


def verify(versions: list[Version], *, executor: Executor, progress: Progress) -> list[Damage]:
    """Check every file of some versions of one corpus; returns the damaged ones, sorted.

    A shard of several versions is read once.
    """
    damage: list[Damage] = []
    shards: dict[str, _CheckShard] = {}
    for version in versions:
        manifest = version.manifest
        for entry in version.shards:
            task = _CheckShard(versions=version.versions_url, shard=entry, tokenizer=manifest.tokenizer)
            shards.setdefault(entry.path, task)
        path = f"{version.name}/{MANIFEST}"
        damage += [Damage(path, problem) for problem in check_manifest(version)]
        path = f"{version.name}/{manifest.tokenizer.file}"
        damage += [Damage(path, problem) for problem in _check_tokenizer(version)]
        for name, digest in manifest.files.items():
            if name == manifest.tokenizer.file:
                continue
            try:
                _read(version.file(name), digest)
            except _DamagedError as error:
                damage.append(Damage(f"{version.name}/{name}", str(error)))
    indexes = sorted({url for version in versions for url in version.indexes})
    found = executor.run_tasks(_check_index, indexes, Counter(progress, "verify indexes", 0, len(indexes)))
    damage += [Damage(path, problem) for wrong in found for path, problem in wrong]
    tasks = list(shards.values())
    results = executor.run_tasks(_check_shard, tasks, Counter(progress, "verify", 0, len(tasks)))
    damage += [Damage(path, problem) for result in results for path, problem in result["wrong"]]
    return sorted(damage)
