"""What a new corpus version is committed with besides its shards: joined tables and the manifest."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from base import files
from base import manifest as manifests
from base.claims import Claim
from base.contents import Contents, InputEntry, ShardEntry, WrittenShard
from base.damage import damaged
from base.errors import UserError
from base.manifest import Manifest, SourceTotals, TokenizerFacts, Version
from pipelines.config import Config, build_configuration
from pipelines.corpus.ledger import Ledger

TABLES_AT_ONCE = 16
"""Tables of parts that are read, at once, before they are written as one row group."""


@dataclass(frozen=True)
class Join:
    """A table of a version, to be made of the tables of its parts."""

    url: str
    parts: list[str]
    claim: Claim
    """Who may write it."""


def join_tables(task: Join) -> str:
    """Write one table of a version, without dictionaries; returns its URL.

    Some tables are in memory at a time; a file without columns is written of none.
    """
    with task.claim.writer(task.url) as file, ThreadPoolExecutor(TABLES_AT_ONCE) as readers:
        writer, schema = None, None
        for first in range(0, len(task.parts), TABLES_AT_ONCE):
            batch = task.parts[first : first + TABLES_AT_ONCE]
            tables = list(readers.map(_read_plain, batch))
            schema = schema or tables[0].schema
            for url, table in zip(batch, tables, strict=True):
                if table.schema != schema:
                    raise damaged(url, f"its columns are not those of {task.parts[0]}")
            table = pa.concat_tables(tables)
            writer = writer or pq.ParquetWriter(file, schema, compression="zstd")
            writer.write_table(table)
        if writer is None:
            writer = pq.ParquetWriter(file, pa.schema([]))
        writer.close()
    return task.url


def _read_plain(url: str) -> pa.Table:
    """A table with the values of its dictionaries in their place."""
    table = files.read_parquet(url)
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def digests(folder: str, paths: list[str]) -> dict[str, str]:
    """The digest of files by their paths below the folder of a version."""
    return {path: files.digest(files.join(folder, path)) for path in paths}


def check_shards(folder: str, shards: list[WrittenShard]) -> None:
    """Raise UserError if shards of a version do not have the size that they were written with.

    Somebody else has written there, whom no claim has kept away.
    """
    filesystem, path = files.split(folder)
    sizes = filesystem.find(path, detail=True) if shards else {}
    root = filesystem._strip_protocol(path)
    for shard in shards:
        if sizes.get(files.join(root, shard.path), {}).get("size") != shard.bytes:
            raise UserError(
                f"{files.join(folder, shard.path)} is not what this command has written: another one writes "
                "there; run the same command again when that one is done"
            )


def all_contents(
    parent: Version | None, name: str, shards: list[WrittenShard], inputs: list[InputEntry]
) -> Contents:
    """What a version holds that adds shards, made of inputs, to those of its parent."""
    before = parent.contents if parent else Contents(shards=[], inputs=[])
    return Contents(
        shards=[*before.shards, *(shard.entry(name) for shard in shards)],
        inputs=sorted(
            [*before.inputs, *inputs],
            key=lambda item: (item.source, item.file, item.digest),
        ),
    )


def write_contents(folder: str, contents: Contents, claim: Claim) -> dict[str, str]:
    """Write the tables of what a version holds below its folder; their digests by path."""
    tables = contents.tables()
    with files.together():
        for path, content in tables.items():
            claim.write(files.join(folder, path), content)
    return {path: xxhash.xxh3_128_hexdigest(content) for path, content in tables.items()}


def common_manifest(
    config: Config,
    *,
    name: str,
    parent: Version | None,
    tokenizer: TokenizerFacts,
    contents: Contents,
    indexes: list[str],
    ledger: Ledger,
) -> Manifest:
    """The manifest of a version, so far as every version has it (docs/reference/formats.md)."""
    configuration = build_configuration(config)
    return Manifest(
        schema_number=manifests.SCHEMA,
        name=config.name,
        version=name,
        parent=parent.name if parent else None,
        parent_manifest_hash=parent.hash if parent else None,
        config_hash=files.key_of(configuration),
        config=configuration,
        packages=manifests.package_versions(),
        tokenizer=tokenizer,
        sources=_source_totals(config, contents.shards),
        shard_count=len(contents.shards),
        indexes=indexes,
        input_count=len(contents.inputs),
        ledger=ledger.to_json(),
    )


def _source_totals(config: Config, shards: list[ShardEntry]) -> dict[str, SourceTotals]:
    """Totals of every source over all its shards, with its mixture weight."""
    totals: dict[str, dict[str, int]] = {}
    for shard in shards:
        mine = totals.setdefault(shard.source, {})
        prefix = "heldout_" if shard.split == "heldout" else ""
        for unit in ("documents", "tokens", "text_bytes"):
            mine[prefix + unit] = mine.get(prefix + unit, 0) + getattr(shard, unit)
    found = {}
    for name, counts in sorted(totals.items()):
        weight = config.mixture.get(name)
        if config.mixture_epochs:
            weight = config.mixture_epochs.get(name, 0.0) * counts.get("tokens", 0)
        found[name] = SourceTotals(weight=weight, **{"documents": 0, "tokens": 0, "text_bytes": 0, **counts})
    return found
