"""Partitioned run files: one parquet file a writer, one row group a partition.

A writer sorts its rows by partition; a reader of one partition reads that row group of every run. The
number of files is the number of writers, whatever the number of partitions.
"""

import json
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from base import files, seals

_PARTITIONS = b"partitions"


def write_run(
    url: str,
    chunks: Iterable[tuple[pa.Table, np.ndarray]],
    metadata: dict[str, str] | None = None,
    compression: str = "zstd",
) -> None:
    """Write tables grouped by partition (int, one a row), the order of rows kept within each.

    chunks: at least one (table, partition); no partition of a chunk may be smaller than one of an earlier
    chunk. metadata: kept in the file, for `read_metadata`.
    """
    present: list[int] = []
    with files.atomic_writer(url) as file:
        writer = None
        for table, partition in chunks:
            order = np.argsort(partition, kind="stable")
            numbers, counts = np.unique(partition, return_counts=True)
            table = table.take(pa.array(order))
            # Hashes, refs and ids are all different: dictionaries and statistics would cost and not help.
            writer = writer or seals.ParquetWriter(
                file,
                url,
                table.schema,
                compression=compression,
                use_dictionary=[name for name in table.column_names if name == "source"] or False,
                write_statistics=False,
            )
            start = 0
            for count in counts.tolist():
                writer.write_table(table.slice(start, count), row_group_size=max(1, count))
                start += count
            present += numbers.tolist()
        assert writer is not None
        writer.add_key_value_metadata({_PARTITIONS.decode(): json.dumps(present), **(metadata or {})})
        writer.close()


def read_partitions(urls: list[str], partitions: list[int]) -> pa.Table:
    """The rows of `partitions` in all runs, in order of run and partition; at least one run must be given."""
    tables = []
    wanted = set(partitions)
    for url in urls:
        with files.open_parquet(url) as run:
            present = json.loads(run.metadata.metadata[_PARTITIONS])
            groups = [i for i, partition in enumerate(present) if partition in wanted]
            tables.append(run.read_row_groups(groups).replace_schema_metadata())
    return pa.concat_tables(tables)


def row_groups(urls: list[str], partition: int) -> Iterator[pa.Table]:
    """The rows of a partition in all runs, in order of run, one row group in memory at a time."""
    for url in urls:
        with files.open_parquet(url) as run:
            present = json.loads(run.metadata.metadata[_PARTITIONS])
            for number in np.flatnonzero(np.array(present, np.int64) == partition).tolist():
                yield run.read_row_group(number).replace_schema_metadata()


def read_metadata(url: str) -> dict[str, str]:
    """The metadata of a run, and its number of `rows`."""
    with files.open_parquet(url) as run:
        footer = run.metadata
        values = {name.decode(): value.decode() for name, value in footer.metadata.items()}
    return values | {"rows": str(footer.num_rows)}


def read_matching(url: str, schema: pa.Schema, values: np.ndarray) -> pa.Table:
    """The rows of a file sorted by the first, uint64, column that hold one of the sorted, distinct `values`.

    schema: of the columns that are wanted. Reads the row groups that can hold one, first that column alone,
    and the others of a row group only if one is there.
    """
    column, *others = schema.names
    with files.open_parquet(url, schema) as parquet:
        at = parquet.schema_arrow.get_field_index(column)
        tables = [schema.empty_table()]
        for i in range(parquet.num_row_groups):
            if parquet.metadata.row_group(i).num_rows == 0:
                continue
            statistics = parquet.metadata.row_group(i).column(at).statistics
            first = np.searchsorted(values, np.uint64(statistics.min))
            last = np.searchsorted(values, np.uint64(statistics.max), side="right")
            if first == last:
                continue
            there = parquet.read_row_group(i, [column])[column].to_numpy()
            # The few wanted are searched in the many: cost in proportion to the new data.
            wanted = values[first:last]
            low = np.searchsorted(there, wanted)
            hit = there[np.minimum(low, len(there) - 1)] == wanted
            if hit.any():
                low, count = low[hit], np.searchsorted(there, wanted[hit], side="right") - low[hit]
                rows = np.repeat(low - np.cumsum(count) + count, count) + np.arange(count.sum())
                # Hashes do not compress: what was read of them is not read again.
                table = parquet.read_row_group(i, others).append_column(column, pa.array(there))
                tables.append(table.select(schema.names).take(pa.array(rows)).replace_schema_metadata())
        table = pa.concat_tables(tables)
        if any(one.null_count for one in table.columns):
            raise ValueError("it has nulls")
        return table


def write_sorted(url: str, table: pa.Table, row_group: int) -> None:
    """Write a table for `read_matching`: hashes as they are, since they do not compress."""
    files.write_parquet(url, table, row_group_size=row_group, use_dictionary=False, compression="none")
