"""Reading sources: files of any supported format as batches of documents and rejected records.

Every byte of a file is accounted for: documents, rejects and framing add up to its decompressed size.
"""

from collections.abc import Iterator

from base import files
from base.errors import UserError
from base.layout import name_of
from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.formats import FORMATS, Format, named, names
from pipelines.corpus.reading.records import SAMPLE_BYTES, Batch, damaged
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig


def read(
    url: str,
    source: SourceConfig,
    config: IngestConfig,
    start: int = 0,
    stop: int | None = None,
    first_record: int = 0,
) -> Iterator[Batch]:
    """Read a file, or the records of a range of its bytes, `config.batch_bytes` of text at a time.

    `start` and `stop` are those of an Input, and first_record the sum of count_records over the ranges
    before; the ranges of a file together give the records of the whole. Memory is bounded by about four
    times the larger of batch_bytes and max_document_bytes. A file of a kind that is not read or of no known
    format is one reject. Raises UserError if the file is gone or may not be read, if a table lacks the text
    column, and for a damaged file where config.on_damaged_file is "stop".
    """
    try:
        if damage := decompress.unread(url):
            raise damage
        format = file_format(url, source)
    except UnknownFormat as error:
        damage = decompress.DamagedFile("unknown_format", str(error))
    except decompress.DamagedFile as error:
        damage = error
    if damage:
        return iter([damaged(url, first_record, damage, *_beginning(url), config)])
    if format.ranges:
        return format.as_range_reader().read(url, source, config, start, stop, first_record)
    return format.as_reader().read(url, source, config)


def _beginning(url: str) -> tuple[bytes, int]:
    """The first bytes of a file as it is stored, and its size."""
    with decompress.open_file(url) as file:
        return file.read(SAMPLE_BYTES), files.size(url)


def count_records(url: str, source: SourceConfig, start: int, stop: int) -> int:
    """Records of a range of a file that can be split: line ends, rows, or records of a web archive."""
    return file_format(url, source).as_range_reader().count(url, source, start, stop)


class UnknownFormat(UserError):
    """Neither the name nor the content of a file tells its format."""


def possible_formats(url: str) -> list[Format]:
    """The formats that the extension of a file allows."""
    name = decompress.file_name(url).lower()
    for suffix in decompress.SUFFIXES:
        name = name.removesuffix(suffix)
    extension = "." + name_of(name).rpartition(".")[2]
    return [format for format in FORMATS if extension in format.suffixes]


def file_format(url: str, source: SourceConfig) -> Format:
    """The format of a file: as configured, else by magic bytes, else by extension, else by content.

    Raises UnknownFormat, and DamagedFile where what is not read has no extension that tells.
    """
    if source.format != "auto":
        return named(source.format)
    with decompress.open_file(url) as file:
        stored = file.read(max(len(format.magic or b"") for format in FORMATS))
    for format in FORMATS:
        if format.magic and stored.startswith(format.magic):
            return format
    possible = possible_formats(url)
    if len(possible) == 1:
        return possible[0]
    try:
        content = next(decompress.pieces(url), b"")
    except decompress.DamagedFile as damage:
        if not possible and damage.reason in decompress.UNREAD_REASONS:
            raise
        content = b""
    for format in FORMATS:
        if format.begins and format.begins.match(content if format.compressed else stored):
            return format
    if possible:
        return possible[0]
    raise UnknownFormat(
        f"the format of input file {url} cannot be told from its name or content; "
        f"set format of source {source.name} to {names()}"
    )
