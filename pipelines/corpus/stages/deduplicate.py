"""Deduplication on Ray: the phases of dedup/ as tasks that each write one file.

A task whose output is there is not run again, so a killed run continues where it was. Only URLs, numbers and
the catalog travel through Ray; hashes and pairs go through files.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from base import files
from base.errors import UserError
from dedup import candidates, components, decide, exact, index, lines, runs, spans, verify
from dedup.catalog import INDEX, Catalog, IndexPart, IndexSummary, open_catalog, read_summary
from dedup.config import DedupConfig
from pipelines.runtime import cluster
from pipelines.runtime.cluster import Progress

GROUP_ROWS = 250_000
"""Entries of a group of parts (dedup/catalog.py), about."""
PARTITION_ROWS = 1_000_000
"""Entries for each prefix of a band, about, until `DedupConfig.partitions` is reached."""
TASK_ROWS = 1_000_000
"""Band hashes that one candidate task sorts, about."""
FOREST_ROWS = 4_000_000
"""Edges that one union-find task holds, about."""
FINGERPRINTS = 32
"""Fingerprints of a document, about, at 50 tokens (dedup/spans.py)."""
GONE_FILES = 16
"""Tables of dropped documents that one task of the index reads."""


PHASES = (
    *("exact-runs", "exact", "band-runs", "candidates", "wanted", "sets", "edges"),
    *("forest", "members", "cluster-edges", "near", "kept-runs", "followed", "dropped"),
)
"""Phases of `deduplicate` in order, a folder of parquet files each; stars-N follow forest if needed.

The sets, about as large as the texts of candidates, are removed when all edges are there."""


@dataclass(frozen=True)
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

    def phase(
        self,
        name: str,
        function: Callable[..., None],
        arguments: list[tuple[Any, ...]],
        until: str | None = None,
    ) -> list[str]:
        """One task `function(catalog, *arguments[i], output)` for each i; returns their outputs.

        The folder of the outputs is the phase's name below `work`. until: the phase of as many tasks that
        alone reads the outputs; once it is finished nothing is run, and the outputs are not there.
        """
        folder = files.join(self.work, name)
        outputs = [files.join(folder, f"{i:05d}.parquet") for i in range(len(arguments))]
        done = self._names(folder)
        if until is not None and len(self._names(files.join(self.work, until))) == len(outputs):
            done = {url.rsplit("/", 1)[-1] for url in outputs}
        tasks = [
            _Task(output, function, self.catalog, values)
            for output, values in zip(outputs, arguments, strict=True)
            if output.rsplit("/", 1)[-1] not in done
        ]
        finished = len(outputs) - len(tasks)
        count = cluster.counter(self.progress, f"dedup {name}", finished, len(outputs))
        cluster.run_tasks(_run, tasks, self.workers, count)
        return outputs

    def _names(self, folder: str) -> set[str]:
        """Names of the files of a folder."""
        return {url.rsplit("/", 1)[-1] for url in files.list_files(folder)}


def _run(task: _Task) -> None:
    if not files.exists(task.output):
        task.function(ray.get(task.catalog), *task.arguments, task.output)
        # Arrow keeps what it freed: a worker would grow with the number of tasks that it has had.
        pa.default_memory_pool().release_unused()


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
    check_indexes(indexes, config)
    catalog = open_catalog(entries, documents, indexes, GROUP_ROWS)
    total = _total(catalog)
    bits = _prefix_bits(total, config)
    groups = range(catalog.groups)
    runner = _Runner(work, ray.put(catalog), workers, progress)

    exact_urls: list[str] = []
    near_urls: list[str] = []
    edge_urls: list[str] = []
    if config.exact and groups:
        routed = runner.phase("exact-runs", exact.write_run, [(group, bits) for group in groups])
        exact_urls = runner.phase(
            "exact", exact.drop_duplicates, [(routed, [prefix]) for prefix in range(1 << bits)]
        )
    if config.fuzzy and groups:
        routed = runner.phase(
            "band-runs", candidates.write_run, [(group, exact_urls, bits) for group in groups]
        )
        tasks = _partition_groups(config.minhash.bands << bits, total >> bits)
        pair_urls = runner.phase("candidates", candidates.find, [(routed, task, bits) for task in tasks])
        wanted = runner.phase("wanted", verify.write_wanted, [(pair_urls, group) for group in groups])
        sets = runner.phase(
            "sets", verify.write_sets, [(wanted, group, config) for group in groups], until="edges"
        )
        edge_urls = runner.phase(
            "edges", verify.verify, [(pair_urls, sets, group, config) for group in groups]
        )
        files.remove(files.join(work, "sets"))
        labels = _components(runner, edge_urls)
        members = runner.phase("members", components.write_members, [(labels, group) for group in groups])
        inside = runner.phase(
            "cluster-edges",
            components.write_edges,
            [(labels, edge_urls[group], group) for group in groups],
        )
        near_urls = runner.phase(
            "near", decide.decide, [(members, inside, share, config) for share in groups]
        )
    if exact_urls and near_urls:
        routed = runner.phase("kept-runs", exact.route_by_kept, [(url,) for url in exact_urls])
        exact_urls = runner.phase(
            "followed", exact.follow_kept, [(routed, near_urls, group) for group in groups]
        )
    dropped: list[str] = []
    if exact_urls or near_urls:
        dropped = runner.phase("dropped", decide.finish, [(exact_urls, near_urls, group) for group in groups])
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


def _components(runner: _Runner, edge_urls: list[str]) -> list[str]:
    """Runs by group for `components.labels`: of one union-find task, or of the last round of stars."""
    ends = np.cumsum([int(runs.read_metadata(url)["rows"]) for url in edge_urls])
    batches: dict[int, list[str]] = {}
    for url, end in zip(edge_urls, ends.tolist(), strict=True):
        batches.setdefault(max(end - 1, 0) // FOREST_ROWS, []).append(url)
    urls = runner.phase("forest", components.forest, [(batch,) for batch in batches.values()])
    if len(urls) == 1:
        return urls
    groups = range(len(edge_urls))
    urls = runner.phase("stars-0", components.small_star, [(urls, group) for group in groups])
    level, changed = 1, 1
    while changed:
        large = runner.phase(f"stars-{level}", components.large_star, [(urls, group) for group in groups])
        urls = runner.phase(f"stars-{level + 1}", components.small_star, [(large, group) for group in groups])
        changed = sum(int(runs.read_metadata(url)["changed"]) for url in [*large, *urls])
        level += 2
    return urls


def write_index(
    entries: list[str],
    documents: dict[str, str],
    dropped: list[str],
    version: str,
    output: str,
    config: DedupConfig,
    workers: int,
    progress: Progress = lambda *_: None,
) -> None:
    """Write the index (dedup/index.py) of the entries that are in none of the `dropped` tables.

    dropped: parquet files with the columns part and row, of deduplication and of later stages. index.json is
    written last; an index that has it is left as it is.
    """
    if files.exists(files.join(output, INDEX)):
        return
    catalog = open_catalog(entries, documents, [], GROUP_ROWS)
    bits = _prefix_bits(_total(catalog), config)
    groups = range(catalog.groups)
    if groups:
        work = files.join(output, "work")
        runner = _Runner(work, ray.put(catalog), workers, progress)
        gone = _gone(runner, dropped)
        arguments: list[tuple[Any, ...]] = [(group, gone, bits) for group in groups]
        bands = runner.phase("band-runs", candidates.write_run, arguments)
        texts = runner.phase("text-runs", index.write_texts_run, arguments)
        runner = _Runner(output, runner.catalog, workers, progress)
        runner.phase("texts", index.write_texts, [(texts, prefix) for prefix in range(1 << bits)])
        runner.phase("locations", index.write_locations, [(group, gone) for group in groups])
        arguments = [(bands, partition) for partition in range(config.minhash.bands << bits)]
        runner.phase("bands", index.write_band, arguments)
        files.remove(work)
    parts = [IndexPart(part.name, part.documents, version) for part in catalog.parts]
    summary = IndexSummary(minhash=config.minhash, bits=bits, parts=parts, groups=catalog.group.tolist())
    summary.write(files.join(output, INDEX))


def compact_indexes(
    indexes: list[str],
    output: str,
    workers: int,
    progress: Progress = lambda *_: None,
) -> None:
    """Write one index that holds what `indexes` (oldest first, of the same settings) hold, without any text.

    Builds with it find the same duplicates and name the same versions. The old ones may then be deleted.
    Raises UserError if the indexes have different MinHash settings.
    """
    if files.exists(files.join(output, INDEX)):
        return
    contents = [read_summary(url) for url in indexes]
    for url, content in zip(indexes, contents, strict=True):
        if content.minhash != contents[0].minhash:
            raise UserError(f"the indexes {indexes[0]} and {url} were made with different MinHash settings")
    catalog = open_catalog([], {}, indexes)
    bits = max((known.bits for known in catalog.indexes), default=0)
    bands = contents[0].minhash.bands
    groups: list[int] = []
    if catalog.parts:
        runner = _Runner(output, ray.put(catalog), workers, progress)
        runner.phase("texts", index.compact, [("texts", bits, prefix) for prefix in range(1 << bits)])
        runner.phase("bands", index.compact, [("bands", bits, place) for place in range(bands << bits)])
        known = [content for content in contents if content.parts]
        tables = [
            (number, files.join(catalog.indexes[number].url, "locations", f"{group:05d}.parquet"))
            for number, content in enumerate(known)
            for group in range(max(content.groups) + 1)
        ]
        runner.phase("locations", index.compact_locations, tables)
        for content in known:
            first = max(groups, default=-1) + 1
            groups += [first + group for group in content.groups]
    parts = [IndexPart(part.name, part.documents, str(part.version)) for part in catalog.parts]
    summary = IndexSummary(minhash=contents[0].minhash, bits=bits, parts=parts, groups=groups)
    summary.write(files.join(output, INDEX))


def entries_of_indexes(
    indexes: list[str],
    work: str,
    workers: int,
    progress: Progress = lambda *_: None,
    names: dict[str, str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """(entries, documents) of indexes (oldest first), as `deduplicate` takes them, without reading any text.

    names: other names for some of the parts. Routing writes a row group for each part and partition.
    """
    url = files.join(work, "index")
    compact_indexes(indexes, url, workers, progress)
    catalog = open_catalog([], {}, [url])
    if not catalog.parts:
        return [], {}
    parts = [replace(part, name=(names or {}).get(part.name, part.name)) for part in catalog.parts]
    catalog = replace(catalog, parts=parts)
    width = read_summary(url).minhash.bands
    (known,) = catalog.indexes
    runner = _Runner(work, ray.put(catalog), workers, progress)
    texts = runner.phase(
        "texts-by-part", index.route_by_part, [("texts", prefix) for prefix in range(1 << known.bits)]
    )
    bands = runner.phase(
        "bands-by-part", index.route_by_part, [("bands", place) for place in range(width << known.bits)]
    )
    arguments = [(number, texts, bands, width) for number in range(len(catalog.parts))]
    entries = runner.phase("entries", index.write_entries, arguments)
    return entries, {part.name: part.documents for part in catalog.parts}


def deduplicate_indexes(
    indexes: list[str],
    others: list[str],
    work: str,
    config: DedupConfig,
    progress: Progress,
    workers: int,
) -> DedupOutcome:
    """Which documents of one corpus, by its `indexes`, another one with the indexes `others` holds too.

    The outcome is that of `deduplicate`: kept documents are of the other corpus. Only texts of candidate
    pairs are read. Raises UserError if an index was made with other MinHash settings.
    """
    check_indexes([*indexes, *others], config)
    entries, documents = entries_of_indexes(indexes, files.join(work, "one"), workers, progress)
    return deduplicate(entries, documents, files.join(work, "pairs"), config, others, progress, workers)


def find_repeated_lines(
    entries: list[str],
    documents: dict[str, str],
    dropped: list[str],
    work: str,
    config: DedupConfig,
    progress: Progress,
    workers: int,
) -> list[str]:
    """Tables of the boilerplate lines of each source (`config.lines`); none if it is switched off.

    Lines of the documents in the `dropped` tables (columns part and row) do not count. Columns: key (what
    `dedup.lines.remove_lines` takes, after `dedup.lines.read_keys`), documents with the line, ref of one.
    """
    if config.lines.min_documents is None:
        return []
    catalog = open_catalog(entries, documents, [], GROUP_ROWS)
    bits = _prefix_bits(_total(catalog), config)
    runner = _Runner(work, ray.put(catalog), workers, progress)
    gone = _gone(runner, dropped)
    arguments = [(group, gone, bits, config.lines) for group in range(catalog.groups)]
    routed = runner.phase("line-runs", lines.write_run, arguments)
    if not routed:
        return []
    return runner.phase("lines", lines.find, [(routed, prefix, config.lines) for prefix in range(1 << bits)])


def find_repeated_spans(
    entries: list[str],
    documents: dict[str, str],
    dropped: list[str],
    work: str,
    config: DedupConfig,
    progress: Progress,
    workers: int,
) -> dict[str, tuple[str, int]]:
    """(table of repeated spans, number) of each part, for `dedup.spans.of_part`; none if it is switched off.

    Documents in the `dropped` tables (columns part and row) neither lose spans nor count. Columns, sorted:
    ref (number of the part << 32 | row in its documents file), start, end (bytes of the text).
    """
    if config.span_tokens is None:
        return {}
    catalog = open_catalog(entries, documents, [], GROUP_ROWS)
    bits = _prefix_bits(_total(catalog) * FINGERPRINTS, config)
    groups = range(catalog.groups)
    runner = _Runner(work, ray.put(catalog), workers, progress)
    gone = _gone(runner, dropped)
    tokens = config.span_tokens
    routed = runner.phase("span-runs", spans.write_run, [(group, gone, bits, tokens) for group in groups])
    if not routed:
        return {}
    pairs = runner.phase("span-pairs", spans.pair, [(routed, prefix) for prefix in range(1 << bits)])
    found = runner.phase("spans", spans.find, [(pairs, group, tokens) for group in groups])
    return {part.name: (found[catalog.group[number]], number) for number, part in enumerate(catalog.parts)}


def _gone(runner: _Runner, dropped: list[str]) -> list[str]:
    """Runs by group of the documents that tables of dropped documents name."""
    batches = [dropped[first : first + GONE_FILES] for first in range(0, len(dropped), GONE_FILES)]
    return runner.phase("gone", index.write_gone, [(batch,) for batch in batches])


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


def _total(catalog: Catalog) -> int:
    return sum(part.rows for part in catalog.parts[: catalog.new])


def _prefix_bits(total: int, config: DedupConfig) -> int:
    """Bits of the prefix: no more partitions than configured, and none without work."""
    return min(config.partitions.bit_length() - 1, (total // PARTITION_ROWS).bit_length())


def _partition_groups(partitions: int, rows: int) -> list[list[int]]:
    """Consecutive (band, prefix) partitions of `rows` rows each, about TASK_ROWS a group."""
    size = max(1, TASK_ROWS // max(rows, 1))
    return [list(range(first, min(first + size, partitions))) for first in range(0, partitions, size)]
