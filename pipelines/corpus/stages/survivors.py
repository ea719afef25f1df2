"""The documents that deduplication left, and their texts after the edits."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import arrow, files
from pipelines.corpus.stages.edit import Edited, Edits, SpanTable, edit, spans_of

DOCUMENTS = pa.schema([("document_id", pa.binary(16)), ("record", pa.int64()), ("text", pa.large_string())])
"""The columns of a documents file."""


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """The documents of a part that deduplication left, and the edits of their texts.

    `dropped` is the table with the part's dropped documents, None if there is none.
    """

    part: str
    file: str
    documents: str
    entries: str
    dropped: str | None
    spans: SpanTable
    edits: Edits


def surviving_entries(survivors: Survivors, columns: list[str]) -> pa.Table:
    """The entries of a part that its table of dropped documents does not name, in order of row."""
    table = files.read_parquet(survivors.entries, sorted({*columns, "row"}))
    if survivors.dropped is not None:
        dropped = files.read_parquet(survivors.dropped, ["part", "row"])
        mine = dropped.filter(pc.equal(dropped["part"].cast(pa.string()), survivors.part))
        gone = np.isin(table["row"].to_numpy(), mine["row"].to_numpy())
        table = table.filter(pa.array(~gone))
    return table.sort_by("row")


def edited_documents(survivors: Survivors, entries: pa.Table) -> Iterator[tuple[pa.Table, pa.Table, Edited]]:
    """Yield (entries, rows of the documents file, edited texts) of one record batch after another.

    `entries` holds row and source of some of the survivors, in order of row.
    """
    rows = entries["row"].to_numpy()
    spans = spans_of(survivors.spans, rows)
    for positions, documents in document_texts(survivors.documents, rows):
        chosen = entries.slice(positions.start, positions.stop - positions.start)
        mine = None
        if spans is not None:
            low, high = np.searchsorted(spans[0], [positions.start, positions.stop])
            mine = spans[0][low:high] - positions.start, spans[1][low:high], spans[2][low:high]
        sources = chosen["source"].cast(pa.string()).combine_chunks()
        text = documents["text"].combine_chunks()
        yield chosen, documents, edit(text, sources, mine, survivors.edits)


def document_texts(url: str, rows: np.ndarray) -> Iterator[tuple[slice, pa.Table]]:
    """Yield (positions within `rows`, table of those rows) for sorted row numbers of a documents file."""
    reader = arrow.open_file(url, DOCUMENTS)
    first = 0
    for number in range(reader.num_record_batches):
        if not len(rows) or rows[-1] < first:
            return
        batch = reader.get_batch(number)
        low, high = np.searchsorted(rows, [first, first + batch.num_rows])
        if high > low:
            table = pa.Table.from_batches([batch])
            yield slice(low, high), table.take(pa.array(rows[low:high].astype(np.int64) - first))
        first += batch.num_rows
