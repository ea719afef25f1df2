"""jobs.evaluate below the command line: held-out loss, perplexity and bits per byte of every source."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from base import arrow, claims, files
from base.claims import Claim
from base.damage import damaged
from base.errors import UserError
from base.layout import RESULT, Layout
from base.manifest import Version
from base.records import Record
from pipelines.config import Config
from pipelines.inference import models
from pipelines.inference.models import ModelFolder
from pipelines.runtime import tracking
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress, watched

UNIT_DOCUMENTS = 32
log = logging.getLogger("piledriver.evaluate")
DOCUMENTS = pa.schema(
    [
        ("source", pa.string()),
        ("document_id", pa.binary(16)),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
        ("nats", pa.float64()),
    ]
)


class Measures(Record):
    """How well a model predicts some documents."""

    documents: int
    tokens: int
    bytes: int
    """Of the documents' texts."""
    loss: float
    """Nats a token."""
    perplexity: float
    """exp(loss)."""
    bits_per_byte: float
    """Nats / (bytes ln 2)."""


class EvaluationResult(Record):
    """What an evaluation found."""

    sources: dict[str, Measures]
    all: Measures
    """Of all sources together."""
    url: str
    """The evaluation's folder."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A range of rows of a held-out shard, scored together."""

    source: str
    shard: str
    digest: str
    bytes: int
    """Of the shard."""
    origins: str
    first: int
    count: int
    output: str


class Scorer:
    """A Ray Data actor that holds the model and scores units into parquet files."""

    def __init__(self, model: str, end_of_document_id: int, batch: int) -> None:
        """Load the model once."""
        import torch

        from model.shard_cache import ShardCache

        self.cache = ShardCache()
        self.checked: set[str] = set()
        """Shards that have the digest of their manifest."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = models.load(model, device)
        self.end = end_of_document_id
        self.batch = batch

    def __call__(self, unit: Unit) -> None:
        """Score one unit; its file is written last, so that a finished unit is never scored again."""
        from model.score import document_nats

        # Mapped, so that a unit costs its own documents and not the shard.
        path = files.local_path(unit.shard) or self.cache.fetch(unit.shard, unit.digest, unit.bytes)
        if path not in self.checked and files.digest(path) != unit.digest:
            raise damaged(unit.shard, "its digest is not the one in the manifest")
        self.checked.add(path)
        rows = arrow.open_file(path).get_rows(0, unit.first, unit.count)
        ids = rows.column("input_ids")
        offsets = ids.offsets.to_numpy()
        tokens = ids.values.to_numpy()[offsets[0] : offsets[-1]]
        if len(tokens) and int(tokens.max()) >= self.model.padded_vocab_size:
            raise damaged(unit.shard, f"the model has no token {tokens.max()}")
        length = self.model.config.max_sequence_length
        nats = document_nats(self.model, tokens, offsets, self.end, length, self.batch)
        sizes = files.read_parquet(unit.origins, ["bytes"])["bytes"].slice(unit.first, unit.count)
        if len(sizes) != unit.count:
            raise damaged(unit.origins, "it has fewer documents than its shard")
        scored = pa.table(
            {
                "source": pa.repeat(unit.source, unit.count),
                "document_id": rows.column("document_id"),
                "tokens": np.diff(offsets),
                "bytes": sizes,
                "nats": nats,
            },
            schema=DOCUMENTS,
        )
        files.write_parquet(unit.output, scored)


def evaluate(
    config: Config,
    version: Version,
    model: ModelFolder,
    progress: Progress,
    *,
    executor: Executor,
    tell: Callable[[str], None] = log.warning,
) -> tuple[EvaluationResult, bool]:
    """Score the held-out documents of every source and record the result.

    Returns it, and whether it was found now. The model must know the corpus' tokens (models.check_tokenizer).
    tell: gets a sentence about whom this command waits for. Raises UserError if nothing is held out, or
    another command evaluates the same.
    """
    settings = config.evaluate
    key = files.key_of(version.hash, models.model_key(model), settings.model_dump(mode="json"))
    url = Layout(config.storage).evaluation(f"{model.name}-{version.name}-{key[:8]}")
    done = files.join(url, RESULT)
    units = _units(version, settings.max_documents, url)
    if not units:
        raise UserError(f"corpus {version.name} has no held-out documents; raise shard.heldout_fraction")
    with claims.held(url, "jobs.evaluate", config.claims, tell=tell) as claim:
        finished = EvaluationResult.found_or_aside(done)
        if finished is not None:
            return finished.model_copy(update={"url": url}), False
        progress = watched(progress, claim.check, config.claims.stale_seconds / claims.BEATS)
        return _evaluate(config, version, model, units, key, url, claim, progress, executor), True


def _evaluate(
    config: Config,
    version: Version,
    model: ModelFolder,
    units: list[Unit],
    key: str,
    url: str,
    claim: Claim,
    progress: Progress,
    executor: Executor,
) -> EvaluationResult:
    """Score the units into the folder `url`."""
    settings = config.evaluate
    place = tracking.Tracking.of(config)
    tags = {"corpus": version.hash, "version": version.name, "model": model.name}
    tags |= tracking.upstream(place, "train", training_run=model.name)
    with tracking.run(place, "evaluate", key, tags) as run:
        run.params(settings.model_dump(mode="json"))
        missing = [unit for unit in units if not files.whole(unit.output)]
        arguments = {
            "model": model.url,
            "end_of_document_id": version.manifest.tokenizer.end_of_document_id,
            "batch": settings.micro_batch_size,
        }
        count = Counter(progress, "evaluate", len(units) - len(missing), len(units))
        executor.map_actors(Scorer, arguments, missing, count)
        table = pa.concat_tables([files.read_parquet(unit.output) for unit in units])
        documents = files.join(url, "documents.parquet")
        with claim.writer(documents) as file:
            pq.write_table(table, file, compression="zstd")
        result = _result(table, url)
        picture = files.join(url, "evaluation.png")
        claim.write(picture, _picture(result, f"{model.name} on {version.name}"))
        for name, measures in [*result.sources.items(), ("all", result.all)]:
            run.metrics({f"{field}/{name}": value for field, value in measures.to_json().items()})
        run.artifact(picture)
        run.artifact(documents)
        done = files.join(url, RESULT)
        claim.publish(done, result)
        run.artifact(done)
    return result


def _result(table: pa.Table, url: str) -> EvaluationResult:
    """The measures of scored documents, by source and in all."""
    names = ("tokens_count", "tokens_sum", "bytes_sum", "nats_sum")
    sums = table.group_by("source").aggregate(
        [("tokens", "sum"), ("bytes", "sum"), ("nats", "sum"), ("tokens", "count")]
    )
    rows = sums.sort_by("source").to_pylist()
    return EvaluationResult(
        sources={row["source"]: _measures(*(row[name] for name in names)) for row in rows},
        all=_measures(*(sum(row[name] for row in rows) for name in names)),
        url=url,
    )


def _measures(documents: int, tokens: int, size: int, nats: float) -> Measures:
    loss = nats / tokens
    return Measures(
        documents=documents,
        tokens=tokens,
        bytes=size,
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=nats / (size * math.log(2)),
    )


def _picture(result: EvaluationResult, title: str) -> bytes:
    from pipelines.runtime import charts  # matplotlib takes half a second

    density = {name: measures.bits_per_byte for name, measures in result.sources.items()}
    perplexity = {name: measures.perplexity for name, measures in result.sources.items()}
    return charts.evaluation(density, perplexity, title)


def _units(version: Version, max_documents: int, url: str) -> list[Unit]:
    units: list[Unit] = []
    taken: dict[str, int] = {}
    for shard in version.shards:
        if shard.split != "heldout":
            continue
        count = min(shard.documents, max_documents - taken.get(shard.source, 0))
        taken[shard.source] = taken.get(shard.source, 0) + count
        name = shard.path.removesuffix(".arrow").replace("/", "_")
        units += [
            Unit(
                source=shard.source,
                shard=version.below_versions(shard.path),
                digest=shard.digest,
                bytes=shard.bytes,
                origins=version.below_versions(shard.origins),
                first=first,
                count=min(UNIT_DOCUMENTS, count - first),
                output=files.join(url, "units", f"{name}-{first:09d}.parquet"),
            )
            for first in range(0, count, UNIT_DOCUMENTS)
        ]
    return units
