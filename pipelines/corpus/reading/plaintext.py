"""Plain text: one document a file."""

from collections.abc import Iterator

import pyarrow as pa

from pipelines.corpus.reading import decompress
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


def read(url: str, source: SourceConfig, config: IngestConfig) -> Iterator[Batch]:
    """Read a file as one document; an empty file holds none."""
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
