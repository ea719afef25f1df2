"""Lineage of a training run: the documents of a step, and the steps of a document."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from base import files, manifest
from base.contents import ShardEntry
from base.damage import damaged
from base.errors import UserError
from base.layout import Layout
from base.manifest import Version
from model import batches, checkpoint, journal
from model.corpus import Corpus
from model.lineage import Span
from model.loader import Loader
from model.run import RUN, RunDescription


class RunSamples:
    """The samples of a training run that has begun."""

    def __init__(self, storage: str, name: str) -> None:
        """Read what the run trains on; raises UserError if there is no such run, or its corpus is gone."""
        self.name = name
        url = Layout(storage).run(name)
        if not files.exists(files.join(url, RUN)):
            raise UserError(f"{url} is not a training run: it has no {RUN}")
        described = RunDescription.read(files.join(url, RUN))
        data = described.data
        by_hash = {version.hash: version for version in manifest.versions(storage)}
        self.version = by_hash.get(data.manifest_hash) or manifest.open_version(described.manifest_url)
        url_now = self.version.manifest_url
        if self.version.hash != data.manifest_hash:
            raise UserError(f"run {name} was trained on another corpus version than {url_now} is now")
        self.loader = Loader(
            Corpus.open(url_now, verify=described.verify_shards),
            data.sequence_length,
            seed=data.seed,
            weights=described.mixture,
            skip_damaged=described.damaged_shards == "skip",
        )
        self.batch = data.global_batch_size, data.batch_warmup
        records = journal.read(url)
        self.steps = max([record.step for record in records] + checkpoint.steps(url), default=0)
        """Steps that the run has taken, as far as its journal tells."""
        self.undone: dict[int, str] = {}
        """Of the steps that the weights hold nothing of, by 1-based step: why."""
        for record in records:
            if record.tokens != batches.first_sample(*self.batch, record.step) * data.sequence_length:
                place = files.join(url, journal.NAME)
                raise damaged(place, f"it has {record.tokens} tokens at step {record.step}")
            if record.rollback is not None:
                back, step = record.rollback.step, record.step
                reason = f"rolled back: step {step} went back to the weights of step {back}"
                self.undone = dict.fromkeys(range(back + 1, step + 1), reason) | self.undone
            if record.skipped:
                self.undone[record.step] = f"skipped: {record.reason}"


def documents_of_step(run: RunSamples, step: int) -> pa.Table:
    """The documents of every sequence of a 1-based step, in the order of the batch.

    Columns: sequence (in the global batch), sample (global number), position (of the span's first token in
    the sequence), document_id (32 hex digits), source, first and stop (range of the document's tokens), file
    and record (its origin). `run.undone` tells whether the step left anything in the weights. Raises
    UserError for a step that the run has not taken.
    """
    if not 1 <= step <= run.steps:
        raise UserError(f"run {run.name} has taken steps 1 to {run.steps}, not step {step}")
    begin, end = (batches.first_sample(*run.batch, number) for number in (step - 1, step))
    rows = [
        _row(sample, sample - begin, span)
        for sample in range(begin, end)
        for span in run.loader.trace(sample)
    ]
    return _with_origins(run.version, pa.Table.from_pylist(rows))


def steps_of_document(run: RunSamples, document: str) -> pa.Table:
    """Every sequence of the steps taken so far that held tokens of a document (32 hex digits).

    Columns as in `documents_of_step`, step (1-based) and undone (why the weights hold nothing of that step,
    else null); no rows when the run has not seen it. Only the shards of those sequences are opened. Raises
    UserError for what is no document of the run's corpus, or one that is held out.
    """
    try:
        identifier = bytes.fromhex(document)
    except ValueError:
        identifier = b""
    if len(identifier) != 16:
        raise UserError(f"document {document!r} is not an id of 32 hexadecimal digits")
    manifest_url, shards = run.version.manifest_url, run.version.shards
    places = _places(run.version, identifier)
    if not places:
        raise UserError(f"{manifest_url} holds no document {document.lower()}; see jobs.explain")
    seen = [(number, row) for number, row in places if shards[number].split == "train"]
    if not seen:
        path = shards[places[0][0]].path
        raise UserError(f"document {document.lower()} is held out of training ({path})")
    rows = []
    for number, row in seen:
        for sample in run.loader.samples_of(number, row, batches.first_sample(*run.batch, run.steps)):
            step = batches.step_of(*run.batch, sample)
            place = {"step": step + 1, "undone": run.undone.get(step + 1)}
            sequence = sample - batches.first_sample(*run.batch, step)
            rows += [
                place | _row(sample, sequence, span)
                for span in run.loader.trace(sample)
                if (span.shard, span.row) == (shards[number].path, row)
            ]
    rows.sort(key=lambda row: (row["sample"], row["position"]))
    return (
        _with_origins(run.version, pa.Table.from_pylist(rows))
        if rows
        else pa.table({"step": pa.array([], pa.int64())})
    )


def _row(sample: int, sequence: int, span: Span) -> dict[str, Any]:
    """A span of a sample as a row of a table."""
    return {
        "sequence": sequence,
        "sample": sample,
        "position": span.position,
        "document_id": span.document_id.hex(),
        "source": span.source,
        "first": span.first,
        "stop": span.stop,
        "shard": span.shard,
        "row": span.row,
    }


def _places(version: Version, identifier: bytes) -> list[tuple[int, int]]:
    """Position in the manifest of each shard that holds a document, and its row; a merge may keep two.

    Reads the ids in the tables of origins, 16 bytes a document, and no shard.
    """
    wanted = pa.scalar(identifier, pa.binary(16))
    found = []
    for number, shard in enumerate(version.shards):
        if shard.documents:
            identifiers = _origins(version, shard, ["document_id"])["document_id"]
            row = pc.index(identifiers, wanted.cast(identifiers.type)).as_py()
            if row >= 0:
                found.append((number, row))
    return found


def _origins(version: Version, shard: ShardEntry, columns: list[str]) -> pa.Table:
    """Columns of a shard's table of origins; raises UserError if it is damaged or not there."""
    url = version.below_versions(shard.origins)
    try:
        files.check_digest(url, shard.origins_digest)
        table = files.read_parquet(url, columns)
    except FileNotFoundError:
        raise UserError(f"origins {url} of shard {shard.path} do not exist") from None
    if table.num_rows != shard.documents:
        raise damaged(url, f"it has {table.num_rows} documents, its shard {shard.documents}")
    return table


def _with_origins(version: Version, spans: pa.Table) -> pa.Table:
    """`spans` with the columns file and record in place of shard and row."""
    shards, rows = spans["shard"].to_pylist(), spans["row"].to_pylist()
    found: dict[tuple[str, int], tuple[str, int]] = {}
    entries = {shard.path: shard for shard in version.shards}
    for shard in dict.fromkeys(shards):
        wanted = sorted({row for name, row in zip(shards, rows, strict=True) if name == shard})
        origins = _origins(version, entries[shard], ["file", "record"]).take(pa.array(wanted))
        values = zip(origins["file"].to_pylist(), origins["record"].to_pylist(), strict=True)
        found |= {(shard, row): value for row, value in zip(wanted, values, strict=True)}
    places = [found[place] for place in zip(shards, rows, strict=True)]
    spans = spans.drop_columns(["shard", "row"])
    spans = spans.append_column("file", pa.array([file for file, _ in places], pa.string()))
    return spans.append_column("record", pa.array([record for _, record in places], pa.int64()))
