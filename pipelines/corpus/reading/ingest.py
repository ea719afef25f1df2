"""Reading sources: files of any supported format as batches of documents and rejected records.

Every byte of a file is accounted for: documents, rejects and framing add up to its decompressed size.
"""

from collections.abc import Iterator

from base.errors import UserError
from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.formats import FORMATS, Format, named, names
from pipelines.corpus.reading.records import Batch
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
    times the larger of batch_bytes and max_document_bytes. Raises UserError if the file is gone or may not
    be read, if its format cannot be told, if a table lacks the text column, and for a damaged file where
    config.on_damaged_file is "stop".
    """
    format = file_format(url, source)
    if format.ranges:
        return format.as_range_reader().read(url, source, config, start, stop, first_record)
    return format.as_reader().read(url, source, config)


def count_records(url: str, source: SourceConfig, start: int, stop: int) -> int:
    """Records of a range of a file that can be split: line ends, rows, or records of a web archive."""
    return file_format(url, source).as_range_reader().count(url, source, start, stop)


def file_format(url: str, source: SourceConfig) -> Format:
    """The format of a file: as configured, else by magic bytes, else by extension, else by content."""
    if source.format != "auto":
        return named(source.format)
    with decompress.open_file(url) as file:
        stored = file.read(max(len(format.magic or b"") for format in FORMATS))
    for format in FORMATS:
        if format.magic and stored.startswith(format.magic):
            return format
    name = decompress.file_name(url).lower()
    for suffix in decompress.SUFFIXES:
        name = name.removesuffix(suffix)
    extension = "." + name.rsplit("/", 1)[-1].rpartition(".")[2]
    possible = [format for format in FORMATS if extension in format.suffixes]
    if len(possible) == 1:
        return possible[0]
    try:
        content = next(decompress.pieces(url), b"")
    except decompress.DamagedFile:
        content = b""
    for format in FORMATS:
        if format.begins and format.begins.match(content if format.compressed else stored):
            return format
    if possible:
        return possible[0]
    raise UserError(
        f"the format of input file {url} cannot be told from its name or content; "
        f"set format of source {source.name} to {names()}"
    )
