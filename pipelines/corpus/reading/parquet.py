"""Parquet files. A row group belongs to the range of the file in which it begins."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.records import Batch
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.reading.tables import MOST_ROWS, damaged_table, fields_of, grouped, table_batch

_READ_BYTES = 2**20
_READ_ROWS = 128
"""Rows that are decoded at a time: few bytes may stand for the same long text in many of them."""


def read(
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
            fields = fields_of(url, parquet.schema_arrow, source)
        except (pa.ArrowException, OSError) as error:
            yield damaged_table(url, record, error, "parquet", config)
            return
        for group in _groups(parquet.metadata, start, stop):
            about = parquet.metadata.row_group(group)
            rows = max(1, about.num_rows * config.batch_bytes // max(about.total_byte_size, 1))
            after = record + about.num_rows
            try:
                stored = parquet.iter_batches(_READ_ROWS, [group], columns=fields)
                for batch in grouped(stored, min(rows, MOST_ROWS), source, config):
                    yield table_batch(batch, record, source, config)
                    record += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                what = f"parquet, row group {group} to row {after - 1}"
                yield damaged_table(url, record, error, what, config)
            record = after


def count(url: str, source: SourceConfig, start: int, stop: int) -> int:
    """Rows of the row groups of a range; 0 if the file cannot be read."""
    with decompress.open_file(url) as file:
        try:
            metadata = pq.read_metadata(file)
        except (pa.ArrowException, OSError) as error:
            decompress.check_readable(url, error)
            return 0
    return sum(metadata.row_group(group).num_rows for group in _groups(metadata, start, stop))


def cuts(url: str, size: int, wanted: list[int]) -> list[int]:
    """Anywhere: row groups are never divided."""
    return [0, *wanted]


def _groups(metadata: pq.FileMetaData, start: int, stop: int | None) -> Iterator[int]:
    """The row groups whose first page lies in a range."""
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(0)
        first = column.data_page_offset
        if column.dictionary_page_offset is not None:
            first = min(first, column.dictionary_page_offset)
        if start <= first and (stop is None or first < stop):
            yield group
