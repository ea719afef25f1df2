"""How long documents are: bytes as cleaned, and tokens in the version."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from base import arrow, files
from base.contents import ShardEntry
from pipelines.corpus.report import pictures
from pipelines.corpus.report.bysource import PICTURED
from pipelines.corpus.report.numbers import short_bytes, short_count
from pipelines.corpus.report.parquet import SAMPLE_ROWS


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Histograms of lengths by source."""

    pictures: list[Markup]
    documents: int | None
    """Documents whose bytes were looked at."""
    largest: int | None
    """How many of the largest sources are shown, where that is not all."""


def section(
    sample: pa.Table | None, shards: list[ShardEntry], versions_url: str, names: list[str]
) -> Lengths | None:
    """Lengths of the documents in a sample and in shards; `names` begin with the largest source."""
    found = []
    if sample is not None:
        size = bytes_by_source(sample, names[:PICTURED])
        found.append(pictures.ridges(size, "bytes in a document, after cleaning", short_bytes))
    tokens = tokens_by_source(shards, versions_url)
    if tokens:
        ordered = {name: tokens[name] for name in names if name in tokens} | tokens
        shown = dict(list(ordered.items())[:PICTURED])
        found.append(pictures.ridges(shown, "tokens in a document of the version", short_count))
    if not found:
        return None
    return Lengths(
        pictures=found,
        documents=None if sample is None else sample.num_rows,
        largest=PICTURED if len({shard.source for shard in shards}) > PICTURED else None,
    )


def bytes_by_source(sample: pa.Table, names: list[str]) -> dict[str, np.ndarray]:
    """Bytes of each document of some sources."""
    return {name: sample.filter(pc.equal(sample["source"], name))["bytes"].to_numpy() for name in names}


def tokens_by_source(shards: list[ShardEntry], versions_url: str) -> dict[str, np.ndarray]:
    """Tokens in each document of the first training shard of every source; shards are shuffled."""
    counts: dict[str, np.ndarray] = {}
    for shard in shards:
        url = files.join(versions_url, shard.path)
        if shard.split != "train" or shard.source in counts or not files.exists(url):
            continue
        [reader] = arrow.open_columns(url, ["input_ids"])
        lists = [reader.get_batch(i).column("input_ids") for i in range(reader.num_record_batches)]
        lengths = [np.diff(column.offsets.to_numpy()) for column in lists]
        counts[shard.source] = np.concatenate([np.zeros(0, np.int64), *lengths])[:SAMPLE_ROWS]
    return counts
