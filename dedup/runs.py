"""Partitioned run files: one parquet file a writer, one row group a partition.

A writer sorts its rows by partition; a reader of one partition reads that row group of every run. The
number of files is the number of writers, whatever the number of partitions.
"""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from base import files

_PARTITIONS = b"partitions"


def write_run(url: str, table: pa.Table, partition: np.ndarray) -> None:
    """Write the rows of `table` grouped by `partition` (int, one a row), their order kept within each."""
    order = np.argsort(partition, kind="stable")
    present, counts = np.unique(partition, return_counts=True)
    table = table.take(pa.array(order))
    schema = table.schema.with_metadata({_PARTITIONS: json.dumps(present.tolist())})
    with files.atomic_writer(url) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        start = 0
        for count in counts:
            writer.write_table(table.slice(start, count), row_group_size=max(1, int(count)))
            start += int(count)


def read_partitions(urls: list[str], partitions: list[int]) -> pa.Table:
    """The rows of `partitions` in all runs, in order of run and partition; at least one run must be given."""
    tables = []
    for url in urls:
        filesystem, path = files.split(url)
        with filesystem.open(path, "rb") as file, pq.ParquetFile(file) as run:
            present = json.loads(run.schema_arrow.metadata[_PARTITIONS])
            groups = [i for i, partition in enumerate(present) if partition in set(partitions)]
            tables.append(run.read_row_groups(groups).replace_schema_metadata())
    return pa.concat_tables(tables)


def read_between(url: str, column: str, values: np.ndarray, columns: list[str]) -> pa.Table:
    """The row groups of a file sorted by the integer `column` that can hold one of the sorted `values`."""
    filesystem, path = files.split(url)
    with filesystem.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
        at = parquet.schema_arrow.get_field_index(column)
        groups = []
        for i in range(parquet.num_row_groups):
            if parquet.metadata.row_group(i).num_rows == 0:
                continue
            statistics = parquet.metadata.row_group(i).column(at).statistics
            first = np.searchsorted(values, values.dtype.type(statistics.min))
            if first < np.searchsorted(values, values.dtype.type(statistics.max), side="right"):
                groups.append(i)
        return parquet.read_row_groups(groups, columns=columns)
