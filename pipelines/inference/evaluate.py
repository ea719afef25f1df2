"""jobs.evaluate below the command line: held-out loss, perplexity and bits per byte of every source."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from base import files
from base.errors import UserError
from base.manifest import Version
from pipelines.config import Config
from pipelines.inference import trained
from pipelines.runtime import charts, tracking
from pipelines.runtime.cluster import Progress, counter, map_actors

UNIT_DOCUMENTS = 32
DOCUMENTS = pa.schema(
    [
        ("source", pa.string()),
        ("document_id", pa.binary(16)),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
        ("nats", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Unit:
    """A range of rows of a held-out shard, scored together."""

    source: str
    shard: str
    digest: str
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
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = trained.load(model, device)
        self.end = end_of_document_id
        self.batch = batch

    def __call__(self, unit: Unit) -> None:
        """Score one unit; its file is written last, so that a finished unit is never scored again."""
        from model.score import document_nats

        # Mapped, so that a unit costs its own documents and not the shard.
        path = files.local_path(unit.shard) or self.cache.fetch(unit.shard, unit.digest)
        with pa.memory_map(path) as mapped, pa.ipc.open_file(mapped) as reader:
            rows = reader.get_batch(0).slice(unit.first, unit.count)
        ids = rows.column("input_ids")
        offsets = ids.offsets.to_numpy()
        tokens = ids.values.to_numpy()[offsets[0] : offsets[-1]]
        length = self.model.config.max_sequence_length
        nats = document_nats(self.model, tokens, offsets, self.end, length, self.batch)
        sizes = files.read_parquet(unit.origins, ["bytes"])["bytes"].slice(unit.first, unit.count)
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


def evaluate(config: Config, version: Version, model: trained.Trained, progress: Progress) -> dict[str, Any]:
    """Score the held-out documents of every source and record the result.

    Returns {"sources": {name: measures}, "all": measures, "url": folder, "new": bool}, where measures are
    documents, tokens, bytes, loss (nats a token), perplexity and bits_per_byte. The model must know the
    corpus' tokens (trained.check_tokenizer). Raises UserError if nothing is held out.
    """
    settings = config.evaluate
    key = files.key_of(version.hash, trained.model_key(model), settings.model_dump(mode="json"))
    url = files.join(config.storage, "evaluation", f"{model.name}-{version.name}-{key[:8]}")
    done = files.join(url, "result.json")
    if files.exists(done):
        return {**files.read_json(done), "new": False}
    units = _units(version, settings.max_documents, url)
    if not units:
        raise UserError(f"corpus {version.name} has no held-out documents; raise shard.heldout_fraction")
    place = tracking.Tracking.of(config)
    tags = {"corpus": version.hash, "version": version.name, "model": model.name}
    tags |= tracking.upstream(place, "train", training_run=model.name)
    with tracking.run(place, "evaluate", key, tags) as run:
        run.params(settings.model_dump(mode="json"))
        missing = [unit for unit in units if not files.exists(unit.output)]
        arguments = {
            "model": model.url,
            "end_of_document_id": version.raw["tokenizer"]["end_of_document_id"],
            "batch": settings.micro_batch_size,
        }
        count = counter(progress, "evaluate", len(units) - len(missing), len(units))
        map_actors(Scorer, arguments, missing, config.ray.workers, count)
        table = pa.concat_tables([files.read_parquet(unit.output) for unit in units])
        files.write_parquet(files.join(url, "documents.parquet"), table)
        result = measures_by_source(table)
        picture = files.join(url, "evaluation.png")
        files.write_bytes(picture, charts.evaluation(result["sources"], f"{model.name} on {version.name}"))
        for name, values in [*result["sources"].items(), ("all", result["all"])]:
            run.metrics({f"{field}/{name}": value for field, value in values.items()})
        run.artifact(picture)
        run.artifact(files.join(url, "documents.parquet"))
        result["url"] = url
        files.write_json(done, result)
        run.artifact(done)
    return {**result, "new": True}


def measures_by_source(table: pa.Table) -> dict[str, Any]:
    """Loss (nats a token), perplexity and bits per byte of scored documents, by source and in all."""
    sums = table.group_by("source").aggregate(
        [("tokens", "sum"), ("bytes", "sum"), ("nats", "sum"), ("tokens", "count")]
    )
    rows = sums.sort_by("source").to_pylist()
    by_source = {
        row["source"]: measures(row["tokens_count"], row["tokens_sum"], row["bytes_sum"], row["nats_sum"])
        for row in rows
    }
    totals = [
        sum(row[name] for row in rows) for name in ("tokens_count", "tokens_sum", "bytes_sum", "nats_sum")
    ]
    return {"sources": by_source, "all": measures(*totals)}


def measures(documents: int, tokens: int, size: int, nats: float) -> dict[str, float]:
    """Loss in nats a token, perplexity exp(loss), and bits per byte of text nats / (bytes ln 2)."""
    loss = nats / tokens
    return {
        "documents": documents,
        "tokens": tokens,
        "bytes": size,
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": nats / (size * math.log(2)),
    }


def _units(version: Version, max_documents: int, url: str) -> list[Unit]:
    corpus = version.url.rsplit("/", 1)[0]
    units: list[Unit] = []
    taken: dict[str, int] = {}
    for line in version.raw["shards"]:
        if line["split"] != "heldout":
            continue
        source = line["source"]
        count = min(line["documents"], max_documents - taken.get(source, 0))
        taken[source] = taken.get(source, 0) + count
        name = line["path"].removesuffix(".arrow").replace("/", "_")
        for first in range(0, count, UNIT_DOCUMENTS):
            units.append(
                Unit(
                    source,
                    files.join(corpus, line["path"]),
                    line["digest"],
                    files.join(
                        corpus, line["path"].replace("/shards/", "/origins/").replace(".arrow", ".parquet")
                    ),
                    first,
                    min(UNIT_DOCUMENTS, count - first),
                    files.join(url, "units", f"{name}-{first:09d}.parquet"),
                )
            )
    return units
