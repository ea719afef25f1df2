"""Clusters of duplicates: their sizes, the largest, and how similar near-duplicates are.

Where very many documents were dropped, it shows only a share of the clusters, chosen by their id.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from pipelines.corpus.report import parquet, pictures
from pipelines.corpus.report.excerpts import Documents, hexadecimal

CLUSTER_ROWS = 2_000_000
"""Dropped documents that are looked at, about."""
LARGEST = 15
"""Clusters that are shown one by one."""
_COLUMNS = ["part", "row", "source", "reason", "cluster", "kept_id", "kept_version", "similarity", "bytes"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A document that stays and those that were dropped for it."""

    documents: int
    bytes: int
    """Of the dropped documents."""
    source: str
    others: int
    """Sources besides `source`."""
    similarity: float | None
    """The lowest."""
    kept: str
    """Id of the document that stays."""
    version: str | None
    """The version that holds it, if it is another one."""
    text: str
    """The beginning of one that was dropped; empty where it is not at hand."""


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """All clusters, or those chosen."""

    one_in: int
    """1 if all are shown."""
    count: int
    documents: int
    bytes: int
    sizes: Markup
    similarities: Markup | None
    """None if there are no near-duplicates."""
    largest: list[Cluster]


def section(dropped: Iterable[str], documents: Documents) -> Clusters | None:
    """The clusters of the tables of dropped documents that have clusters."""
    footers = {url: parquet.footer(url) for url in dropped}
    urls = [url for url, (names, _) in footers.items() if "cluster" in names]
    rows = sum(footers[url][1] for url in urls)
    if not rows:
        return None
    one_in = -(-rows // CLUSTER_ROWS)
    members = chosen_members(urls, one_in)
    clusters = by_cluster(members)
    near = members.filter(pc.equal(members["reason"], "near_duplicate"))["similarity"].drop_null().to_numpy()
    title = "Jaccard similarity of near-duplicates"
    return Clusters(
        one_in=one_in,
        count=clusters.num_rows,
        documents=members.num_rows,
        bytes=pc.sum(members["bytes"]).as_py(),
        sizes=pictures.sizes(clusters["bytes_count"].to_numpy() + 1, "documents in a duplicate cluster"),
        similarities=pictures.histogram(near, float(near.min()), 1.0, title) if len(near) else None,
        largest=_largest(clusters, members, documents),
    )


def chosen_members(urls: list[str], one_in: int) -> pa.Table:
    """The dropped documents of one cluster in so many."""
    pieces = []
    for url in urls:
        for table in parquet.row_groups(url, _COLUMNS):
            keys = cluster_keys(table["cluster"].combine_chunks())
            chosen = table.filter(pa.array(keys % np.uint64(one_in) == 0))
            for name in ("part", "source", "reason", "kept_version"):
                position = chosen.schema.get_field_index(name)
                chosen = chosen.set_column(position, name, chosen[name].cast(pa.string()))
            pieces.append(chosen)
    return pa.concat_tables(pieces)


def by_cluster(members: pa.Table) -> pa.Table:
    """One row a cluster."""
    return members.group_by("cluster").aggregate(
        [
            ("bytes", "count"),
            ("bytes", "sum"),
            ("source", "count_distinct"),
            ("source", "min"),
            ("similarity", "min"),
            ("kept_id", "min"),
            ("kept_version", "min"),
        ]
    )


def cluster_keys(column: pa.Array) -> np.ndarray:
    """A uint64 for each value of a cluster column (whole numbers or fixed-size binary)."""
    if pa.types.is_integer(column.type):
        whole: np.ndarray = column.to_numpy(zero_copy_only=False).astype(np.uint64)
        return whole
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)
    rows = data[column.offset * width : (column.offset + len(column)) * width].reshape(-1, width)
    return np.ascontiguousarray(rows[:, -8:]).view(np.uint64).ravel()


def _largest(clusters: pa.Table, members: pa.Table, documents: Documents) -> list[Cluster]:
    """The clusters with most documents."""
    order = [("bytes_count", "descending"), ("bytes_sum", "descending"), ("kept_id_min", "ascending")]
    largest = clusters.sort_by(order).slice(0, LARGEST).to_pylist()
    texts = _texts([row["cluster"] for row in largest], members, documents)
    return [
        Cluster(
            documents=row["bytes_count"] + 1,
            bytes=row["bytes_sum"],
            source=row["source_min"],
            others=row["source_count_distinct"] - 1,
            similarity=row["similarity_min"],
            kept=hexadecimal(row["kept_id_min"]),
            version=row["kept_version_min"],
            text=text,
        )
        for row, text in zip(largest, texts, strict=True)
    ]


def _texts(clusters: list[Any], members: pa.Table, documents: Documents) -> list[str]:
    """The beginning of the first dropped document of each cluster; empty where it is not at hand."""
    mine = members.filter(pc.is_in(members["cluster"], pa.array(clusters, members["cluster"].type)))
    mine = mine.sort_by([("part", "ascending"), ("row", "ascending")])
    first: dict[Any, tuple[str, int]] = {}
    columns = (mine[name].to_pylist() for name in ("cluster", "part", "row"))
    for cluster, part, row in zip(*columns, strict=True):
        first.setdefault(cluster, (part, row))
    excerpts = documents.excerpts(list(first.values()))
    return [excerpts[first[name]].text if first[name] in excerpts else "" for name in clusters]
