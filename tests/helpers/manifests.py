"""Manifests with the tables beside them as one JSON value, to compare, and to change as somebody might."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from base import files, seals
from base.layout import INPUTS, SHARDS
from base.manifest import Version, open_version

TABLES = {"shards": SHARDS, "inputs": INPUTS}


def content(version: Version | str | Path) -> dict[str, Any]:
    """The manifest of a version (or at a path), and its shards and inputs, as JSON values."""
    found = version if isinstance(version, Version) else open_version(str(version))
    return {
        **found.manifest.to_json(),
        "shards": [shard.to_json() for shard in found.shards],
        "inputs": [item.to_json() for item in found.inputs],
    }


def write(path: str | Path, value: dict[str, Any]) -> None:
    """Write a content as tables and a manifest at a path, all of them consistent and sealed."""
    value = dict(value)
    for name, file in TABLES.items():
        rows = value.pop(name)
        table = Path(path).with_name(file)
        schema = pq.read_schema(table) if table.exists() else None
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), table)
        digest = xxhash.xxh3_128_hexdigest(table.read_bytes())
        value["files"] = {**value["files"], file: digest}
        value[f"{name.removesuffix('s')}_count"] = len(rows)
    write_json(path, value)


def write_json(path: str | Path, value: dict[str, Any]) -> None:
    """Write the JSON of a manifest with its seal."""
    Path(path).write_bytes(files.json_bytes(seals.sealed(value, seals.name_of(str(path)))))


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON of a manifest without its seal."""
    value = json.loads(Path(path).read_text())
    found: dict[str, Any] = seals.unsealed(value, seals.name_of(str(path)), needed=True)
    return found
