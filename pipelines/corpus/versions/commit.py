"""What a new corpus version is committed with besides its shards: dedup index, joined tables, manifest."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from base import files
from base import manifest as manifests
from base.errors import UserError
from base.manifest import Version
from pipelines.config import Config, build_configuration
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.stages.deduplicate import compact_indexes, write_index
from pipelines.runtime.cluster import Progress

MAX_INDEXES = 8
"""Dedup indexes of a version; one more, and they become one: a refresh opens every file of each."""


TABLES_AT_ONCE = 16
"""Tables of parts that are read, at once, before they are written as one row group."""


def check_mixture(config: Config, known: set[str]) -> None:
    """Raise UserError if the mixture names a source that is not among the `known`."""
    unknown = sorted({*config.mixture, *config.mixture_epochs} - known)
    if unknown:
        raise UserError(f"mixture names {', '.join(unknown)}, but the sources are {', '.join(sorted(known))}")


def add_index(
    config: Config,
    parent: Version | None,
    version: str,
    key: str,
    entries: list[str],
    documents: dict[str, str],
    dropped: list[str],
    progress: Progress,
) -> list[str]:
    """Write the dedup index of the documents that `version` adds to `parent`; many indexes become one.

    entries, documents, dropped: as `write_index` takes them. key: what they depend on. Returns the indexes of
    the version, oldest first, as paths below <storage>/corpus.
    """

    def shown(stage: str, *counts: int) -> None:
        progress(stage.replace("dedup", "index"), *counts)

    corpus = manifests.corpus_url(config.storage)
    own = f"index/{version}-{key[:8]}"
    workers = config.ray.workers
    url = files.join(corpus, own)
    write_index(entries, documents, dropped, version, url, config.dedup, workers, shown)
    paths = [*(parent.raw["indexes"] if parent else []), own]
    if len(paths) > MAX_INDEXES:
        urls = [*(manifests.indexes(parent) if parent else []), url]
        compact_indexes(urls, f"{url}-all", workers, shown)
        paths = [f"{own}-all"]
    return paths


@dataclass(frozen=True)
class Join:
    """A table of a version, to be made of the tables of its parts."""

    url: str
    parts: list[str]


def join_tables(task: Join) -> str:
    """Write one table of a version, without dictionaries; returns its URL.

    Some tables are in memory at a time; a file without columns is written of none.
    """
    with files.atomic_writer(task.url) as file, ThreadPoolExecutor(TABLES_AT_ONCE) as readers:
        writer = None
        for first in range(0, len(task.parts), TABLES_AT_ONCE):
            batch = task.parts[first : first + TABLES_AT_ONCE]
            table = pa.concat_tables(list(readers.map(_read_plain, batch)))
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
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


def manifest(
    config: Config,
    version: str,
    parent: Version | None,
    tokenizer: dict[str, Any],
    shards: list[dict[str, Any]],
    indexes: list[str],
    inputs: list[dict[str, Any]],
    ledger: Ledger,
) -> dict[str, Any]:
    """The part of a manifest that every version has (docs/reference/formats.md), without `lines` and `files`.

    shards: those that the version adds. inputs: those that it read.
    """
    every = [*(parent.raw["shards"] if parent else []), *shards]
    configuration = build_configuration(config)
    return {
        "schema": manifests.SCHEMA,
        "name": config.name,
        "version": version,
        "parent": parent.name if parent else None,
        "parent_manifest_hash": parent.hash if parent else None,
        "config_hash": files.key_of(configuration),
        "config": configuration,
        "packages": manifests.package_versions(),
        "tokenizer": tokenizer,
        "sources": _source_totals(config, every),
        "shards": every,
        "indexes": indexes,
        "inputs": sorted(
            [*(parent.raw["inputs"] if parent else []), *inputs],
            key=lambda item: (item["source"], item["file"], item["digest"]),
        ),
        "ledger": ledger.to_json(),
    }


def _source_totals(config: Config, lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Totals of every source over all its shards, with its mixture weight."""
    totals: dict[str, dict[str, Any]] = {}
    for line in lines:
        name = line["source"]
        fields = totals.setdefault(
            name,
            {
                "weight": config.mixture.get(name),
                "documents": 0,
                "tokens": 0,
                "text_bytes": 0,
                "heldout_documents": 0,
                "heldout_tokens": 0,
                "heldout_text_bytes": 0,
            },
        )
        prefix = "heldout_" if line["split"] == "heldout" else ""
        for field in ("documents", "tokens", "text_bytes"):
            fields[prefix + field] += line[field]
    for name, fields in totals.items():
        if config.mixture_epochs:
            fields["weight"] = config.mixture_epochs.get(name, 0.0) * fields["tokens"]
    return dict(sorted(totals.items()))
