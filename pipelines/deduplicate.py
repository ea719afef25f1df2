"""Deduplication on Ray: the phases of dedup/ as tasks that each write one file.

A task whose output is there is not run again, so a killed run continues where it was. Only URLs, numbers and
the catalog travel through Ray; hashes and pairs go through files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from base import files
from base.errors import UserError
from dedup import candidates, components, decide, exact, index, verify
from dedup.catalog import Catalog, open_catalog
from dedup.config import DedupConfig
from pipelines import cluster

Progress = Callable[[str, int, int], None]
"""(phase, tasks done, tasks in all)."""

ROUTE_ROWS = 500_000
"""Entries that one routing task reads, about."""
PARTITION_ROWS = 65_536
"""Entries for each prefix of a band, until `DedupConfig.partitions` is reached."""
TASK_ROWS = 1_000_000
"""Band hashes that one candidate task sorts, about."""
SHARE_ROWS = 100_000
"""Entries for each share of the verification and decision."""
MERGED = 8
"""Files that one step of the components merges."""


@dataclass(frozen=True)
class DedupOutcome:
    """What deduplication dropped, and its counts."""

    dropped: list[str]
    """Parquet files of dropped documents, each sorted by part and row."""
    counts: dict[str, int]
    """Dropped documents by reason."""
    bytes: dict[str, int]
    """Bytes of the dropped documents by reason."""
    cluster_sizes: dict[int, int]
    """Components of near-duplicates by their number of documents, old ones included."""
    candidates: int
    """Distinct pairs that agreed in a band."""
    edges: int
    """Candidates that reached the threshold; edges / candidates is the precision of the LSH."""


@dataclass(frozen=True)
class _Task:
    output: str
    function: Callable[..., None]
    catalog: ray.ObjectRef
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class _Runner:
    """Runs the tasks of a phase that have not been done yet."""

    work: str
    catalog: ray.ObjectRef
    workers: int
    progress: Progress

    def phase(self, name: str, function: Callable[..., None], arguments: list[tuple[Any, ...]]) -> list[str]:
        """One task `function(catalog, *arguments[i], output)` for each i; returns their outputs.

        The folder of the outputs is the phase's name below `work`.
        """
        folder = files.join(self.work, name)
        outputs = [files.join(folder, f"{i:05d}.parquet") for i in range(len(arguments))]
        done = {url.rsplit("/", 1)[-1] for url in files.list_files(folder)}
        tasks = [
            _Task(output, function, self.catalog, values)
            for output, values in zip(outputs, arguments, strict=True)
            if output.rsplit("/", 1)[-1] not in done
        ]
        finished = len(outputs) - len(tasks)
        count = cluster.counter(self.progress, f"dedup {name}", finished, len(outputs))
        cluster.run_tasks(_run, tasks, self.workers, count)
        return outputs


def _run(task: _Task) -> None:
    if not files.exists(task.output):
        task.function(ray.get(task.catalog), *task.arguments, task.output)


def deduplicate(
    entries: list[str],
    documents: dict[str, str],
    work: str,
    config: DedupConfig,
    indexes: list[str],
    progress: Progress,
    workers: int,
) -> DedupOutcome:
    """Find the duplicates among `entries` and with the documents of `indexes` (oldest first).

    entries: one parquet file a part: document_id, part, row, source, text_hash, rank, quality, length, bands,
    shingles. documents: the URL of each part's documents file. work: URL of a folder that belongs to these
    inputs and this configuration. At most `workers` tasks of one CPU run at a time; Ray must be initialised.

    Dropped tables: document_id, part, row, source, reason (exact_duplicate or near_duplicate), kept_id,
    kept_version (null: this build), similarity, cluster (the kept_id), bytes. kept_id names a document that
    stays; a near-duplicate's similarity with it is verified and at least `config.threshold`.
    Raises UserError if an index was made with other MinHash settings.
    """
    _check_indexes(indexes, config)
    catalog = open_catalog(entries, documents, indexes)
    total = _total(catalog)
    bits = _prefix_bits(total, config)
    shares = 1 + total // SHARE_ROWS
    groups = _route_groups(catalog)
    runner = _Runner(work, ray.put(catalog), workers, progress)

    exact_urls: list[str] = []
    near_urls: list[str] = []
    edge_urls: list[str] = []
    component_urls: list[str] = []
    if config.exact and groups:
        routed = runner.phase("exact-runs", exact.write_run, [(group, bits) for group in groups])
        exact_urls = runner.phase(
            "exact", exact.drop_duplicates, [(routed, [prefix], indexes) for prefix in range(1 << bits)]
        )
    if config.fuzzy and groups:
        routed = runner.phase(
            "band-runs", candidates.write_run, [(group, exact_urls, bits) for group in groups]
        )
        tasks = _partition_groups(config.minhash.bands << bits, total >> bits)
        pair_urls = runner.phase(
            "candidates", candidates.find, [(routed, task, bits, indexes, shares) for task in tasks]
        )
        edge_urls = runner.phase(
            "edges", verify.verify, [(pair_urls, [share], config) for share in range(shares)]
        )
        component_urls = _merge(runner, edge_urls)
        near_urls = runner.phase(
            "near",
            decide.decide,
            [(component_urls[0], share, shares, edge_urls, config) for share in range(shares)],
        )
    dropped = runner.phase(
        "dropped", decide.finish, [(exact_urls, near_urls, url) for url in [*exact_urls, *near_urls]]
    )
    counts, sizes = _count(dropped)
    metadata = [_metadata(url) for url in edge_urls]
    return DedupOutcome(
        dropped=dropped,
        counts=counts,
        bytes=sizes,
        cluster_sizes=_cluster_sizes(component_urls),
        candidates=sum(int(entry.metadata[b"candidates"]) for entry in metadata),
        edges=sum(entry.num_rows for entry in metadata),
    )


def write_index(
    entries: list[str],
    documents: dict[str, str],
    dropped: list[str],
    version: str,
    output: str,
    config: DedupConfig,
    workers: int,
    progress: Progress = lambda phase, done, total: None,
) -> None:
    """Write the index (dedup/index.py) of the entries that are in none of the `dropped` tables.

    dropped: parquet files with the columns part and row, of deduplication and of later stages. index.json is
    written last; an index that has it is left as it is.
    """
    if files.exists(files.join(output, "index.json")):
        return
    catalog = open_catalog(entries, documents, [])
    bits = _prefix_bits(_total(catalog), config)
    work = files.join(output, "work")
    runner = _Runner(work, ray.put(catalog), workers, progress)
    gone = runner.phase("gone", index.write_gone, [(dropped,)])
    groups = _route_groups(catalog)
    routed = runner.phase("band-runs", candidates.write_run, [(group, gone, bits) for group in groups])
    if groups:
        runner = _Runner(output, runner.catalog, workers, progress)
        runner.phase("texts", index.write_texts, [(gone,)])
        runner.phase("locations", index.write_locations, [(gone,)])
        arguments = [(routed, band, bits) for band in range(config.minhash.bands)]
        runner.phase("bands", index.write_band, arguments)
    files.remove(work)
    index.write_summary(catalog, version, config.minhash.model_dump(mode="json"), output)


def _check_indexes(indexes: list[str], config: DedupConfig) -> None:
    settings = config.minhash.model_dump(mode="json")
    for url in indexes:
        theirs = index.summary(url)["minhash"]
        for name, value in settings.items():
            if theirs[name] != value:
                raise UserError(
                    f"dedup.minhash.{name} = {value!r}, but the index {url} was made with {theirs[name]!r}"
                )


def _total(catalog: Catalog) -> int:
    return sum(part.rows for part in catalog.parts[: catalog.new])


def _prefix_bits(total: int, config: DedupConfig) -> int:
    """Bits of the prefix: no more partitions than configured, and none without work."""
    return min(config.partitions.bit_length() - 1, (total // PARTITION_ROWS).bit_length())


def _route_groups(catalog: Catalog) -> list[list[int]]:
    """Numbers of consecutive new parts, about ROUTE_ROWS entries a group."""
    ends = np.cumsum([part.rows for part in catalog.parts[: catalog.new]])
    groups: dict[int, list[int]] = {}
    for number, end in enumerate(ends.tolist()):
        groups.setdefault((end - 1) // ROUTE_ROWS, []).append(number)
    return list(groups.values())


def _partition_groups(partitions: int, rows: int) -> list[list[int]]:
    """Consecutive (band, prefix) partitions of `rows` rows each, about TASK_ROWS a group."""
    size = max(1, TASK_ROWS // max(rows, 1))
    return [list(range(first, min(first + size, partitions))) for first in range(0, partitions, size)]


def _merge(runner: _Runner, urls: list[str]) -> list[str]:
    """Merge the components of all edges, MERGED files at a time; returns one URL."""
    columns, level = ("left", "right"), 0
    while level == 0 or len(urls) > 1:
        batches = [urls[first : first + MERGED] for first in range(0, len(urls), MERGED)]
        arguments = [(batch, columns) for batch in batches]
        urls = runner.phase(f"components-{level}", components.merge, arguments)
        columns, level = ("ref", "component"), level + 1
    return urls


def _metadata(url: str) -> pq.FileMetaData:
    filesystem, path = files.split(url)
    with filesystem.open(path, "rb") as file:
        return pq.ParquetFile(file).metadata


def _count(dropped: list[str]) -> tuple[dict[str, int], dict[str, int]]:
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for url in dropped:
        table = files.read_parquet(url, ["reason", "bytes"])
        for reason in pc.unique(table["reason"]).to_pylist():
            rows = table.filter(pc.equal(table["reason"], reason))
            counts[reason] = counts.get(reason, 0) + len(rows)
            sizes[reason] = sizes.get(reason, 0) + (pc.sum(rows["bytes"]).as_py() or 0)
    return counts, sizes


def _cluster_sizes(urls: list[str]) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for url in urls:
        labels = files.read_parquet(url, ["component"])["component"].to_numpy()
        members = np.unique(labels, return_counts=True)[1]
        for size, count in zip(*np.unique(members, return_counts=True), strict=True):
            sizes[int(size)] = sizes.get(int(size), 0) + int(count)
    return sizes
