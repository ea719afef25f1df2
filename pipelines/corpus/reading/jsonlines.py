"""JSON lines: the documents of a file, or of a range of its bytes, a block of lines at a time.

A JSON array is read as lines too (pipelines/corpus/reading/jsonarray.py).
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.reading import decompress, jsonscan
from pipelines.corpus.reading.records import (
    BOM,
    DOCUMENTS,
    SAMPLE_BYTES,
    Batch,
    Reject,
    damaged,
    reject_table,
    rejected,
    string_array,
    too_long,
)
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.reading.splitting import nearest
from pipelines.corpus.reading.zstdframes import frames


def whole_lines(url: str, start: int, stop: int | None) -> Iterator[bytes]:
    """The lines of a range of a file, decompressed, in pieces.

    A line belongs to the range in which the line end before it lies, so that neighbouring ranges share
    no line and lose none, wherever they were cut; the first line belongs to the range from 0.
    """
    pieces = decompress.pieces(url, start, stop)
    if start:
        for piece in pieces:
            cut = piece.find(b"\n")
            if cut >= 0:
                if cut + 1 < len(piece):
                    yield piece[cut + 1 :]
                break
        else:
            return
    yield from pieces
    if stop is None:
        return
    for piece in decompress.pieces(url, stop):
        cut = piece.find(b"\n")
        yield piece if cut < 0 else piece[: cut + 1]
        if cut >= 0:
            return


def count(url: str, source: SourceConfig, start: int, stop: int) -> int:
    """Records, which are line ends, in a range of a file, decompressed, down to any damage."""
    line_ends = 0
    try:
        for piece in decompress.pieces(url, start, stop):
            line_ends += int(np.count_nonzero(np.frombuffer(piece, np.uint8) == 10))
    except decompress.DamagedFile:
        pass
    return line_ends


def cuts(url: str, size: int, wanted: list[int]) -> list[int]:
    """Anywhere in a file that is not compressed, and between frames of one that is compressed by zstd."""
    codec = decompress.compression(url)
    if codec is None:
        return [0, *wanted]
    return nearest(frames(url, size), wanted) if codec == "zstd" else [0]


def read(
    url: str, source: SourceConfig, config: IngestConfig, start: int, stop: int | None, first_record: int
) -> Iterator[Batch]:
    """Read the lines of a range (see whole_lines); `first_record` line ends lie before `start`."""
    return read_pieces(url, whole_lines(url, start, stop), source, config, first_record + 1 if start else 0)


def read_pieces(
    url: str, pieces: Iterator[bytes], source: SourceConfig, config: IngestConfig, record: int
) -> Iterator[Batch]:
    """Read lines in pieces of any size, the decompressed content of a file; `record`: number of the first."""
    parser = _LineParser(source, config, record)
    held: list[bytes] = []
    size = open_line = 0  # bytes held, and those of them after the last line end
    skipped = 0  # bytes passed of a line that is too long to hold, of which only `sample` is kept
    sample = b""
    first = record == 0
    damage: decompress.DamagedFile | None = None
    while True:
        try:
            piece = next(pieces, b"")
        except decompress.DamagedFile as error:
            damage = error
            break
        if not piece:
            break
        if first and piece.startswith(BOM):
            yield rejected([], len(BOM))
            piece = piece[len(BOM) :]
        first = False
        if skipped:
            cut = piece.find(b"\n")
            if cut < 0:
                skipped += len(piece)
                continue
            yield parser.too_long(skipped + cut, sample, framing=1)
            skipped, piece = 0, piece[cut + 1 :]
        held.append(piece)
        size += len(piece)
        cut = piece.rfind(b"\n")
        open_line = open_line + len(piece) if cut < 0 else len(piece) - cut - 1
        if open_line > config.max_document_bytes or (size >= config.batch_bytes and open_line < size):
            block = b"".join(held)
            whole = size - open_line
            if whole:
                yield parser.parse(block, whole)
            held, size = [block[whole:]], open_line
        if open_line > config.max_document_bytes:
            skipped, sample = open_line, held[0][:SAMPLE_BYTES]
            held, size, open_line = [], 0, 0
    block = b"".join(held)
    if damage is not None:
        whole = size - open_line
        if whole:
            yield parser.parse(block, whole)
        left = sample if skipped else block[whole:]
        yield damaged(url, parser.record, damage, left, skipped or open_line, config)
    elif skipped:
        yield parser.too_long(skipped, sample, framing=0)
    elif block:
        yield parser.parse(block, size)


def _path(field: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A dotted path as UTF-8 bytes and where each of its keys ends."""
    keys = [key.encode() for key in field.split(".")] if field else []
    ends = np.cumsum([len(key) + 1 for key in keys], dtype=np.int64) - 1
    return np.frombuffer(b".".join(keys) + b"\0", np.uint8), ends


class _LineParser:
    """Parses blocks of whole lines; counts the lines of the file."""

    def __init__(self, source: SourceConfig, config: IngestConfig, record: int) -> None:
        self.source = source
        self.config = config
        self.record = record
        self.text_path = _path(source.text_field)
        self.name_path = _path(source.name_field)

    def too_long(self, size: int, sample: bytes, framing: int) -> Batch:
        """The reject for a line that was never held whole."""
        reject = too_long(self.record, size, sample, self.config)
        self.record += 1
        return rejected([reject], framing)

    def parse(self, block: bytes, size: int) -> Batch:
        """Documents and rejects of the whole lines in the first `size` bytes of `block`."""
        data = np.frombuffer(block, np.uint8, size)
        lines = int(np.count_nonzero(data == 10)) + 1
        text, names = np.empty(size + 16, np.uint8), np.empty(size + 16, np.uint8)
        starts, ends = np.empty(lines, np.int64), np.empty(lines, np.int64)
        status, named = np.empty(lines, np.uint8), np.empty(lines, np.bool_)
        text_offsets, name_offsets = np.zeros(lines + 1, np.int64), np.zeros(lines + 1, np.int64)
        lines = jsonscan.scan(
            data, *self.text_path, *self.name_path,
            text, names, starts, ends, status, text_offsets, name_offsets, named,
        )  # fmt: skip
        starts, ends, status = starts[:lines], ends[:lines], status[:lines]
        sizes = ends - starts
        status[(status != jsonscan.BLANK) & (sizes > self.config.max_document_bytes)] = jsonscan.TROUBLE
        found = np.flatnonzero(status == jsonscan.FOUND)
        name_column = string_array(names, name_offsets[: lines + 1].astype(np.int32), pa.string())
        documents = pa.table(
            {
                "record": self.record + np.arange(lines),
                "text": string_array(text, text_offsets[: lines + 1], pa.large_string()),
                "raw_bytes": sizes,
                "name": pc.if_else(pa.array(named[:lines]), name_column, pa.scalar(None, pa.string())),
            },
            schema=DOCUMENTS,
        )
        rejects: list[Reject] = []
        if len(found) < lines:
            documents = documents.take(pa.array(found))
            troubled = np.flatnonzero(status == jsonscan.TROUBLE).tolist()
            rescued = []
            for line in troubled:
                raw = block[starts[line] : ends[line]]
                # Where files were put together, each may have its mark. What it stands before may be nothing.
                if not raw.removeprefix(BOM).strip(b" \t\r"):
                    status[line] = jsonscan.BLANK
                    continue
                outcome = self._line(self.record + line, raw)
                if isinstance(outcome, Reject):
                    rejects.append(outcome)
                else:
                    rescued.append({"record": self.record + line, "raw_bytes": len(raw), **outcome})
            if rescued:
                table = pa.Table.from_pylist(rescued, schema=DOCUMENTS)
                documents = pa.concat_tables([documents, table]).sort_by("record")
        records = int(sizes[status != jsonscan.BLANK].sum())
        self.record += lines
        return Batch(documents, reject_table(rejects), size - records)

    def _line(self, record: int, raw: bytes) -> Reject | dict[str, Any]:
        """Text and name of a line by the reference parser, or why it has none."""

        def reject(reason: str, detail: str) -> Reject:
            return Reject(record, reason, detail, size, raw[:SAMPLE_BYTES])

        size, raw = len(raw), raw.removeprefix(BOM)
        if size > self.config.max_document_bytes:
            return too_long(record, size, raw, self.config)
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            if self.config.invalid_utf8 == "reject":
                byte = raw[error.start]
                return reject("invalid_utf8", f"Byte 0x{byte:02x} at position {error.start} is not UTF-8.")
            line = raw.decode("sloppy-windows-1252")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            return reject("invalid_json", f"The line is not JSON: {error}.")
        field = self.source.text_field
        text = _at(value, field)
        if text is None:
            if not isinstance(value, dict):
                return reject("missing_text", f"The line is a JSON {_kind(value)}, not an object.")
            return reject("missing_text", f"There is no field {field}, or it is null.")
        if not isinstance(text, str):
            return reject("text_not_string", f"Field {field} is a JSON {_kind(text)}, not a string.")
        if not _encodable(text):
            return reject(
                "lone_surrogate", f"Field {field} has half of a surrogate pair, which is no character."
            )
        name = _at(value, self.source.name_field) if self.source.name_field else None
        if type(name) is int:
            name = str(name)
        return {"text": text, "name": name if isinstance(name, str) and _encodable(name) else None}


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _at(value: Any, field: str) -> Any:
    """The value of a field of that name, else at a dotted path of nested objects, or None."""
    if isinstance(value, dict) and field in value:
        return value[field]
    for key in field.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def _kind(value: Any) -> str:
    """The JSON name of a value's type."""
    names = ((dict, "object"), (list, "array"), (str, "string"), (bool, "boolean"), (int, "number"))
    if value is None:
        return "null"
    return next((name for kind, name in names if isinstance(value, kind)), "number")
