"""Columns of text in tables, whichever file holds them."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base.errors import UserError
from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.records import Batch, column_batch, damaged, source_names
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

MOST_ROWS = 2**16
"""Rows of a batch at most."""


def damaged_table(url: str, record: int, error: BaseException, what: str, config: IngestConfig) -> Batch:
    """The reject for what cannot be read; UserError for an error of the storage."""
    decompress.check_readable(url, error)
    codec = decompress.compression(url)
    if codec:
        detail = f"it is compressed as a whole, by {codec}; decompress it"
        return damaged(url, record, decompress.DamagedFile("unsupported_compression", detail), b"", 0, config)
    message = str(error).rstrip(".")
    reason = "truncated_file" if what == "arrow" and "Expected" in message else "corrupt_file"
    return damaged(url, record, decompress.DamagedFile(reason, f"{what}: {message}"), b"", 0, config)


def fields_of(url: str, schema: pa.Schema, source: SourceConfig) -> list[str]:
    """The columns to read.

    Raises UserError if the text column is missing, or if it or the column of names holds something else.
    """
    kind = _field_type(schema, source.text_field)
    if kind is None:
        raise UserError(
            f"input file {url} has no column {source.text_field}; it has {', '.join(schema.names)}"
        )
    if not _is_text(kind):
        raise UserError(f"column {source.text_field} of input file {url} is {kind}, not text")
    fields = [_stored(schema, source.text_field)]
    kind = _field_type(schema, source.name_field) if source.name_field else None
    if source.name_field and kind is not None:
        if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise UserError(
                f"column {source.name_field} of input file {url} is {kind}, neither text nor whole numbers"
            )
        fields.append(_stored(schema, source.name_field))
    return fields


def _is_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            # Text that its writer did not call text; whether it is UTF-8 is checked for all.
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            # Nothing but nulls, as a writer has it that saw no value.
            pa.types.is_null,
        )
    )


def _path(schema: pa.Schema, field: str) -> list[str]:
    """The names that lead to a column: its own if there is one of just that name, else those between dots."""
    return [field] if field in schema.names else field.split(".")


def _field_type(schema: pa.Schema, field: str) -> pa.DataType | None:
    """The type of a (nested) column, or None if there is none."""
    at: Any = schema
    for key in _path(schema, field):
        if isinstance(at, pa.DataType) and not pa.types.is_struct(at):
            return at if pa.types.is_null(at) else None
        index = at.get_field_index(key)
        if index < 0:
            return None
        at = at.field(index).type
    return at


def _stored(schema: pa.Schema, field: str) -> str:
    """The column to read for a (nested) one: where all objects that could have it are null, just these."""
    path = _path(schema, field)
    for length in range(1, len(path)):
        above = ".".join(path[:length])
        kind = _field_type(schema, above)
        if kind is not None and pa.types.is_null(kind):
            return above
    return field


def column_of(batch: pa.RecordBatch, field: str) -> pa.Array:
    """A (nested) column."""
    first, *rest = _path(batch.schema, field)
    column = batch.column(first)
    for key in rest:
        if pa.types.is_null(column.type):
            return column
        column = pc.struct_field(column, key)
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def grouped(
    batches: Iterable[pa.RecordBatch], rows: int, source: SourceConfig, config: IngestConfig
) -> Iterator[pa.RecordBatch]:
    """Batches of `rows` rows each, fewer where their text has over twice config.batch_bytes.

    What counts is the text as it will be read, not as it is stored: a dictionary, or views of one value, may
    stand for a thousand times as many bytes. What precedes an error is given before it.
    """
    held: list[pa.RecordBatch] = []
    count = size = 0
    try:
        for batch in batches:
            sizes = np.cumsum(_row_sizes(batch, source))
            at = 0
            while at < batch.num_rows:
                before = int(sizes[at - 1]) if at else 0
                fits = int(np.searchsorted(sizes, before + 2 * config.batch_bytes - size, "right")) - at
                taken = min(fits, rows - count, batch.num_rows - at)
                if taken > 0 or not held:
                    taken = max(taken, 1)
                    held.append(batch.slice(at, taken))
                    at, count = at + taken, count + taken
                    size += int(sizes[at - 1]) - before
                if count == rows or at < batch.num_rows:
                    yield held[0] if len(held) == 1 else pa.concat_batches(held)
                    held, count, size = [], 0, 0
    except (pa.ArrowException, OSError):
        if held:
            yield pa.concat_batches(held)
        raise
    if held:
        yield held[0] if len(held) == 1 else pa.concat_batches(held)


def _row_sizes(batch: pa.RecordBatch, source: SourceConfig) -> np.ndarray:
    """Bytes of the text and the name of each row."""
    sizes = _text_sizes(column_of(batch, source.text_field))
    kind = _field_type(batch.schema, source.name_field) if source.name_field else None
    if source.name_field and kind is not None and _is_text(kind):
        sizes = sizes + _text_sizes(column_of(batch, source.name_field))
    return sizes


def _text_sizes(column: pa.Array) -> np.ndarray:
    """Bytes of each text of a column, 0 for a null."""
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.int64)
    if pa.types.is_dictionary(column.type):
        values = pa.array(_text_sizes(column.dictionary))
        sizes = values.take(column.indices)
    elif pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        # Each view is four numbers, of which the first is its length.
        views = np.frombuffer(column.buffers()[1], np.int32)[0::4]
        sizes = pc.if_else(column.is_valid(), pa.array(views[column.offset :][: len(column)]), 0)
    else:
        sizes = pc.binary_length(column)
    numbers: np.ndarray = sizes.fill_null(0).to_numpy(zero_copy_only=False)
    return numbers.astype(np.int64)


def _raw(column: pa.Array) -> pa.LargeBinaryArray:
    # Not text yet: nothing has checked that it is UTF-8, or that the offsets of a damaged file make sense.
    if pa.types.is_string(column.type):
        column = column.view(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.view(pa.large_binary())
    column.validate(full=True)
    return column.cast(pa.large_binary())


def table_batch(batch: pa.RecordBatch, record: int, source: SourceConfig, config: IngestConfig) -> Batch:
    """Documents and rejects of rows, of which `record` is the first's number."""
    raw = _raw(column_of(batch, source.text_field))
    names: pa.Array = pa.nulls(batch.num_rows, pa.string())
    if source.name_field and _field_type(batch.schema, source.name_field) is not None:
        column = column_of(batch, source.name_field)
        names = source_names(_raw(column.cast(pa.string()) if pa.types.is_integer(column.type) else column))
    records = record + np.arange(batch.num_rows)
    sizes = pc.fill_null(pc.binary_length(raw), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return column_batch(records, raw, sizes, names, f"Column {source.text_field}", config)
