"""Reading parquet files in bounded memory."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import files

SAMPLE_ROWS = 200_000
"""Documents that histograms are made of."""
SAMPLE_FILES = 256
"""Files that they are taken from."""
MEASURED = ("q_", "language_score")
"""How the columns begin of which distributions are shown."""


def row_groups(url: str, columns: list[str]) -> Iterator[pa.Table]:
    """The row groups of a parquet file that hold rows, restricted to those columns it has."""
    with files.open_parquet(url) as reader:
        present = [name for name in columns if name in reader.schema_arrow.names]
        for group in range(reader.num_row_groups):
            if reader.metadata.row_group(group).num_rows:
                yield reader.read_row_group(group, columns=present)


def footer(url: str) -> tuple[list[str], int]:
    """(columns, rows) of a parquet file."""
    with files.open_parquet(url) as reader:
        return reader.schema_arrow.names, reader.metadata.num_rows


def by_reason(table: pa.Table) -> Iterator[tuple[tuple[str, str], pa.Table]]:
    """The rows of each (source, reason)."""
    sources, reasons = table["source"].cast(pa.string()), table["reason"].cast(pa.string())
    keys = pa.table({"source": sources, "reason": reasons}).group_by(["source", "reason"]).aggregate([])
    for key in keys.sort_by([("source", "ascending"), ("reason", "ascending")]).to_pylist():
        mask = pc.and_(pc.equal(sources, key["source"]), pc.equal(reasons, key["reason"]))
        yield (key["source"], key["reason"]), table.filter(mask)


def even_sample(urls: list[str]) -> pa.Table | None:
    """Source, bytes and measured columns of at most about SAMPLE_ROWS documents at even distances."""
    urls = urls[:: -(-len(urls) // SAMPLE_FILES) or 1]
    with ThreadPoolExecutor(8) as pool:
        begins = list(accumulate((rows for _, rows in pool.map(footer, urls)), initial=0))
        step = -(-begins[-1] // SAMPLE_ROWS)
        if not step:
            return None
        pieces = pool.map(lambda url, begin: _sample_of_file(url, begin, step), urls, begins)
        return pa.concat_tables(chain.from_iterable(pieces), promote_options="permissive")


def _sample_of_file(url: str, begin: int, step: int) -> list[pa.Table]:
    """Rows of one file of `even_sample`, of which `begin` rows lie in files before it."""
    pieces: list[pa.Table] = []
    with files.open_parquet(url) as reader:
        others = ("source", "bytes", "n_control")
        names = [n for n in reader.schema_arrow.names if n in others or n.startswith(MEASURED)]
        for group in range(reader.num_row_groups):
            table = reader.read_row_group(group, columns=names)
            chosen = np.arange(-begin % step, table.num_rows, step)
            begin += table.num_rows
            if "source" in names:
                plain = table["source"].cast(pa.string())
                table = table.set_column(table.schema.get_field_index("source"), "source", plain)
            pieces.append(table.take(pa.array(chosen)))
    return pieces
