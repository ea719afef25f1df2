"""What was found of benchmarks in the text."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from base import files
from pipelines.corpus.report.excerpts import Documents
from pipelines.corpus.report.numbers import percentage

MAX_ITEMS = 200
"""Benchmark items that are shown."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What was found of one benchmark."""

    name: str
    items: int
    items_found: int
    share: float
    """Of all items, in per cent."""
    documents: int
    """Documents dropped or cut."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A benchmark item that was found."""

    benchmark: str
    item: int
    documents: int
    share: float
    """Most of the n-grams of one passage that a document holds, in per cent."""
    removed: bool
    place: str
    """Where most of it is."""


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """What was found of each benchmark."""

    benchmarks: list[Benchmark]
    count: int
    """Of all items found."""
    items: list[Item]


def section(
    benchmarks: dict[str, dict[str, int]], hits_url: str | None, documents: Documents
) -> Contamination | None:
    """What was found of each benchmark, and the items found; the table of hits is as shard.HITS says."""
    if not benchmarks or hits_url is None:
        return None
    found = by_item(files.read_parquet(hits_url))
    return Contamination(
        benchmarks=[
            Benchmark(name=name, share=percentage(counts["items_found"], counts["items"]), **counts)
            for name, counts in benchmarks.items()
        ],
        count=found.num_rows,
        items=[
            Item(
                benchmark=row["benchmark"],
                item=row["item"],
                documents=row["documents"],
                share=row["share_first"],
                removed=row["removed_any"],
                place=(
                    f"{row['source_first']}: {documents.origin(row['part_first'])}, "
                    f"document {row['row_first']}"
                ),
            )
            for row in found.slice(0, MAX_ITEMS).to_pylist()
        ],
    )


def by_item(hits: pa.Table) -> pa.Table:
    """One row a benchmark item, in order: how many documents have it, and where most of it is."""
    share = pc.divide(hits["ngrams"].cast(pa.float64()), hits["passage_ngrams"].cast(pa.float64()))
    hits = hits.append_column("share", pc.multiply(share, 100.0))
    item = [("benchmark", "ascending"), ("item", "ascending")]
    hits = hits.sort_by([*item, ("share", "descending"), ("part", "ascending"), ("row", "ascending")])
    keys = [name for name, _ in item]
    documents = hits.group_by([*keys, "part", "row"]).aggregate([])
    counts = documents.group_by(keys).aggregate([([], "count_all")]).sort_by(item)
    first = [(name, "first") for name in ("share", "source", "part", "row")]
    found = hits.group_by(keys, use_threads=False).aggregate([*first, ("removed", "any")]).sort_by(item)
    return found.append_column("documents", counts["count_all"])
