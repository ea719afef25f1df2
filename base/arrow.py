"""Arrow files on any fsspec URL: what is local is mapped into memory, not read."""

from typing import IO

import pyarrow as pa

from base import files, seals
from base.damage import readable, sound


def open_bytes(url: str) -> pa.NativeFile | IO[bytes]:
    """A file to read from: a map of a local one, else what its file system opens."""
    local = files.local_path(url)
    with readable(url):
        if local is not None:
            return pa.memory_map(local)
        return files.open_ranges(url)


class Writer:
    """Writes an Arrow file whose batches have a seal of each column (base/seals.py)."""

    def __init__(self, file: IO[bytes], url: str, schema: pa.Schema, compression: str | None = None) -> None:
        """Write into an open file, for the URL under which it will be seen."""
        self._url, self._batches = url, 0
        options = pa.ipc.IpcWriteOptions(compression=compression)
        self._writer = pa.ipc.new_file(file, schema, options=options)

    def write(self, table: pa.Table) -> None:
        """Write a table, a batch for each of its chunks."""
        for batch in table.to_batches():
            columns = zip(batch.schema.names, batch.columns, strict=True)
            seal = {name: seals.of_column(self._url, self._batches, name, column) for name, column in columns}
            self._writer.write_batch(batch, custom_metadata=seal)
            self._batches += 1

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


class Reader:
    """The record batches of an Arrow file, whose file is closed when the reader is gone.

    Raises UserError that names the file where it is damaged.
    """

    def __init__(
        self,
        url: str,
        file: pa.NativeFile | IO[bytes],
        options: pa.ipc.IpcReadOptions | None = None,
        whole: frozenset[str] = frozenset(),
    ) -> None:
        """Read the footer. whole: columns that have no nulls."""
        self.url, self._whole = url, whole
        with sound(url):
            self._reader = pa.ipc.open_file(file, options=options)
            self.schema: pa.Schema = self._reader.schema
            self.num_record_batches: int = self._reader.num_record_batches

    def get_batch(self, number: int) -> pa.RecordBatch:
        """A record batch; its columns are compared with their seals, if it has some."""
        with sound(self.url):
            read = self._reader.get_batch_with_custom_metadata(number)
            for name in self._whole.intersection(read.batch.schema.names):
                if read.batch.column(name).null_count:
                    raise ValueError(f"its column {name} has nulls")
            if not read.custom_metadata:
                return read.batch
            # A damaged offset would be followed out of the buffers.
            read.batch.validate(full=True)
            seal = {name.decode(): value.decode() for name, value in read.custom_metadata.items()}
            for name, column in zip(read.batch.schema.names, read.batch.columns, strict=True):
                if seal.get(name) != seals.of_column(self.url, number, name, column):
                    raise ValueError(f"column {name} of batch {number} has changed since it was written")
            return read.batch

    def get_rows(self, number: int, start: int = 0, count: int | None = None) -> pa.RecordBatch:
        """The rows of a record batch, or some of them, which are not compared with a seal."""
        with sound(self.url):
            batch = self._reader.get_batch(number)
            count = batch.num_rows if count is None else count
            if start + count > batch.num_rows:
                raise ValueError(f"batch {number} has {batch.num_rows} rows, not {start + count}")
            rows = batch.slice(start, count)
            # A damaged offset would be followed out of the buffers.
            rows.validate(full=True)
            return rows


def open_file(url: str, columns: pa.Schema | None = None) -> Reader:
    """A reader of the record batches of an Arrow file; some columns must be there, without nulls."""
    reader = Reader(url, open_bytes(url), whole=frozenset(columns.names if columns else ()))
    with sound(url):
        for field in columns or ():
            _place(reader.schema, field)
    return reader


def open_columns(url: str, columns: list[str] | pa.Schema) -> list[Reader]:
    """A reader of each of some columns of an Arrow file alone: nothing else is read or decompressed.

    columns: names, or a schema, whose types the columns must have, without nulls.
    """
    file = open_bytes(url)
    schema = Reader(url, file).schema
    with sound(url):
        options = [pa.ipc.IpcReadOptions(included_fields=[_place(schema, field)]) for field in columns]
    whole = frozenset(columns.names if isinstance(columns, pa.Schema) else ())
    return [Reader(url, file, option, whole) for option in options]


def _place(schema: pa.Schema, column: str | pa.Field) -> int:
    """The number of a column. Raises ValueError if there is none, or one of another type."""
    name = column if isinstance(column, str) else column.name
    number: int = schema.get_field_index(name)
    if number < 0:
        raise ValueError(f"it has no column {name}")
    if isinstance(column, pa.Field) and schema.field(number).type != column.type:
        raise ValueError(f"its column {name} is {schema.field(number).type}")
    return number
