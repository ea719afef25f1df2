"""Settings of sources and of reading them."""

import re
from typing import Literal

import xxhash
from pydantic import Field, field_validator

from base.errors import UserError
from base.settings import Section
from pipelines.corpus.reading import formats

Kind = Literal["prose", "code", "mathematics", "dialogue", "law"]


def slug(name: str) -> str:
    """The source name of a record as ids and paths have it: lower case, a hyphen for spaces and separators.

    A name that would lose other characters ends in a hash of it, so that C, C++ and C# are three sources.
    """
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.").lower() or "unnamed"
    if re.fullmatch(r"[A-Za-z0-9_.\-\s/\\:,;|()\[\]{}]*", name):
        return plain
    return f"{plain}-{xxhash.xxh3_64_hexdigest(name.encode())[:8]}"


class SourceConfig(Section):
    """One source of documents."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the source; part of document ids and shard paths."""
    urls: list[str] = Field(min_length=1)
    """Files, folders or glob patterns (any fsspec URL); their order does not matter."""
    format: str = "auto"
    """auto decides by extension and content. Else jsonl, json (arrays or values over several lines), parquet,
    arrow (an IPC file or stream), csv, warc (WET too), text (one document a file), or the import path
    `package.module:NAME` of a Format of one's own."""
    text_field: str = Field("text", min_length=1)
    """Field or column that holds the text; dots reach into nested objects where no field has the whole as
    its name. Not used by warc and text."""
    name_field: str | None = None
    """Field that names the source of each record (The Pile: meta.pile_set_name), by text or a whole number;
    records without it belong to `name`. Wikipedia (en) becomes wikipedia-en; names that lose more than that
    get a hash."""
    csv_quotes: bool = True
    """Whether a field of csv that begins with a quote reaches to the closing one. Tools that write .tsv often
    take a quote for a character: false then."""
    kind: Kind = "prose"
    """What the text is; decides which quality rules apply by default."""
    kinds: dict[str, Kind] = {}
    """Kind by the source name of the records, where name_field gives several; upper case, spaces and
    separators do not matter."""
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    """Of duplicates in several sources, the one with the highest priority stays."""
    max_loss: float = Field(0.9, gt=0, le=1)
    """The build stops when one stage drops more than this share of the source's documents."""

    @field_validator("format")
    @classmethod
    def _known(cls, format: str) -> str:
        """A format that is there."""
        try:
            if format != "auto":
                formats.named(format)
        except UserError as error:
            raise ValueError(str(error)) from None
        return format

    @field_validator("urls")
    @classmethod
    def _in_order(cls, urls: list[str]) -> list[str]:
        """The same configuration, and hash of it, however the URLs are listed."""
        return sorted(set(urls))

    @field_validator("kinds")
    @classmethod
    def _by_slug(cls, kinds: dict[str, Kind]) -> dict[str, Kind]:
        """Kinds by the names that documents have."""
        found: dict[str, Kind] = {}
        for name, kind in kinds.items():
            if found.setdefault(slug(name), kind) != kind:
                raise ValueError(f"{name} is there twice, as {found[slug(name)]} and as {kind}")
        return found

    def kind_of(self, name: str) -> Kind:
        """The kind of the documents with this source name."""
        return self.kinds.get(slug(name), self.kind)


class IngestConfig(Section):
    """Reading sources."""

    batch_bytes: int = Field(16 * 2**20, ge=2**16)
    """Decompressed bytes that are parsed and processed at a time."""
    max_document_bytes: int = Field(64 * 2**20, ge=1024)
    """Longer records are rejected."""
    split_bytes: int = Field(256 * 2**20, ge=2**10)
    """Larger files are read in ranges of about so many bytes (as stored), by several workers, where their
    format allows: JSON lines (not compressed, or in several zstd frames), parquet, Arrow, WARC (not
    compressed, or with a gzip member for each record, as Common Crawl has them)."""
    invalid_utf8: Literal["reject", "cp1252"] = "reject"
    """What happens to a record that is not UTF-8: rejected, or read as Windows-1252."""
    on_damaged_file: Literal["reject", "stop"] = "reject"
    """A truncated or corrupt file: keep what can be read and reject the rest, or stop."""
