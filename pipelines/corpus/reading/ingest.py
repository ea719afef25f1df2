"""Reading sources: files of any supported format as batches of documents and rejected records.

Every byte of a file is accounted for: documents, rejects and framing add up to its decompressed size.
"""

import re
from collections.abc import Iterator

import pyarrow as pa

from base.errors import UserError
from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.csvlines import read_csv
from pipelines.corpus.reading.jsonlines import count_line_ends, read_array, read_lines
from pipelines.corpus.reading.records import (
    BOM,
    DOCUMENTS,
    REJECTS,
    Batch,
    Reject,
    damaged,
    rejected,
    too_long,
)
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.reading.tables import (
    ARROW_FILE,
    ARROW_STREAM,
    count_arrow,
    count_parquet,
    read_arrow,
    read_parquet,
)
from pipelines.corpus.reading.webarchive import count_warc, read_warc

_FORMATS = {
    ".jsonl": "jsonl",
    ".json": "json",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".warc": "warc",
    ".wet": "warc",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".rst": "text",
}


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
    kind = file_format(url, source)
    if kind == "jsonl":
        return read_lines(url, source, config, start, stop, first_record)
    if kind == "json":
        return read_array(url, source, config)
    if kind == "parquet":
        return read_parquet(url, source, config, start, stop, first_record)
    if kind == "arrow":
        return read_arrow(url, source, config, start, stop, first_record)
    if kind == "csv":
        return read_csv(url, source, config)
    if kind == "warc":
        return read_warc(url, config, start, stop, first_record)
    return _read_text(url, config)


def count_records(url: str, source: SourceConfig, start: int, stop: int) -> int:
    """Records of a range of a file that can be split: line ends, rows, or records of a web archive."""
    kind = file_format(url, source)
    if kind == "warc":
        return count_warc(url, start, stop)
    if kind == "parquet":
        return count_parquet(url, start, stop)
    return count_arrow(url, source, start, stop) if kind == "arrow" else count_line_ends(url, start, stop)


def file_format(url: str, source: SourceConfig) -> str:
    """jsonl, json, parquet, arrow, csv, warc or text: as configured, else by extension, else by content.

    json is a file of arrays or of values over several lines; one of that extension that begins with neither
    holds lines.
    """
    if source.format != "auto":
        return source.format
    with decompress.open_file(url) as file:
        magic = file.read(6)
    if magic.startswith(b"PAR1"):
        return "parquet"
    if magic == ARROW_FILE:
        return "arrow"
    name = decompress.file_name(url).lower()
    for suffix in decompress.SUFFIXES:
        name = name.removesuffix(suffix)
    extension = "." + name.rsplit("/", 1)[-1].rpartition(".")[2]
    kind = _FORMATS.get(extension)
    if kind is not None and kind != "json":
        return kind
    if magic.startswith(ARROW_STREAM):
        return "arrow"
    try:
        start = next(decompress.pieces(url), b"")
    except decompress.DamagedFile:
        start = b""
    if start.startswith(b"WARC/"):
        return "warc"
    start = start.removeprefix(BOM).lstrip()
    if re.match(rb"\[|\{[ \t\r]*\n", start):
        return "json"
    if start.startswith(b"{") or kind == "json":
        return "jsonl"
    raise UserError(
        f"the format of input file {url} cannot be told from its name or content; "
        f"set format of source {source.name} to jsonl, json, parquet, arrow, csv, warc or text"
    )


def _read_text(url: str, config: IngestConfig) -> Iterator[Batch]:
    limit = config.max_document_bytes
    held: list[bytes] = []
    size = 0
    try:
        for piece in decompress.pieces(url):
            size += len(piece)
            # Of a document that is too long only the start is kept, for the sample.
            if size <= limit or len(held) == 0:
                held.append(piece)
            else:
                del held[1:]
    except decompress.DamagedFile as damage:
        yield damaged(url, 0, damage, b"".join(held), size, config)
        return
    if size == 0:
        return
    content = b"".join(held)
    framing = len(BOM) if content.startswith(BOM) else 0
    content = content[framing:]
    size -= framing
    if size > limit:
        yield rejected([too_long(0, size, content, config)], framing)
        return
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if config.invalid_utf8 == "reject":
            detail = f"Byte 0x{content[error.start]:02x} at position {framing + error.start} is not UTF-8."
            yield rejected([Reject(0, "invalid_utf8", detail, size, content)], framing)
            return
        text = content.decode("sloppy-windows-1252")
    row = {"record": 0, "text": text, "raw_bytes": size, "name": None}
    yield Batch(pa.Table.from_pylist([row], schema=DOCUMENTS), REJECTS.empty_table(), framing)
