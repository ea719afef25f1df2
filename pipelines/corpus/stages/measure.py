"""The one pass over the text of a part: read, normalise, identify, measure, sign.

Everything later works on the columns written here and reads text again only to verify
duplicates and to tokenize.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import arrow, files, seals
from base.layout import Layout, name_of
from base.manifest import LedgerCounts
from base.records import Mark, Record, made
from dedup import hashing, minhash
from dedup.config import MinHashConfig
from pipelines.config import Config
from pipelines.corpus.inputs import Input
from pipelines.corpus.ledger import Ledger, LedgerError
from pipelines.corpus.ledger import Stage as StageCounts
from pipelines.corpus.reading import ingest, records
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig, slug
from pipelines.corpus.settings import RejectsConfig
from pipelines.corpus.stages.stage import Stage, only, unkeyed
from pipelines.corpus.stages.survivors import DOCUMENTS
from pipelines.corpus.text import language, normalise, plugins, quality, redact
from pipelines.corpus.text.plugins import Plugin
from pipelines.corpus.text.settings import LanguageConfig, RedactConfig
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress, tick

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


class RecordCount(Record):
    """How many records a range of a file holds."""

    has_place: ClassVar[bool] = True
    needs_seal: ClassVar[bool] = True
    records: int


class PartCounts(Mark):
    """What a part held; written last, so that the part is measured."""

    part: str
    documents: int
    bytes: int
    """Of the cleaned texts."""
    ledger: LedgerCounts
    """Of the stages read and normalise (`Ledger.to_json`)."""

    def fits(self, task: "MeasurePart") -> bool:
        """Whether these can be the counts of a task: of its part, each source with what was read of it."""
        try:
            Ledger.from_json(self.ledger).check()
        except LedgerError:
            return False
        return (
            self.part == task.input.part
            and (task.source.name_field is not None or self.ledger.keys() <= {task.source.name})
            and all(any(entry["stage"] == "read" for entry in entries) for entries in self.ledger.values())
        )


@dataclass(frozen=True, kw_only=True)
class MeasurePart:
    """What measuring one part needs; `key` names the outputs."""

    layout: Layout
    key: str
    input: Input
    source: SourceConfig
    ingest: IngestConfig
    language: LanguageConfig
    minhash: MinHashConfig
    rejects: RejectsConfig
    filters: list[str]
    """Import paths of filters of somebody else."""
    first_record: int = 0
    """Records of the file before the part."""

    def url(self, kind: str, suffix: str) -> str:
        """Where an output of this part goes."""
        return self.layout.part(kind, self.key, self.input.part, suffix)

    def output(self, kind: str) -> str:
        """Where the documents, attributes or rejects go."""
        return self.url(kind, "arrow" if kind == "documents" else "parquet")


@dataclass(frozen=True, kw_only=True)
class CountPart:
    """What counting the records of one part needs; `output` holds the number."""

    input: Input
    source: SourceConfig
    output: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The columns of every part, and what was read of every source."""

    layout: Layout
    inputs: tuple[Input, ...]
    keys: dict[str, str]
    """What the outputs of a source depend on."""
    counts: tuple[PartCounts, ...]
    """Of the inputs, in their order."""
    ledger: Ledger
    """Of the stages read and normalise."""
    read: dict[str, StageCounts]
    """What was read of the files of each configured source, whatever names its records have."""

    def url(self, kind: str, item: Input, suffix: str) -> str:
        """The file of one part below documents/, attributes/ or rejects/."""
        return self.layout.part(kind, self.keys[item.source], item.part, suffix)

    @property
    def key(self) -> str:
        """What all outputs depend on."""
        return files.key_of([(item.part, self.keys[item.source]) for item in self.inputs])

    @property
    def documents(self) -> dict[str, str]:
        """The documents file of every part."""
        return {item.part: self.url("documents", item, "arrow") for item in self.inputs}

    @property
    def attributes(self) -> list[str]:
        """The table of measured columns of every part, in the order of the inputs."""
        return [self.url("attributes", item, "parquet") for item in self.inputs]

    @property
    def rejects(self) -> list[str]:
        """The table of rejected records of every part, in the order of the inputs."""
        return [self.url("rejects", item, "parquet") for item in self.inputs]

    @property
    def sources_of(self) -> dict[str, set[str]]:
        """The source names of the records of every part."""
        return {counts.part: set(counts.ledger) for counts in self.counts}


@dataclass(frozen=True, kw_only=True)
class Measure(Stage):
    """Read, clean, identify and measure every part."""

    name: ClassVar[str] = "measure"
    version: ClassVar[int] = 6
    layout: Layout = unkeyed()
    inputs: tuple[Input, ...] = unkeyed()
    """Each output is of one input, which names it."""
    sources: dict[str, SourceConfig]
    ingest: IngestConfig
    language: LanguageConfig
    minhash: MinHashConfig
    rejects: RejectsConfig
    filters: list[Plugin]
    """Filters of somebody else."""

    @classmethod
    def of(cls, config: Config, layout: Layout, inputs: tuple[Input, ...]) -> "Measure":
        """The stage with what it needs of a configuration: no threshold, no policy."""
        read = ("name", "format", "text_field", "name_field", "csv_quotes")
        return cls(
            layout=layout,
            inputs=inputs,
            sources={source.name: only(source, *read) for source in config.sources},
            ingest=config.ingest,
            language=only(config.language, "enabled", "max_characters"),
            minhash=config.dedup.minhash,
            rejects=config.corpus,
            filters=[plugins.find(path) for path in config.plugins.filters],
        )

    def key_of(self, source: str) -> str:
        """What the outputs of one source depend on."""
        return replace(self, sources={source: self.sources[source]}).key

    @cached_property
    def keys(self) -> dict[str, str]:
        """The key of every source that has inputs."""
        return {source: self.key_of(source) for source in dict.fromkeys(item.source for item in self.inputs)}

    def run(self, executor: Executor, progress: Progress) -> Measured:
        """Measure the parts that are not measured."""
        first_records = self._first_records(executor, progress)
        tasks = [
            MeasurePart(
                layout=self.layout,
                key=self.keys[item.source],
                input=item,
                source=self.sources[item.source],
                ingest=self.ingest,
                language=self.language,
                minhash=self.minhash,
                rejects=self.rejects,
                filters=[plugin.path for plugin in self.filters],
                first_record=first_records.get(item, 0),
            )
            for item in self.inputs
        ]
        sizes = [item.bytes for item in self.inputs]
        values = executor.map_files(measure_part, tasks, sizes, Counter(progress, self.name, 0, len(tasks)))
        counts = tuple(PartCounts.from_json(value, "the counts of a part") for value in values)
        ledger, read = Ledger(), dict[str, StageCounts]()
        for item, entry in zip(self.inputs, counts, strict=True):
            part = Ledger.from_json(entry.ledger)
            ledger.add(part)
            for stages in part.sources.values():
                read.setdefault(item.source, StageCounts()).add(stages["read"])
        return Measured(
            layout=self.layout, inputs=self.inputs, keys=self.keys, counts=counts, ledger=ledger, read=read
        )

    def _first_records(self, executor: Executor, progress: Progress) -> dict[Input, int]:
        """How many records of its file lie before each range of a file that is read in several."""
        divided = {(item.source, item.file) for item in self.inputs if item.start}
        folders = {self.layout.folder("parts", self.keys[source]) for source, _ in divided}
        finished = {name_of(url) for folder in folders for url in files.list_files(folder)}
        unread = {(item.source, item.file) for item in self.inputs if f"{item.part}.json" not in finished}
        ranges = [item for item in self.inputs if (item.source, item.file) in divided & unread]
        if not ranges:
            return {}
        # No range needs the number of records in the last one of a file.
        counted = [item for item, after in pairwise(ranges) if after.start]
        tasks = [
            CountPart(
                input=item,
                source=self.sources[item.source],
                output=self.layout.work("records", self.keys[item.source], f"{item.part}.json"),
            )
            for item in counted
        ]
        counts = executor.run_tasks(count_part, tasks, Counter(progress, "count", 0, len(tasks)))
        records = dict(zip(counted, counts, strict=True))
        first: dict[Input, int] = {}
        below = 0
        for item in ranges:
            below = below if item.start else 0
            first[item] = below
            below += records.get(item, 0)
        return first


def count_part(task: CountPart) -> int:
    """The number of records of a part, as first_record of the parts after it adds them up."""
    found = RecordCount.found(task.output)
    if found is None:
        item = task.input
        records = ingest.count_records(item.file, task.source, item.start, item.stop)
        found = RecordCount(records=records)
        found.write(task.output)
    return found.records


def measure_part(task: MeasurePart) -> dict[str, Any]:
    """Measure one part and write its documents, attributes, rejects and counts.

    Returns the PartCounts as JSON; the same value lies in parts/<key>/<part>.json, written last, and is
    returned at once when it is already there.
    """
    done = task.url("parts", "json")
    finished = PartCounts.finished(done, task.output)
    if finished is not None and finished.fits(task):
        return finished.to_json()
    notes = _Notes(task)
    with files.together():
        _write_columns(task, notes)
    notes.ledger.check()
    cleaned = [stages["normalise"] for stages in notes.ledger.sources.values() if "normalise" in stages]
    counts = PartCounts(
        part=task.input.part,
        documents=sum(stage.documents_out for stage in cleaned),
        bytes=sum(stage.bytes_out for stage in cleaned),
        ledger=notes.ledger.to_json(),
        made=made(task.output, ("documents", "attributes", "rejects")),
    )
    counts.write(done)
    return counts.to_json()


def _write_columns(task: MeasurePart, notes: "_Notes") -> None:
    """Write the documents, attributes and rejects of one part."""
    with (
        files.atomic_writer(task.output("documents")) as documents_file,
        files.atomic_writer(task.output("attributes")) as attributes_file,
    ):
        documents = arrow.Writer(documents_file, task.output("documents"), DOCUMENTS, compression="zstd")
        attributes: seals.ParquetWriter | None = None
        url = task.output("attributes")
        place = (task.input.start, task.input.stop, task.first_record)
        for batch in ingest.read(task.input.file, task.source, task.ingest, *place):
            notes.count_rejects(batch)
            for table, measured in _measure_batch(batch, task, notes):
                documents.write(table)
                if attributes is None:
                    attributes = seals.ParquetWriter(attributes_file, url, measured.schema)
                attributes.write_table(measured)
                tick(measured.num_rows, pc.sum(measured["raw_bytes"]).as_py())
        if attributes is None:
            empty = _empty_attributes(task)
            attributes = seals.ParquetWriter(attributes_file, url, empty.schema)
            attributes.write_table(empty)
        attributes.close()
        documents.close()
    files.write_parquet(task.output("rejects"), pa.concat_tables(notes.rejects))


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
    batch: records.Batch, task: MeasurePart, notes: "_Notes"
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield (documents, attributes) of a batch, if it has documents with text."""
    documents = batch.documents
    if documents.num_rows == 0:
        return
    as_read: pa.LargeStringArray = documents["text"].combine_chunks()
    names = _names(documents["name"], task.source)
    text, changes = normalise.normalise(as_read)
    clean = _sizes(text)
    alive = clean > 0
    notes.count_documents(documents, names, _sizes(as_read), clean, changes)
    ids = np.zeros((len(as_read), 16), np.uint8)
    for name, mask in _by_source(names):
        hashed = hashing.hash128(as_read.filter(pa.array(mask)), name.encode() + b"\0")
        ids[mask] = hashing.id_bytes(hashed)
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
        "raw_bytes": pa.array(_sizes(as_read)[alive]),
        "text_hash": minhash.text_hash(text),
        "bands": pa.FixedSizeListArray.from_arrays(pa.array(bands.reshape(-1)), task.minhash.bands),
        "shingles": pa.array(shingles),
    }
    if task.language.enabled:
        columns["language"], scores = language.identify(text, task.language)
        columns["language_score"] = pa.array(scores)
    measured = quality.measure(text)
    columns.update(zip(measured.column_names, measured.columns, strict=True))
    columns.update(plugins.measure(text, task.filters))
    columns.update({name: pa.array(column[alive]) for name, column in changes.items() if name[:2] == "n_"})
    yield pa.table({**identity, "text": text}, schema=DOCUMENTS), pa.table(columns)


def _empty_attributes(task: MeasurePart) -> pa.Table:
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
    (_, measured), *_ = _measure_batch(batch, task, _Notes(task))
    return measured.slice(0, 0)


def _unescape(text: str) -> str:
    """Text without the escapes of JSON for ASCII; those of control characters become spaces."""
    return re.sub(
        r'\\(?:u00([0-7][0-9A-Fa-f])|[bfnrt]|(["/\\]))',
        lambda match: match[2] or (chr(max(32, int(match[1], 16))) if match[1] else " "),
        text,
    )


class _Notes:
    """What is counted and kept of a part while it is measured."""

    def __init__(self, task: MeasurePart) -> None:
        """Nothing is counted so far."""
        self.task = task
        self.ledger = Ledger()
        self.rejects: list[pa.Table] = [REJECTS.empty_table()]
        self._kept: dict[str, int] = {}

    def count_documents(
        self,
        documents: pa.Table,
        names: pa.DictionaryArray,
        raw: np.ndarray,
        clean: np.ndarray,
        changes: dict[str, np.ndarray],
    ) -> None:
        """Count what a batch was and became (`raw` and `clean`: bytes of texts), and keep empty ones."""
        record_bytes = documents["raw_bytes"].to_numpy()
        alive = clean > 0
        for name, mask in _by_source(names):
            count, size, framed = int(mask.sum()), int(raw[mask].sum()), int(record_bytes[mask].sum())
            read = self.ledger.stage(name, "read")
            read.documents_in += count
            read.bytes_in += framed
            read.change("record_syntax", size - framed)
            read.documents_out += count
            read.bytes_out += size
            cleaned = self.ledger.stage(name, "normalise")
            cleaned.documents_in += count
            cleaned.bytes_in += size
            for reason, column in changes.items():
                if reason.startswith("delta_"):
                    cleaned.change(reason.removeprefix("delta_"), int(column[mask].sum()))
            cleaned.drop("empty_text", int((mask & ~alive).sum()), 0)
            cleaned.documents_out += int((mask & alive).sum())
            cleaned.bytes_out += int(clean[mask].sum())
        if not alive.all():
            dead = pa.array(~alive)
            empty = documents.filter(dead)
            columns = {
                "source": names.cast(pa.string()).filter(dead),
                "file": pa.repeat(self.task.input.name, empty.num_rows),
                "record": empty["record"],
                "reason": pa.repeat("empty_text", empty.num_rows),
                "detail": pa.repeat("no text is left after cleaning", empty.num_rows),
                "bytes": pa.array(raw[~alive]),
                "sample": pc.utf8_slice_codeunits(empty["text"], 0, 40).cast(pa.string()),
            }
            self._keep(pa.table(columns, schema=REJECTS))

    def count_rejects(self, batch: records.Batch) -> None:
        """Count the bytes around the records of a batch, and its rejected records; keep some of these."""
        stage = self.ledger.stage(self.task.source.name, "read")
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
                "source": pa.repeat(self.task.source.name, rejects.num_rows),
                "file": pa.repeat(self.task.input.name, rejects.num_rows),
            }
        ).select(REJECTS.names)
        self._keep(table.cast(REJECTS))

    def _keep(self, table: pa.Table) -> None:
        """Keep the first rejects of each reason, with a short sample of their text, without personal data.

        Escapes of JSON, in which such data may hide, are undone in it.
        """
        for reason in pc.unique(table["reason"]).to_pylist():
            room = self.task.rejects.keep_rejects - self._kept.get(reason, 0)
            chosen = table.filter(pc.field("reason") == reason).slice(0, max(room, 0))
            self._kept[reason] = self._kept.get(reason, 0) + chosen.num_rows
            if chosen.num_rows:
                plain = [_unescape(sample) for sample in chosen["sample"].to_pylist()]
                text = pa.array(plain, pa.large_string())
                samples = redact.excerpts(text, self.task.rejects.reject_sample_characters, RedactConfig())
                place = REJECTS.get_field_index("sample")
                self.rejects.append(chosen.set_column(place, "sample", samples.cast(pa.string())))
