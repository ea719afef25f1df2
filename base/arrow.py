"""Opening Arrow files on any fsspec URL: what is local is mapped into memory, not read."""

from typing import IO

import pyarrow as pa

from base import files


def open_bytes(url: str) -> pa.NativeFile | IO[bytes]:
    """A file to read from: a map of a local one, else what its file system opens."""
    local = files.local_path(url)
    if local is not None:
        return pa.memory_map(local)
    filesystem, path = files.split(url)
    return filesystem.open(path, "rb")


def open_file(url: str) -> pa.RecordBatchFileReader:
    """A reader of the record batches of an Arrow file, whose file is closed when the reader is gone."""
    return pa.ipc.open_file(open_bytes(url))


def open_columns(url: str, names: list[str]) -> list[pa.RecordBatchFileReader]:
    """A reader of each of some columns of an Arrow file alone: nothing else is read or decompressed."""
    file = open_bytes(url)
    schema = pa.ipc.open_file(file).schema
    options = [pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name)]) for name in names]
    return [pa.ipc.open_file(file, options=option) for option in options]
