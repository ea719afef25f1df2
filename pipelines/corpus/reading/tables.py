"""Tables: parquet files and Arrow IPC files and streams (`datasets` directories hold streams).

A row group or record batch belongs to the range of the file in which it begins.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from base import files
from base.errors import UserError
from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.records import Batch, column_batch, damaged, source_names
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

ARROW_FILE = b"ARROW1"
ARROW_STREAM = b"\xff\xff\xff\xff"
_MOST_ROWS = 2**16
_READ_BYTES = 2**20


def read_parquet(
    url: str, source: SourceConfig, config: IngestConfig, start: int, stop: int | None, first_record: int
) -> Iterator[Batch]:
    """Read the row groups of a range; `first_record` rows lie before them.

    What cannot be read of a row group is one reject, and the next group is read.
    """
    record = first_record
    with decompress.open_file(url) as file:
        try:
            # Pages, not whole row groups, are held.
            parquet = pq.ParquetFile(file, buffer_size=_READ_BYTES, pre_buffer=False)
            fields = _fields(url, parquet.schema_arrow, source)
        except (pa.ArrowException, OSError) as error:
            yield _damaged(url, record, error, "parquet", config)
            return
        for group in _groups(parquet.metadata, start, stop):
            about = parquet.metadata.row_group(group)
            rows = max(1, about.num_rows * config.batch_bytes // max(about.total_byte_size, 1))
            after = record + about.num_rows
            try:
                for batch in parquet.iter_batches(min(rows, _MOST_ROWS), [group], columns=fields):
                    yield _column_batch(batch, record, source, config)
                    record += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                yield _damaged(url, record, error, f"parquet, row group {group} to row {after - 1}", config)
            record = after


def _damaged(url: str, record: int, error: BaseException, what: str, config: IngestConfig) -> Batch:
    """The reject for what cannot be read; UserError for an error of the storage."""
    decompress.check_readable(url, error)
    message = str(error).rstrip(".")
    reason = "truncated_file" if what == "arrow" and "Expected" in message else "corrupt_file"
    return damaged(url, record, decompress.DamagedFile(reason, f"{what}: {message}"), b"", 0, config)


def count_parquet(url: str, start: int, stop: int) -> int:
    """Rows of the row groups of a range; 0 if the file cannot be read."""
    with decompress.open_file(url) as file:
        try:
            metadata = pq.read_metadata(file)
        except (pa.ArrowException, OSError) as error:
            decompress.check_readable(url, error)
            return 0
    return sum(metadata.row_group(group).num_rows for group in _groups(metadata, start, stop))


def _groups(metadata: pq.FileMetaData, start: int, stop: int | None) -> Iterator[int]:
    """The row groups whose first page lies in a range."""
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(0)
        first = column.data_page_offset
        if column.dictionary_page_offset is not None:
            first = min(first, column.dictionary_page_offset)
        if start <= first and (stop is None or first < stop):
            yield group


def read_arrow(
    url: str, source: SourceConfig, config: IngestConfig, start: int, stop: int | None, first_record: int
) -> Iterator[Batch]:
    """Read the record batches of a range; `first_record` rows lie before them.

    A local file is memory-mapped. Elsewhere, and where batches are compressed, one is held whole.
    """
    record = first_record
    with decompress.open_file(url) as file:
        try:
            for batch in _arrow_batches(url, file, source, start, stop):
                size = max(_column(batch, source.text_field).nbytes, 1)
                rows = min(max(1, batch.num_rows * config.batch_bytes // size), _MOST_ROWS)
                for first in range(0, batch.num_rows, rows):
                    part = batch.slice(first, rows)
                    yield _column_batch(part, record, source, config)
                    record += part.num_rows
        except (pa.ArrowException, OSError) as error:
            yield _damaged(url, record, error, "arrow", config)


def count_arrow(url: str, source: SourceConfig, start: int, stop: int) -> int:
    """Rows of the record batches of a range, down to any damage."""
    count = 0
    with decompress.open_file(url) as file:
        try:
            for batch in _arrow_batches(url, file, source, start, stop):
                count += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            decompress.check_readable(url, error)
    return count


def _arrow_batches(
    url: str, file: Any, source: SourceConfig, start: int, stop: int | None
) -> Iterator[pa.RecordBatch]:
    local = files.local_path(url)
    stream = pa.memory_map(local) if local and files.size(url) else pa.PythonFile(file, mode="r")
    with stream:
        is_file = stream.read(len(ARROW_FILE)) == ARROW_FILE
        if is_file:
            stream.seek(0)
            try:
                reader = pa.ipc.open_file(stream)
            except pa.ArrowInvalid:
                is_file = False  # its footer is gone; what comes before is a stream
                stream.seek(8)
        else:
            stream.seek(0)
        if is_file:
            _fields(url, reader.schema, source)
            size = stream.size()
            for number in range(reader.num_record_batches):
                # Where a batch lies is not told; they are taken to be of one size.
                place = number * size // reader.num_record_batches
                if start <= place and (stop is None or place < stop):
                    yield reader.get_batch(number)
            return
        reader = pa.ipc.open_stream(stream)
        _fields(url, reader.schema, source)
        while True:
            place = stream.tell()
            if stop is not None and place >= stop:
                return
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            if place >= start:
                yield batch


def _fields(url: str, schema: pa.Schema, source: SourceConfig) -> list[str]:
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
    fields = [source.text_field]
    kind = _field_type(schema, source.name_field) if source.name_field else None
    if source.name_field and kind is not None:
        if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise UserError(
                f"column {source.name_field} of input file {url} is {kind}, neither text nor whole numbers"
            )
        fields.append(source.name_field)
    return fields


def _is_text(kind: pa.DataType) -> bool:
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
            return None
        index = at.get_field_index(key)
        if index < 0:
            return None
        at = at.field(index).type
    return at


def _column(batch: pa.RecordBatch, field: str) -> pa.Array:
    first, *rest = _path(batch.schema, field)
    column = batch.column(first)
    for key in rest:
        column = pc.struct_field(column, key)
    return column


def _raw(column: pa.Array) -> pa.LargeBinaryArray:
    # Not text yet: nothing has checked that it is UTF-8, or that the offsets of a damaged file make sense.
    if pa.types.is_string(column.type):
        column = column.view(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.view(pa.large_binary())
    column.validate(full=True)
    return column.cast(pa.large_binary())


def _column_batch(batch: pa.RecordBatch, record: int, source: SourceConfig, config: IngestConfig) -> Batch:
    raw = _raw(_column(batch, source.text_field))
    names: pa.Array = pa.nulls(batch.num_rows, pa.string())
    if source.name_field and _field_type(batch.schema, source.name_field) is not None:
        column = _column(batch, source.name_field)
        names = source_names(_raw(column.cast(pa.string()) if pa.types.is_integer(column.type) else column))
    records = record + np.arange(batch.num_rows)
    sizes = pc.fill_null(pc.binary_length(raw), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return column_batch(records, raw, sizes, names, f"Column {source.text_field}", config)
