"""The one pass over the text of a part: read, normalise, identify, measure, sign.

Everything later works on the columns written here and reads text again only to verify
duplicates and to tokenize.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from base import files
from dedup import hashing, minhash
from dedup.config import MinHashConfig
from pipelines.corpus.inputs import Input
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.reading import ingest, records
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig, slug
from pipelines.corpus.settings import RejectsConfig
from pipelines.corpus.text import language, normalise, quality, redact
from pipelines.corpus.text.settings import LanguageConfig, RedactConfig

DOCUMENTS = pa.schema([("document_id", pa.binary(16)), ("record", pa.int64()), ("text", pa.large_string())])
REJECTS = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("record", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("bytes", pa.int64()),
        ("sample", pa.string()),
    ]
)


@dataclass(frozen=True)
class Measure:
    """What one measuring task needs; `corpus` is the corpus folder and `key` names the outputs."""

    corpus: str
    key: str
    input: Input
    source: SourceConfig
    ingest: IngestConfig
    language: LanguageConfig
    minhash: MinHashConfig
    rejects: RejectsConfig
    first_record: int = 0
    """Records of the file before the part."""

    def url(self, kind: str, suffix: str) -> str:
        """Where an output of this part goes."""
        return part_url(self.corpus, kind, self.key, self.input.part, suffix)


@dataclass(frozen=True)
class Count:
    """What counting the records of one part needs; `output` holds the number."""

    input: Input
    source: SourceConfig
    output: str


def count_part(task: Count) -> int:
    """The number of records of a part, as first_record of the parts after it adds them up."""
    if not files.exists(task.output):
        item = task.input
        files.write_json(task.output, ingest.count_records(item.file, task.source, item.start, item.stop))
    return int(files.read_json(task.output))


def part_url(corpus: str, kind: str, key: str, part: str, suffix: str) -> str:
    """The file of one part below documents/, attributes/, rejects/ or parts/."""
    return files.join(corpus, kind, key, f"{part}.{suffix}")


def measure_part(task: Measure) -> dict[str, Any]:
    """Measure one part and write its documents, attributes, rejects and counts.

    Returns {"part", "documents", "bytes", "ledger"}; the same value lies in parts/<key>/<part>.json,
    written last, and is returned at once when it is already there.
    """
    done = task.url("parts", "json")
    if files.exists(done):
        counts: dict[str, Any] = files.read_json(done)
        return counts
    ledger = Ledger()
    reject_tables: list[pa.Table] = []
    kept_rejects: dict[str, int] = {}
    with (
        files.atomic_writer(task.url("documents", "arrow")) as documents_file,
        files.atomic_writer(task.url("attributes", "parquet")) as attributes_file,
        pa.ipc.new_file(
            documents_file, DOCUMENTS, options=pa.ipc.IpcWriteOptions(compression="zstd")
        ) as documents,
    ):
        attributes: pq.ParquetWriter | None = None
        place = (task.input.start, task.input.stop, task.first_record)
        for batch in ingest.read(task.input.file, task.source, task.ingest, *place):
            _count_rejects(batch, task, ledger, reject_tables, kept_rejects)
            for table, measured in _measure_batch(batch, task, ledger, reject_tables, kept_rejects):
                documents.write_table(table)
                if attributes is None:
                    attributes = pq.ParquetWriter(attributes_file, measured.schema, compression="zstd")
                attributes.write_table(measured)
        if attributes is None:
            empty = _empty_attributes(task)
            attributes = pq.ParquetWriter(attributes_file, empty.schema, compression="zstd")
            attributes.write_table(empty)
        attributes.close()
    rejects = pa.concat_tables([REJECTS.empty_table(), *reject_tables])
    files.write_parquet(task.url("rejects", "parquet"), rejects)
    ledger.check()
    read = [stages["normalise"] for stages in ledger.sources.values() if "normalise" in stages]
    counts = {
        "part": task.input.part,
        "documents": sum(stage.documents_out for stage in read),
        "bytes": sum(stage.bytes_out for stage in read),
        "ledger": ledger.to_json(),
    }
    files.write_json(done, counts)
    return counts


def _names(column: pa.ChunkedArray, source: SourceConfig) -> pa.Array:
    """The source name of each document, dictionary-encoded, every value of the dictionary in use."""
    encoded = pc.fill_null(column.combine_chunks(), "").dictionary_encode()
    names = [slug(name) if name else source.name for name in encoded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(encoded.indices).dictionary_encode()


def _by_source(names: pa.DictionaryArray) -> Iterator[tuple[str, np.ndarray]]:
    codes = names.indices.to_numpy(zero_copy_only=False)
    for code, name in enumerate(names.dictionary.to_pylist()):
        yield name, codes == code


def _sizes(text: pa.LargeStringArray) -> np.ndarray:
    sizes: np.ndarray = pc.binary_length(text).to_numpy(zero_copy_only=False)
    return sizes.astype(np.int64)


def _measure_batch(
    batch: records.Batch,
    task: Measure,
    ledger: Ledger,
    reject_tables: list[pa.Table],
    kept_rejects: dict[str, int],
) -> Iterator[tuple[pa.Table, pa.Table]]:
    documents = batch.documents
    if documents.num_rows == 0:
        return
    as_read: pa.LargeStringArray = documents["text"].combine_chunks()
    names = _names(documents["name"], task.source)
    raw = _sizes(as_read)
    record_bytes = documents["raw_bytes"].to_numpy()
    text, changes = normalise.normalise(as_read)
    clean = _sizes(text)
    alive = clean > 0
    ids = np.zeros((len(as_read), 16), np.uint8)
    for name, mask in _by_source(names):
        prefix = name.encode() + b"\0"
        hashed = hashing.hash128(as_read.filter(pa.array(mask)), prefix)
        ids[mask] = hashing.id_bytes(hashed)
        count = int(mask.sum())
        size = int(raw[mask].sum())
        read = ledger.stage(name, "read")
        read.documents_in += count
        read.bytes_in += int(record_bytes[mask].sum())
        read.change("record_syntax", size - int(record_bytes[mask].sum()))
        read.documents_out += count
        read.bytes_out += size
        cleaned = ledger.stage(name, "normalise")
        cleaned.documents_in += count
        cleaned.bytes_in += size
        for reason, column in changes.items():
            if reason.startswith("delta_"):
                cleaned.change(reason.removeprefix("delta_"), int(column[mask].sum()))
        empty = mask & ~alive
        cleaned.drop("empty_text", int(empty.sum()), 0)
        cleaned.documents_out += int((mask & alive).sum())
        cleaned.bytes_out += int(clean[mask].sum())
    if not alive.all():
        dead = documents.filter(pa.array(~alive))
        _keep_rejects(
            pa.table(
                {
                    "source": names.cast(pa.string()).filter(pa.array(~alive)),
                    "file": pa.repeat(task.input.name, dead.num_rows),
                    "record": dead["record"],
                    "reason": pa.repeat("empty_text", dead.num_rows),
                    "detail": pa.repeat("no text is left after cleaning", dead.num_rows),
                    "bytes": pa.array(raw[~alive]),
                    "sample": pc.utf8_slice_codeunits(dead["text"], 0, 40).cast(pa.string()),
                },
                schema=REJECTS,
            ),
            task,
            reject_tables,
            kept_rejects,
        )
    keep = pa.array(alive)
    text = text.filter(keep)
    if len(text) == 0:
        return
    bands, shingles = minhash.signatures(text, task.minhash)
    identity = {
        "document_id": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), int(alive.sum()), [None, pa.py_buffer(ids[alive].tobytes())]
        ),
        "record": documents["record"].filter(keep),
    }
    columns = {
        **identity,
        "source": names.filter(keep).cast(pa.string()).dictionary_encode(),
        "bytes": pa.array(clean[alive]),
        "raw_bytes": pa.array(raw[alive]),
        "text_hash": minhash.text_hash(text),
        "bands": pa.FixedSizeListArray.from_arrays(pa.array(bands.reshape(-1)), task.minhash.bands),
        "shingles": pa.array(shingles),
    }
    if task.language.enabled:
        columns["language"], scores = language.identify(text, task.language)
        columns["language_score"] = pa.array(scores)
    measured = quality.measure(text)
    columns.update(zip(measured.column_names, measured.columns, strict=True))
    columns.update({name: pa.array(column[alive]) for name, column in changes.items() if name[:2] == "n_"})
    yield pa.table({**identity, "text": text}, schema=DOCUMENTS), pa.table(columns)


def _empty_attributes(task: Measure) -> pa.Table:
    """Attributes of a file without documents: the columns of any other, and no row."""
    record = pa.table(
        {
            "record": pa.array([0], pa.int64()),
            "text": pa.array(["x"], pa.large_string()),
            "raw_bytes": pa.array([1], pa.int64()),
            "name": pa.array([None], pa.string()),
        }
    )
    batch = records.Batch(documents=record, rejects=records.REJECTS.empty_table(), framing_bytes=0)
    (_, measured), *_ = _measure_batch(batch, task, Ledger(), [], {})
    return measured.slice(0, 0)


def _count_rejects(
    batch: records.Batch,
    task: Measure,
    ledger: Ledger,
    reject_tables: list[pa.Table],
    kept_rejects: dict[str, int],
) -> None:
    stage = ledger.stage(task.source.name, "read")
    stage.bytes_in += batch.framing_bytes
    stage.change("framing", -batch.framing_bytes)
    rejects = batch.rejects
    if rejects.num_rows == 0:
        return
    stage.documents_in += rejects.num_rows
    stage.bytes_in += pc.sum(rejects["bytes"]).as_py()
    totals = rejects.group_by("reason").aggregate([("bytes", "sum"), ("bytes", "count")])
    for row in totals.to_pylist():
        stage.drop(row["reason"], row["bytes_count"], row["bytes_sum"])
    table = pa.table(
        {
            **{name: rejects[name] for name in ("record", "reason", "detail", "bytes", "sample")},
            "source": pa.repeat(task.source.name, rejects.num_rows),
            "file": pa.repeat(task.input.name, rejects.num_rows),
        }
    ).select(REJECTS.names)
    _keep_rejects(table.cast(REJECTS), task, reject_tables, kept_rejects)


def _unescape(text: str) -> str:
    """Text without the escapes of JSON for ASCII; those of control characters become spaces."""
    return re.sub(
        r'\\(?:u00([0-7][0-9A-Fa-f])|[bfnrt]|(["/\\]))',
        lambda match: match[2] or (chr(max(32, int(match[1], 16))) if match[1] else " "),
        text,
    )


def _keep_rejects(
    table: pa.Table, task: Measure, reject_tables: list[pa.Table], kept: dict[str, int]
) -> None:
    """Keep the first rejects of each reason, with a short sample of their text, without personal data.

    Escapes of JSON, in which such data may hide, are undone in it.
    """
    for reason in pc.unique(table["reason"]).to_pylist():
        room = task.rejects.keep_rejects - kept.get(reason, 0)
        chosen = table.filter(pc.field("reason") == reason).slice(0, max(room, 0))
        kept[reason] = kept.get(reason, 0) + chosen.num_rows
        if chosen.num_rows:
            text = pa.array([_unescape(sample) for sample in chosen["sample"].to_pylist()], pa.large_string())
            samples = redact.excerpts(text, task.rejects.reject_sample_characters, RedactConfig())
            place = REJECTS.get_field_index("sample")
            reject_tables.append(chosen.set_column(place, "sample", samples.cast(pa.string())))
