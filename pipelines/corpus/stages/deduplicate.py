"""Which documents of a build go as duplicates: the phases of dedup/ as tasks that each write one file."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import files
from base.errors import UserError
from base.layout import Layout
from dedup import candidates, components, decide, exact, runs, verify
from dedup.catalog import Catalog, Entries, read_summary
from dedup.config import DedupConfig
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.ledger import Stage as StageCounts
from pipelines.corpus.stages.decide import Decided, count_dropped
from pipelines.corpus.stages.measure import Measured
from pipelines.corpus.stages.phases import Phases, catalog_of, prefix_bits, total_rows
from pipelines.corpus.stages.stage import Stage, unkeyed
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Progress

TASK_ROWS = 1_000_000
"""Band hashes that one candidate task sorts, about."""
FOREST_ROWS = 4_000_000
"""Edges that one union-find task holds, about."""

PHASES = (
    *("exact-runs", "exact", "band-runs", "candidates", "wanted", "sets", "edges"),
    *("forest", "members", "cluster-edges", "near", "kept-runs", "followed", "dropped"),
)
"""Phases of `deduplicate` in order, a folder of parquet files each; stars-N follow forest if needed.

The sets, about as large as the texts of candidates, are removed when all edges are there."""


@dataclass(frozen=True, kw_only=True)
class DedupOutcome:
    """What deduplication dropped, and its counts."""

    dropped: list[str]
    """Parquet files of dropped documents, each sorted by part and row."""
    dropped_of: dict[str, str]
    """The one of them that holds the dropped documents of each part."""
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


@dataclass(frozen=True, kw_only=True)
class Deduplicated:
    """What the stage left: the dropped documents, and the counts of both steps."""

    key: str
    dropped: list[str]
    """Parquet files of dropped documents."""
    dropped_of: dict[str, str]
    """The one of them that holds the dropped documents of each part."""
    ledger: Ledger
    """Of the stages exact and fuzzy."""


@dataclass(frozen=True, kw_only=True)
class Deduplicate(Stage):
    """Drop exact and near duplicates of new documents among themselves and of those of earlier versions."""

    name: ClassVar[str] = "dedup"
    version: ClassVar[int] = 2
    layout: Layout = unkeyed()
    measured: Measured
    decided: Decided
    indexes: list[str] = unkeyed()
    """Dedup indexes of earlier versions, oldest first; `decided` depends on their version."""
    settings: DedupConfig
    """Without lines and spans."""
    until: str | None = unkeyed(default=None)
    """Phase to stop after; None: the last."""

    @property
    def work(self) -> str:
        """The folder of the phases."""
        return self.layout.work(self.name, self.key)

    def run(self, executor: Executor, progress: Progress) -> Deduplicated:
        """Run the phases; raises ReachedError after `until`."""
        outcome = deduplicate(
            self.decided.entries,
            self.measured.documents,
            self.indexes,
            work=self.work,
            config=self.settings,
            executor=executor,
            progress=progress,
            until=self.until,
        )
        ledger = Ledger()
        for url in outcome.dropped:
            table = files.read_parquet(url, ["source", "reason", "bytes"])
            reasons = table["reason"].cast(pa.string())
            for stage, reason in (("exact", "exact_duplicate"), ("fuzzy", "near_duplicate")):
                count_dropped(ledger, stage, table.filter(pc.equal(reasons, reason)))
        _let_in(ledger, self.decided.ledger)
        return Deduplicated(
            key=self.key, dropped=outcome.dropped, dropped_of=outcome.dropped_of, ledger=ledger
        )


def _let_in(ledger: Ledger, decided: Ledger) -> None:
    """Let into `exact` what the decision let out, and into `fuzzy` what `exact` did.

    So far each has let out what it dropped, below zero.
    """
    for source, before in decided.sources.items():
        counts = before["quality"]
        for name in ("exact", "fuzzy"):
            documents, size = counts.documents_out, counts.bytes_out
            counts = ledger.stage(source, name)
            counts.add(StageCounts(documents, size, documents_out=documents, bytes_out=size))


def deduplicate(
    entries: list[Entries],
    documents: dict[str, str],
    indexes: list[str],
    *,
    work: str,
    config: DedupConfig,
    executor: Executor,
    progress: Progress,
    until: str | None = None,
) -> DedupOutcome:
    """Find the duplicates among `entries` and with the documents of `indexes` (oldest first).

    entries: one parquet file a part: document_id, part, row, source, text_hash, rank, quality, length, bands,
    shingles. documents: the URL of each part's documents file. work: URL of a folder that belongs to these
    inputs and this configuration.

    Dropped tables: document_id, part, row, source, reason (exact_duplicate or near_duplicate), kept_id,
    kept_version (null: this build), similarity, cluster (the kept_id), bytes. kept_id names a document that
    stays; a near-duplicate's similarity with it is verified and at least `config.threshold`.
    Raises UserError if an index was made with other MinHash settings, ReachedError after the phase `until`.
    """
    check_indexes(indexes, config)
    catalog = catalog_of(entries, documents, indexes)
    phases = Phases.of(catalog, work, executor=executor, progress=progress, until=until)
    bits = prefix_bits(total_rows(catalog), config)
    groups = range(catalog.groups)
    exact_urls: list[str] = []
    near_urls: list[str] = []
    edge_urls: list[str] = []
    if config.exact and groups:
        routed = phases.phase("exact-runs", exact.write_run, [(group, bits) for group in groups])
        exact_urls = phases.phase(
            "exact", exact.drop_duplicates, [(routed, [prefix]) for prefix in range(1 << bits)]
        )
    if config.fuzzy and groups:
        edge_urls = _edges(phases, catalog, exact_urls, bits, config)
        near_urls = _near(phases, edge_urls, config)
    if exact_urls and near_urls:
        routed = phases.phase("kept-runs", exact.route_by_kept, [(url,) for url in exact_urls])
        exact_urls = phases.phase(
            "followed", exact.follow_kept, [(routed, near_urls, group) for group in groups]
        )
    dropped: list[str] = []
    if exact_urls or near_urls:
        dropped = phases.phase("dropped", decide.finish, [(exact_urls, near_urls, group) for group in groups])
    return _outcome(catalog, dropped, near_urls, edge_urls)


def _edges(
    phases: Phases, catalog: Catalog, exact_urls: list[str], bits: int, config: DedupConfig
) -> list[str]:
    """Tables by group of the pairs whose similarity reaches the threshold."""
    groups = range(catalog.groups)
    routed = phases.phase("band-runs", candidates.write_run, [(group, exact_urls, bits) for group in groups])
    tasks = _partition_groups(config.minhash.bands << bits, total_rows(catalog) >> bits)
    pair_urls = phases.phase("candidates", candidates.find, [(routed, task, bits) for task in tasks])
    wanted = phases.phase("wanted", verify.write_wanted, [(pair_urls, group) for group in groups])
    arguments = [(wanted, group, config) for group in groups]
    sets = phases.phase("sets", verify.write_sets, arguments, read_by="edges")
    edge_urls = phases.phase("edges", verify.verify, [(pair_urls, sets, group, config) for group in groups])
    files.remove(files.join(phases.work, "sets"))
    return edge_urls


def _near(phases: Phases, edge_urls: list[str], config: DedupConfig) -> list[str]:
    """Tables of near-duplicates by share of the components that the edges make."""
    groups = range(len(edge_urls))
    labels = _components(phases, edge_urls)
    members = phases.phase("members", components.write_members, [(labels, group) for group in groups])
    arguments = [(labels, edge_urls[group], group) for group in groups]
    inside = phases.phase("cluster-edges", components.write_edges, arguments)
    return phases.phase("near", decide.decide, [(members, inside, share, config) for share in groups])


def _outcome(
    catalog: Catalog, dropped: list[str], near_urls: list[str], edge_urls: list[str]
) -> DedupOutcome:
    """The outcome, with the counts that the tasks left in the metadata of their tables."""
    counts: dict[str, list[int]] = {}
    for url in dropped:
        for reason, numbers in json.loads(runs.read_metadata(url)["counts"]).items():
            before = counts.get(reason, [0, 0])
            counts[reason] = [before[0] + numbers[0], before[1] + numbers[1]]
    sizes: dict[int, int] = {}
    for url in near_urls:
        for size, number in json.loads(runs.read_metadata(url)["sizes"]).items():
            sizes[int(size)] = sizes.get(int(size), 0) + number
    metadata = [runs.read_metadata(url) for url in edge_urls]
    new_parts = catalog.parts[: catalog.new] if dropped else []
    return DedupOutcome(
        dropped=dropped,
        dropped_of={part.name: dropped[catalog.group[number]] for number, part in enumerate(new_parts)},
        counts={reason: numbers[0] for reason, numbers in counts.items()},
        bytes={reason: numbers[1] for reason, numbers in counts.items()},
        cluster_sizes=dict(sorted(sizes.items())),
        candidates=sum(int(entry["candidates"]) for entry in metadata),
        edges=sum(int(entry["rows"]) for entry in metadata),
    )


def _components(phases: Phases, edge_urls: list[str]) -> list[str]:
    """Runs by group for `components.labels`: of one union-find task, or of the last round of stars."""
    ends = np.cumsum([int(runs.read_metadata(url)["rows"]) for url in edge_urls])
    batches: dict[int, list[str]] = {}
    for url, end in zip(edge_urls, ends.tolist(), strict=True):
        batches.setdefault(max(end - 1, 0) // FOREST_ROWS, []).append(url)
    urls = phases.phase("forest", components.forest, [(batch,) for batch in batches.values()])
    if len(urls) == 1:
        return urls
    groups = range(len(edge_urls))
    urls = phases.phase("stars-0", components.small_star, [(urls, group) for group in groups])
    level, changed = 1, 1
    while changed:
        large = phases.phase(f"stars-{level}", components.large_star, [(urls, group) for group in groups])
        urls = phases.phase(f"stars-{level + 1}", components.small_star, [(large, group) for group in groups])
        changed = sum(int(runs.read_metadata(url)["changed"]) for url in [*large, *urls])
        level += 2
    return urls


def check_indexes(indexes: list[str], config: DedupConfig) -> None:
    """Raise UserError if an index is not there or was made with other MinHash settings."""
    settings = config.minhash.model_dump(mode="json")
    for url in indexes:
        theirs = read_summary(url).minhash.model_dump(mode="json")
        for name, value in settings.items():
            if theirs[name] != value:
                raise UserError(
                    f"dedup.minhash.{name} = {value!r}, but the index {url} was made with {theirs[name]!r}"
                )


def _partition_groups(partitions: int, rows: int) -> list[list[int]]:
    """Consecutive (band, prefix) partitions of `rows` rows each, about TASK_ROWS a group."""
    size = max(1, TASK_ROWS // max(rows, 1))
    return [list(range(first, min(first + size, partitions))) for first in range(0, partitions, size)]
