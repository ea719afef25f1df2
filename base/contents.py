"""What a corpus version holds: its shards, and the inputs that it was made of.

They are tables beside the manifest, which has their digests: a manifest is small whatever the corpus, and the
tables are read when they are wanted.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import Field

from base import files, layout
from base.damage import sound
from base.layout import INPUTS, SHARDS
from base.records import Record

Entry = TypeVar("Entry", bound=Record)


class WrittenShard(Record):
    """A shard that is written, before a version names it: its path is below the version's folder."""

    has_place: ClassVar[bool] = True
    needs_seal: ClassVar[bool] = True
    path: str
    source: str
    split: str
    """train or heldout."""
    documents: int = Field(ge=0, le=2**40)
    tokens: int = Field(ge=0, le=2**48)
    text_bytes: int = Field(ge=0, le=2**50)
    """Bytes of the documents' texts."""
    bytes: int = Field(ge=0, le=2**50)
    """Of the file."""
    digest: str
    """xxh3-128 of the file, hex."""
    origins_digest: str | None = None
    """xxh3-128 of the table of origins, hex."""

    def entry(self, version: str) -> "ShardEntry":
        """The shard as the manifest of a version has it."""
        return ShardEntry(**{**self.to_json(), "path": f"{version}/{self.path}"}, version=version)


class ShardEntry(WrittenShard):
    """One shard of a version: its path is below the folder of all versions."""

    version: str
    """The version that added the shard."""

    @property
    def origins(self) -> str:
        """Path of the table of origins, below the folder of all versions."""
        return layout.origins_path(self.path)


class InputEntry(Record):
    """A source file, or a range of a large one, that a version was made of."""

    source: str
    file: str
    """URL without credentials."""
    start: int = Field(ge=0)
    """First byte of the range."""
    bytes: int = Field(ge=0)
    """Bytes of the range."""
    digest: str
    """Of the content of the whole file."""
    part: str
    """Names the outputs."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a version holds."""

    shards: list[ShardEntry]
    """Those of its parent first."""
    inputs: list[InputEntry]
    """Those that it and the versions before it were made of, by source, file and digest."""

    def tables(self) -> dict[str, bytes]:
        """The Parquet files, by path below the version's folder."""
        return {SHARDS: _parquet(self.shards, ShardEntry), INPUTS: _parquet(self.inputs, InputEntry)}


def read_shards(folder: str, digests: dict[str, str]) -> list[ShardEntry]:
    """The shards of the version in a folder, whose manifest names the digests of its files.

    Raises UserError that names the table if it is missing or damaged, or a path in it leads elsewhere.
    """
    found = _entries(folder, SHARDS, digests, ShardEntry)
    check_shards(folder, found)
    return found


def check_shards(folder: str, shards: list[ShardEntry]) -> None:
    """Raise UserError if a name or path is not below what it belongs to; `folder` is the version's."""
    versions = layout.parent_of(folder)
    for shard in shards:
        files.below(versions, shard.path)
        for name in (shard.source, shard.split, shard.version):
            files.name_below(versions, name)


def read_inputs(folder: str, digests: dict[str, str]) -> list[InputEntry]:
    """The inputs of a version, as `read_shards` reads its shards."""
    found = _entries(folder, INPUTS, digests, InputEntry)
    check_inputs(folder, found)
    return found


def check_inputs(folder: str, inputs: list[InputEntry]) -> None:
    """Raise UserError if the name of a part is none; `folder` is the version's."""
    corpus = layout.parent_of(folder, 2)
    for item in inputs:
        files.name_below(corpus, item.part)


def _schema(kind: type[Record]) -> pa.Schema:
    """The columns of a table of records, whose fields are integers and texts."""
    return pa.schema(
        [
            (name, pa.int64() if field.annotation is int else pa.string())
            for name, field in kind.model_fields.items()
        ]
    )


def _parquet(entries: Sequence[Record], kind: type[Record]) -> bytes:
    rows = [entry.model_dump() for entry in entries]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema(kind)), buffer, compression="zstd")
    return buffer.getvalue()


def _entries(folder: str, path: str, digests: dict[str, str], kind: type[Entry]) -> list[Entry]:
    url = files.join(folder, path)
    content = files.read_bytes(url)
    with sound(url):
        found = xxhash.xxh3_128_hexdigest(content)
        if found != digests.get(path):
            raise ValueError(f"its digest is {found}, the manifest says {digests.get(path)}")
        table = pq.read_table(pa.BufferReader(content))
        if table.schema != _schema(kind):
            raise ValueError(f"its columns are not those of {path}")
        return [kind.from_json(row, url) for row in table.to_pylist()]
