"""Arrow IPC files and streams (`datasets` folders hold streams).

A record batch belongs to the range of the file in which it begins.
"""

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from base import files
from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.formats import ARROW_MAGIC
from pipelines.corpus.reading.records import Batch
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.reading.tables import (
    MOST_ROWS,
    column_of,
    damaged_table,
    fields_of,
    grouped,
    table_batch,
)


def read(
    url: str, source: SourceConfig, config: IngestConfig, start: int, stop: int | None, first_record: int
) -> Iterator[Batch]:
    """Read the record batches of a range; `first_record` rows lie before them.

    A local file is memory-mapped. Elsewhere, and where batches are compressed, one is held whole.
    """
    record = first_record
    with decompress.open_file(url) as file:
        try:
            for batch in _batches(url, file, source, start, stop):
                size = max(column_of(batch, source.text_field).nbytes, 1)
                rows = min(max(1, batch.num_rows * config.batch_bytes // size), MOST_ROWS)
                for part in grouped([batch], rows, source, config):
                    yield table_batch(part, record, source, config)
                    record += part.num_rows
        except (pa.ArrowException, OSError) as error:
            yield damaged_table(url, record, error, "arrow", config)


def count(url: str, source: SourceConfig, start: int, stop: int) -> int:
    """Rows of the record batches of a range, down to any damage."""
    count = 0
    with decompress.open_file(url) as file:
        try:
            for batch in _batches(url, file, source, start, stop):
                count += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            decompress.check_readable(url, error)
    return count


def cuts(url: str, size: int, wanted: list[int]) -> list[int]:
    """Anywhere, for batches are never divided; a stream that is not local would have to be walked."""
    return [0, *wanted] if files.local_path(url) or _is_file(url) else [0]


def _is_file(url: str) -> bool:
    with decompress.open_file(url) as file:
        return file.read(len(ARROW_MAGIC)) == ARROW_MAGIC


def _batches(
    url: str, file: Any, source: SourceConfig, start: int, stop: int | None
) -> Iterator[pa.RecordBatch]:
    local = files.local_path(url)
    stream = pa.memory_map(os.fsencode(local)) if local and files.size(url) else pa.PythonFile(file, mode="r")
    with stream:
        is_file = stream.read(len(ARROW_MAGIC)) == ARROW_MAGIC
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
            fields_of(url, reader.schema, source)
            size = stream.size()
            for number in range(reader.num_record_batches):
                # Where a batch lies is not told; they are taken to be of one size.
                place = number * size // reader.num_record_batches
                if start <= place and (stop is None or place < stop):
                    yield reader.get_batch(number)
            return
        reader = pa.ipc.open_stream(stream)
        fields_of(url, reader.schema, source)
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
