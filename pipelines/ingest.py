"""Reading sources: files of any supported format as batches of documents and rejected records.

Every byte of a file is accounted for: documents, rejects and framing add up to its decompressed size.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ftfy  # noqa: F401 (registers the codec sloppy-windows-1252)
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from base.errors import UserError
from pipelines import decompress, jsonscan
from pipelines.config import IngestConfig, SourceConfig

DOCUMENTS = pa.schema(
    [("record", pa.int64()), ("text", pa.large_string()), ("raw_bytes", pa.int64()), ("name", pa.string())]
)
REJECTS = pa.schema(
    [
        ("record", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("bytes", pa.int64()),
        ("sample", pa.large_string()),
    ]
)
SAMPLE_BYTES = 4096
_BOM = b"\xef\xbb\xbf"
_FORMATS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".rst": "text",
}


@dataclass(frozen=True)
class Batch:
    """What came out of some consecutive bytes of a file.

    documents: record (0-based number of the line or record in the file; blank lines count), text (as
    read), raw_bytes (of the record in the decompressed file, without its line end), name (its source
    name, or null). rejects: record, reason, detail (a sentence), bytes, sample (the first SAMPLE_BYTES).
    framing_bytes: line ends, blank lines and byte order mark. Over a file,
    sum(documents.raw_bytes) + sum(rejects.bytes) + sum(framing_bytes) is the decompressed size; a
    parquet file counts as the UTF-8 bytes of its text column.
    """

    documents: pa.Table
    rejects: pa.Table
    framing_bytes: int


@dataclass(frozen=True)
class _Reject:
    record: int
    reason: str
    detail: str
    size: int
    sample: bytes


def read(url: str, source: SourceConfig, config: IngestConfig) -> Iterator[Batch]:
    """Read one file, `config.batch_bytes` of decompressed text at a time.

    Memory is bounded by about four times the larger of batch_bytes and max_document_bytes. Raises
    UserError if the file is gone, if its format cannot be told, if a parquet file lacks the column, and
    for a damaged file where config.on_damaged_file is "stop".
    """
    kind = file_format(url, source)
    if kind == "parquet":
        return _read_parquet(url, source, config)
    return _read_text(url, config) if kind == "text" else _read_lines(url, source, config)


def file_format(url: str, source: SourceConfig) -> str:
    """jsonl, parquet or text: as configured, else by extension, else by content."""
    if source.format != "auto":
        return source.format
    with decompress.open_file(url) as file:
        if file.read(4) == b"PAR1":
            return "parquet"
    name = url.lower()
    for suffix in decompress.SUFFIXES:
        name = name.removesuffix(suffix)
    extension = "." + name.rsplit("/", 1)[-1].rpartition(".")[2]
    if extension in _FORMATS:
        return _FORMATS[extension]
    try:
        start = next(decompress.pieces(url), b"")
    except decompress.DamagedFile:
        start = b""
    if start.removeprefix(_BOM).lstrip()[:1] == b"{":
        return "jsonl"
    raise UserError(
        f"the format of input file {url} cannot be told from its name or content; "
        f"set format of source {source.name} to jsonl, parquet or text"
    )


def _rejects(rows: list[_Reject]) -> pa.Table:
    return pa.table(
        {
            "record": pa.array([row.record for row in rows], pa.int64()),
            "reason": pa.array([row.reason for row in rows], pa.string()),
            "detail": pa.array([row.detail for row in rows], pa.string()),
            "bytes": pa.array([row.size for row in rows], pa.int64()),
            "sample": pa.array(
                [row.sample[:SAMPLE_BYTES].decode("utf-8", "replace") for row in rows], pa.large_string()
            ),
        },
        schema=REJECTS,
    )


def _rejected(rows: list[_Reject], framing: int = 0) -> Batch:
    return Batch(DOCUMENTS.empty_table(), _rejects(rows), framing)


def _damaged(
    url: str, record: int, damage: decompress.DamagedFile, left: bytes, size: int, config: IngestConfig
) -> Batch:
    """The reject for what cannot be read of a damaged file; `left` is the start of the incomplete record."""
    if config.on_damaged_file == "stop":
        raise UserError(f"input file {url} is damaged at record {record}: {damage.detail}") from None
    detail = f"The file cannot be read from record {record} on: {damage.detail}."
    return _rejected([_Reject(record, damage.reason, detail, size, left)])


# JSON lines


def _read_lines(url: str, source: SourceConfig, config: IngestConfig) -> Iterator[Batch]:
    parser = _LineParser(source, config)
    held: list[bytes] = []
    size = open_line = 0  # bytes held, and those of them after the last line end
    skipped = 0  # bytes passed of a line that is too long to hold, of which only `sample` is kept
    sample = b""
    first = True
    damage: decompress.DamagedFile | None = None
    pieces = decompress.pieces(url)
    while True:
        try:
            piece = next(pieces, b"")
        except decompress.DamagedFile as error:
            damage = error
            break
        if not piece:
            break
        if first and piece.startswith(_BOM):
            yield _rejected([], len(_BOM))
            piece = piece[len(_BOM) :]
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
        yield _damaged(url, parser.record, damage, left, skipped or open_line, config)
    elif skipped:
        yield parser.too_long(skipped, sample, framing=0)
    elif block:
        yield parser.parse(block, size)


def _path(field: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a dotted path as joined UTF-8 bytes and where each ends."""
    keys = [key.encode() for key in field.split(".")] if field else []
    ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    return np.frombuffer(b"".join(keys) + b"\0", np.uint8), ends


def _strings(data: np.ndarray, offsets: np.ndarray, kind: pa.DataType) -> pa.Array:
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data[: offsets[-1]])]
    return pa.Array.from_buffers(kind, len(offsets) - 1, buffers)


class _LineParser:
    """Parses blocks of whole lines; counts the lines of the file."""

    def __init__(self, source: SourceConfig, config: IngestConfig) -> None:
        self.source = source
        self.config = config
        self.record = 0
        self.text_path = _path(source.text_field)
        self.name_path = _path(source.name_field)

    def too_long(self, size: int, sample: bytes, framing: int) -> Batch:
        """The reject for a line that was never held whole."""
        reject = self._too_long(self.record, size, sample)
        self.record += 1
        return _rejected([reject], framing)

    def _too_long(self, record: int, size: int, sample: bytes) -> _Reject:
        limit = self.config.max_document_bytes
        return _Reject(
            record, "too_long", f"The record has {size} bytes; max_document_bytes is {limit}.", size, sample
        )

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
        name_column = _strings(names, name_offsets[: lines + 1].astype(np.int32), pa.string())
        documents = pa.table(
            {
                "record": self.record + np.arange(lines),
                "text": _strings(text, text_offsets[: lines + 1], pa.large_string()),
                "raw_bytes": sizes,
                "name": pc.if_else(pa.array(named[:lines]), name_column, pa.scalar(None, pa.string())),
            },
            schema=DOCUMENTS,
        )
        rejects: list[_Reject] = []
        if len(found) < lines:
            documents = documents.take(pa.array(found))
            troubled = np.flatnonzero(status == jsonscan.TROUBLE).tolist()
            rescued = []
            for line in troubled:
                raw = block[starts[line] : ends[line]]
                outcome = self._line(self.record + line, raw)
                if isinstance(outcome, _Reject):
                    rejects.append(outcome)
                else:
                    rescued.append({"record": self.record + line, "raw_bytes": len(raw), **outcome})
            if rescued:
                table = pa.Table.from_pylist(rescued, schema=DOCUMENTS)
                documents = pa.concat_tables([documents, table]).sort_by("record")
        records = int(sizes[status != jsonscan.BLANK].sum())
        self.record += lines
        return Batch(documents, _rejects(rejects), size - records)

    def _line(self, record: int, raw: bytes) -> _Reject | dict[str, Any]:
        """Text and name of a line by the reference parser, or why it has none."""

        def reject(reason: str, detail: str) -> _Reject:
            return _Reject(record, reason, detail, len(raw), raw[:SAMPLE_BYTES])

        if len(raw) > self.config.max_document_bytes:
            return self._too_long(record, len(raw), raw)
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
        return {"text": text, "name": name if isinstance(name, str) and _encodable(name) else None}


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _at(value: Any, field: str) -> Any:
    """The value at a dotted path of nested objects, or None."""
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


# Text


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
        yield _damaged(url, 0, damage, b"".join(held), size, config)
        return
    if size == 0:
        return
    content = b"".join(held)
    framing = len(_BOM) if content.startswith(_BOM) else 0
    content = content[framing:]
    size -= framing
    if size > limit:
        detail = f"The record has {size} bytes; max_document_bytes is {limit}."
        yield _rejected([_Reject(0, "too_long", detail, size, content)], framing)
        return
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if config.invalid_utf8 == "reject":
            detail = f"Byte 0x{content[error.start]:02x} at position {framing + error.start} is not UTF-8."
            yield _rejected([_Reject(0, "invalid_utf8", detail, size, content)], framing)
            return
        text = content.decode("sloppy-windows-1252")
    row = {"record": 0, "text": text, "raw_bytes": size, "name": None}
    yield Batch(pa.Table.from_pylist([row], schema=DOCUMENTS), REJECTS.empty_table(), framing)


# Parquet


def _read_parquet(url: str, source: SourceConfig, config: IngestConfig) -> Iterator[Batch]:
    record = 0
    with decompress.open_file(url) as file:
        try:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            _check_text_column(url, schema, source.text_field)
            fields = [source.text_field]
            if source.name_field and _field_type(schema, source.name_field) is not None:
                fields.append(source.name_field)
            for group in range(parquet.num_row_groups):
                about = parquet.metadata.row_group(group)
                rows = max(1, about.num_rows * config.batch_bytes // max(about.total_byte_size, 1))
                for batch in parquet.iter_batches(min(rows, 2**16), [group], columns=fields):
                    yield _parquet_batch(batch, record, source, config)
                    record += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            damage = decompress.DamagedFile("corrupt_file", f"parquet: {error}")
            yield _damaged(url, record, damage, b"", 0, config)


def _field_type(schema: pa.Schema, field: str) -> pa.DataType | None:
    """The type of a (nested) column, or None if there is none."""
    at: Any = schema
    for key in field.split("."):
        if isinstance(at, pa.DataType) and not pa.types.is_struct(at):
            return None
        index = at.get_field_index(key)
        if index < 0:
            return None
        at = at.field(index).type
    return at


def _check_text_column(url: str, schema: pa.Schema, field: str) -> None:
    kind = _field_type(schema, field)
    if kind is None:
        raise UserError(f"input file {url} has no column {field}; it has {', '.join(schema.names)}")
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"column {field} of input file {url} is {kind}, not text")


def _column(batch: pa.RecordBatch, field: str, kind: pa.DataType) -> pa.Array:
    first, *rest = field.split(".")
    column = batch.column(first)
    for key in rest:
        column = pc.struct_field(column, key)
    return column.cast(kind)


def _parquet_batch(batch: pa.RecordBatch, record: int, source: SourceConfig, config: IngestConfig) -> Batch:
    # Not text yet: nothing has checked that the column is UTF-8.
    raw = _column(batch, source.text_field, pa.large_string()).view(pa.large_binary())
    name: pa.Array = pa.nulls(batch.num_rows, pa.string())
    if source.name_field and source.name_field.split(".")[0] in batch.schema.names:
        name = _column(batch, source.name_field, pa.string())
    sizes = pc.fill_null(pc.binary_length(raw), 0).to_numpy(zero_copy_only=False)
    present = raw.is_valid().to_numpy(zero_copy_only=False)
    table = pa.table(
        {"record": record + np.arange(batch.num_rows), "raw_bytes": sizes, "name": name, "raw": raw}
    )
    troubled = ~present | (sizes > config.max_document_bytes) | ~jsonscan.valid_utf8(raw)
    rescued: list[dict[str, Any]] = []
    rejects = []
    for row in np.flatnonzero(troubled).tolist():
        number, size = record + row, int(sizes[row])
        if not present[row]:
            detail = f"Column {source.text_field} is null."
            rejects.append(_Reject(number, "missing_text", detail, 0, b""))
        elif size > config.max_document_bytes:
            detail = f"The record has {size} bytes; max_document_bytes is {config.max_document_bytes}."
            rejects.append(_Reject(number, "too_long", detail, size, raw[row].as_py()))
        elif config.invalid_utf8 == "reject":
            detail = f"Column {source.text_field} is not UTF-8."
            rejects.append(_Reject(number, "invalid_utf8", detail, size, raw[row].as_py()))
        else:
            text = raw[row].as_py().decode("sloppy-windows-1252")
            rescued.append({"record": number, "text": text, "raw_bytes": size, "name": name[row].as_py()})
    table = table.filter(pa.array(~troubled))
    text = table["raw"].combine_chunks().view(pa.large_string())
    documents = pa.table(
        {
            "record": table["record"], "text": text,
            "raw_bytes": table["raw_bytes"], "name": table["name"],
        },
        schema=DOCUMENTS,
    )  # fmt: skip
    if rescued:
        extra = pa.Table.from_pylist(rescued, schema=DOCUMENTS)
        documents = pa.concat_tables([documents, extra]).sort_by("record")
    return Batch(documents, _rejects(rejects), 0)
