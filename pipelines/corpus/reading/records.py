"""What reading a source file gives: batches of documents and of records that are none."""

from dataclasses import dataclass
from typing import Any

import ftfy  # noqa: F401 (registers the codec sloppy-windows-1252)
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base.errors import UserError
from pipelines.corpus.reading import jsonscan
from pipelines.corpus.reading.decompress import DamagedFile
from pipelines.corpus.reading.settings import IngestConfig

DOCUMENTS = pa.schema(
    [("record", pa.int64()), ("text", pa.large_string()), ("raw_bytes", pa.int64()), ("name", pa.string())]
)
REJECTS = pa.schema(
    [
        ("record", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("bytes", pa.int64()),
        ("sample", pa.large_string()),
    ]
)
SAMPLE_BYTES = 4096
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Batch:
    """What came out of some consecutive bytes of a file.

    documents: record (0-based number of the line or record in the file; blank lines count), text (as
    read), raw_bytes (of the record in the decompressed file, without its line end), name (its source
    name, or null). rejects: record, reason, detail (a sentence), bytes, sample (the first SAMPLE_BYTES).
    framing_bytes: what belongs to no record, such as line ends, blank lines and the byte order mark. Over
    a file, sum(documents.raw_bytes) + sum(rejects.bytes) + sum(framing_bytes) is the decompressed size; a
    parquet or Arrow file counts as the UTF-8 bytes of its text column.
    """

    documents: pa.Table
    rejects: pa.Table
    framing_bytes: int


@dataclass(frozen=True)
class Reject:
    """A record that is no document: why, its size in bytes, and its first bytes."""

    record: int
    reason: str
    detail: str
    size: int
    sample: bytes


def too_long(record: int, size: int, sample: bytes, config: IngestConfig) -> Reject:
    """The reject for a record over max_document_bytes."""
    detail = f"The record has {size} bytes; max_document_bytes is {config.max_document_bytes}."
    return Reject(record, "too_long", detail, size, sample)


def reject_table(rows: list[Reject]) -> pa.Table:
    """Rejects as a table of schema REJECTS."""
    return pa.table(
        {
            "record": pa.array([row.record for row in rows], pa.int64()),
            "reason": pa.array([row.reason for row in rows], pa.string()),
            "detail": pa.array([row.detail for row in rows], pa.string()),
            "bytes": pa.array([row.size for row in rows], pa.int64()),
            "sample": pa.array(
                [row.sample[:SAMPLE_BYTES].decode("utf-8", "replace") for row in rows], pa.large_string()
            ),
        },
        schema=REJECTS,
    )


def rejected(rows: list[Reject], framing: int = 0) -> Batch:
    """A batch without documents."""
    return Batch(DOCUMENTS.empty_table(), reject_table(rows), framing)


def damaged(
    url: str, record: int, damage: DamagedFile, left: bytes, size: int, config: IngestConfig
) -> Batch:
    """The reject for what cannot be read of a damaged file; `left` is the start of the incomplete record.

    Raises UserError where config.on_damaged_file is "stop".
    """
    if config.on_damaged_file == "stop":
        raise UserError(f"input file {url} is damaged at record {record}: {damage.detail}") from None
    detail = f"The file cannot be read from record {record} on: {damage.detail}."
    return rejected([Reject(record, damage.reason, detail, size, left)])


def string_array(data: np.ndarray, offsets: np.ndarray, kind: pa.DataType) -> pa.Array:
    """The strings of `data` (uint8) that end at offsets[1:], as an array of `kind`, not copied."""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data[: offsets[-1]])]
    return pa.Array.from_buffers(kind, len(offsets) - 1, buffers)


def source_names(raw: pa.Array) -> pa.StringArray:
    """Names as text, from a large_binary array; null for those that are empty or not UTF-8."""
    good = pc.and_(pc.greater(pc.binary_length(raw), 0), pa.array(jsonscan.valid_utf8(raw)))
    return pc.if_else(good, raw, pa.scalar(None, pa.large_binary())).cast(pa.string())


def column_batch(
    records: np.ndarray,
    raw: pa.LargeBinaryArray,
    raw_bytes: np.ndarray,
    names: pa.StringArray,
    what: str,
    config: IngestConfig,
) -> Batch:
    """Documents and rejects of a column of texts that nothing has checked to be UTF-8.

    records, raw_bytes: int64, number and size of each record. names: source names or null. `what` names
    the column in the rejects of nulls, texts over max_document_bytes and texts that are not UTF-8.
    """
    sizes = pc.fill_null(pc.binary_length(raw), 0).to_numpy(zero_copy_only=False)
    present = raw.is_valid().to_numpy(zero_copy_only=False)
    table = pa.table({"record": records, "raw_bytes": raw_bytes, "name": names, "raw": raw})
    troubled = ~present | (sizes > config.max_document_bytes) | ~jsonscan.valid_utf8(raw)
    rescued: list[dict[str, Any]] = []
    rejects = []
    for row in np.flatnonzero(troubled).tolist():
        number, size = int(records[row]), int(raw_bytes[row])
        if not present[row]:
            rejects.append(Reject(number, "missing_text", f"{what} is null.", size, b""))
        elif sizes[row] > config.max_document_bytes:
            reject = too_long(number, int(sizes[row]), raw[row].as_py(), config)
            rejects.append(Reject(number, reject.reason, reject.detail, size, reject.sample))
        elif config.invalid_utf8 == "reject":
            rejects.append(Reject(number, "invalid_utf8", f"{what} is not UTF-8.", size, raw[row].as_py()))
        else:
            text = raw[row].as_py().decode("sloppy-windows-1252")
            rescued.append({"record": number, "text": text, "raw_bytes": size, "name": names[row].as_py()})
    if troubled.any():
        table = table.filter(pa.array(~troubled))
    documents = pa.table(
        {
            "record": table["record"],
            "text": table["raw"].combine_chunks().view(pa.large_string()),
            "raw_bytes": table["raw_bytes"],
            "name": table["name"],
        },
        schema=DOCUMENTS,
    )
    if rescued:
        extra = pa.Table.from_pylist(rescued, schema=DOCUMENTS)
        documents = pa.concat_tables([documents, extra]).sort_by("record")
    return Batch(documents, reject_table(rejects), 0)
