"""The table of input formats: a new one is a module that reads it and an entry here.

Light, so that a configuration is checked against it at once: the modules are imported when a file is read.
"""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from base import imports
from base.errors import UserError

if TYPE_CHECKING:
    from pipelines.corpus.reading.records import Batch
    from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1"
"""The first bytes of an Arrow IPC file."""
ARROW_STREAM_MAGIC = b"\xff\xff\xff\xff"
"""The first bytes of an Arrow IPC stream: the mark before the length of a message."""
WARC_MAGIC = b"WARC/"


class Reader(Protocol):
    """A module that reads files of a format as a whole."""

    def read(self, url: str, source: "SourceConfig", config: "IngestConfig", /) -> "Iterator[Batch]":
        """The documents and rejects of a file, about `config.batch_bytes` of text at a time.

        Records are numbered from 0. Bytes of documents, rejects and framing add up to those of the file as
        decompressed (`records.Batch`). What is wrong with a record is a reject; UserError is raised for what
        the person has to mend.
        """


class RangeReader(Protocol):
    """A module that reads files of a format as a whole or in ranges, by several workers."""

    def read(
        self,
        url: str,
        source: "SourceConfig",
        config: "IngestConfig",
        start: int,
        stop: int | None,
        first_record: int,
        /,
    ) -> "Iterator[Batch]":
        """As `Reader.read`, of the records that belong to a range of the file's bytes as stored.

        Every record belongs to exactly one of neighbouring ranges. `first_record` records lie before it.
        """

    def count(self, url: str, source: "SourceConfig", start: int, stop: int, /) -> int:
        """The number of records of a range."""

    def cuts(self, url: str, size: int, wanted: list[int], /) -> list[int]:
        """Where the ranges of a file of `size` bytes begin, ascending from 0, about at the `wanted` places.

        [0] if this file can only be read as a whole.
        """


@dataclass(frozen=True, kw_only=True)
class Format:
    """An input format: how its files are told from others, and which module reads them."""

    name: str
    """What `format` of a source calls it."""
    documents: str
    """What its documents are, for the documentation."""
    reader: str
    """The module that reads it: a RangeReader if `ranges` says where files can be cut, else a Reader."""
    suffixes: tuple[str, ...] = ()
    """Extensions, those of compression apart. Where formats share one, the content decides; where that tells
    nothing, it is the first of them in the table."""
    magic: bytes | None = None
    """The first bytes of its files, which decide whatever the extension is."""
    begins: re.Pattern[bytes] | None = None
    """What the content of its files begins with, which decides where the extension does not."""
    compressed: bool = True
    """Whether files may be compressed as a whole."""
    ranges: str = ""
    """Which large files are read in ranges, for the documentation; empty: none are."""

    def as_reader(self) -> Reader:
        """The module, to read a file as a whole."""
        return cast(Reader, importlib.import_module(self.reader))

    def as_range_reader(self) -> RangeReader:
        """The module of a format with `ranges`."""
        return cast(RangeReader, importlib.import_module(self.reader))


_MARK_AND_SPACE = rb"(?:\xef\xbb\xbf)?\s*"
_OBJECT_OVER_LINES = rb"\{[ \t\r]*\n"
FORMATS = (
    Format(
        name="jsonl",
        documents="one a line; `text_field` may be dotted",
        reader="pipelines.corpus.reading.jsonlines",
        suffixes=(".jsonl", ".ndjson", ".json"),
        begins=re.compile(_MARK_AND_SPACE + rb"(?!" + _OBJECT_OVER_LINES + rb")\{"),
        ranges="files that are not compressed, or in several zstd frames",
    ),
    Format(
        name="json",
        documents="one an element of an array or a value outside of one, over any lines; values are kept "
        "apart by white space; the file begins with `[`, or `{` and a line end",
        reader="pipelines.corpus.reading.jsonarray",
        suffixes=(".json",),
        begins=re.compile(_MARK_AND_SPACE + rb"(?:\[|" + _OBJECT_OVER_LINES + rb")"),
    ),
    Format(
        name="parquet",
        documents="one a row",
        reader="pipelines.corpus.reading.parquet",
        suffixes=(".parquet", ".pq"),
        magic=PARQUET_MAGIC,
        compressed=False,
        ranges="all files, between row groups",
    ),
    Format(
        name="arrow",
        documents="one a row of an IPC file or stream; also folders of `Dataset.save_to_disk`",
        reader="pipelines.corpus.reading.arrow",
        suffixes=(".arrow", ".feather", ".ipc"),
        magic=ARROW_MAGIC,
        begins=re.compile(re.escape(ARROW_STREAM_MAGIC)),
        compressed=False,
        ranges="files, and streams that are local, between record batches",
    ),
    Format(
        name="csv",
        documents="one a record, multi-line fields too; the header must name `text_field`; `,` tab `;` "
        "or `|`",
        reader="pipelines.corpus.reading.csvlines",
        suffixes=(".csv", ".tsv", ".tab"),
    ),
    Format(
        name="warc",
        documents="main content of successful HTML responses (resiliparse), plain-text conversions of WET",
        reader="pipelines.corpus.reading.webarchive",
        suffixes=(".warc", ".wet"),
        begins=re.compile(re.escape(WARC_MAGIC)),
        ranges="local files that are not compressed, and those with a gzip member for each record",
    ),
    Format(
        name="text",
        documents="one a file",
        reader="pipelines.corpus.reading.plaintext",
        suffixes=(".txt", ".text", ".md", ".rst"),
    ),
)
"""Every format that a source can have without naming a Format of one's own."""


def names() -> str:
    """The names of the formats in the table, as a sentence has them."""
    *others, last = (format.name for format in FORMATS)
    return f"{', '.join(others)} or {last}"


def named(name: str) -> Format:
    """A format by its name in the table, or by the import path of a Format. Raises UserError."""
    for format in FORMATS:
        if format.name == name:
            return format
    if ":" not in name:
        raise UserError(f"it is auto, {names()}, or the import path package.module:NAME of a Format")
    found = imports.named(name)
    if not isinstance(found, Format):
        raise UserError(f"{name} is no Format of {__name__}")
    return found


def markdown() -> str:
    """The table as the documentation has it."""
    rows = ["| format | extensions | documents | compressed | read in ranges |", "|---|---|---|---|---|"]
    for format in FORMATS:
        documents = format.documents.replace("|", "\\|")
        compressed = "may be" if format.compressed else "inside only"
        suffixes = " ".join(format.suffixes)
        cells = [format.name, suffixes, documents, compressed, format.ranges or "none"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
