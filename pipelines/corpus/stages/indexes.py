"""Dedup indexes of corpus versions: written, joined, compared with each other (dedup/index.py)."""

from dataclasses import replace
from typing import Any

from base import files
from base.errors import UserError
from dedup import candidates, index
from dedup.catalog import (
    INDEX,
    Entries,
    IndexPart,
    IndexSummary,
    open_catalog,
    read_entries,
    read_summary,
)
from dedup.config import DedupConfig
from pipelines.corpus.stages.deduplicate import DedupOutcome, check_indexes, deduplicate
from pipelines.corpus.stages.phases import Phases, catalog_of, gone, prefix_bits, total_rows
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Progress, silent


def write_index(
    entries: list[Entries],
    documents: dict[str, str],
    dropped: list[str],
    *,
    version: str,
    output: str,
    config: DedupConfig,
    executor: Executor,
    progress: Progress = silent,
) -> None:
    """Write the index (dedup/index.py) of the entries that are in none of the `dropped` tables.

    dropped: parquet files with the columns part and row, of deduplication and of later stages. index.json is
    written last; an index that has it is left as it is.
    """
    if IndexSummary.found(files.join(output, INDEX)) is not None:
        return
    catalog = catalog_of(entries, documents, [])
    bits = prefix_bits(total_rows(catalog), config)
    groups = range(catalog.groups)
    if groups:
        work = files.join(output, "work")
        phases = Phases.of(catalog, work, executor=executor, progress=progress)
        left_out = gone(phases, dropped)
        arguments: list[tuple[Any, ...]] = [(group, left_out, bits) for group in groups]
        bands = phases.phase("band-runs", candidates.write_run, arguments)
        texts = phases.phase("text-runs", index.write_texts_run, arguments)
        phases = phases.below(output)
        phases.phase("texts", index.write_texts, [(texts, prefix) for prefix in range(1 << bits)])
        phases.phase("locations", index.write_locations, [(group, left_out) for group in groups])
        arguments = [(bands, partition) for partition in range(config.minhash.bands << bits)]
        phases.phase("bands", index.write_band, arguments)
        files.remove(work)
    parts = [IndexPart(part.name, part.documents, version) for part in catalog.parts]
    summary = IndexSummary(minhash=config.minhash, bits=bits, parts=parts, groups=catalog.group.tolist())
    IndexSummary.found_or_aside(files.join(output, INDEX))
    summary.create(files.join(output, INDEX))


def compact_indexes(
    indexes: list[str],
    output: str,
    *,
    executor: Executor,
    progress: Progress = silent,
) -> None:
    """Write one index that holds what `indexes` (oldest first, of the same settings) hold, without any text.

    Builds with it find the same duplicates and name the same versions. The old ones may then be deleted.
    Raises UserError if the indexes have different MinHash settings.
    """
    if IndexSummary.found(files.join(output, INDEX)) is not None:
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
        phases = Phases.of(catalog, output, executor=executor, progress=progress)
        phases.phase("texts", index.compact, [("texts", bits, prefix) for prefix in range(1 << bits)])
        phases.phase("bands", index.compact, [("bands", bits, place) for place in range(bands << bits)])
        known = [content for content in contents if content.parts]
        tables = [
            (number, files.join(catalog.indexes[number].url, "locations", f"{group:05d}.parquet"))
            for number, content in enumerate(known)
            for group in range(max(content.groups) + 1)
        ]
        phases.phase("locations", index.compact_locations, tables)
        for content in known:
            first = max(groups, default=-1) + 1
            groups += [first + group for group in content.groups]
    parts = [IndexPart(part.name, part.documents, str(part.version)) for part in catalog.parts]
    summary = IndexSummary(minhash=contents[0].minhash, bits=bits, parts=parts, groups=groups)
    IndexSummary.found_or_aside(files.join(output, INDEX))
    summary.create(files.join(output, INDEX))


def entries_of_indexes(
    indexes: list[str],
    work: str,
    *,
    executor: Executor,
    progress: Progress = silent,
    names: dict[str, str] | None = None,
) -> tuple[list[Entries], dict[str, str]]:
    """(entries, documents) of indexes (oldest first), as `deduplicate` takes them, without reading any text.

    names: other names for some of the parts. Routing writes a row group for each part and partition.
    """
    url = files.join(work, "index")
    compact_indexes(indexes, url, executor=executor, progress=progress)
    catalog = open_catalog([], {}, [url])
    if not catalog.parts:
        return [], {}
    parts = [replace(part, name=(names or {}).get(part.name, part.name)) for part in catalog.parts]
    catalog = replace(catalog, parts=parts)
    width = read_summary(url).minhash.bands
    (known,) = catalog.indexes
    phases = Phases.of(catalog, work, executor=executor, progress=progress)
    texts = phases.phase(
        "texts-by-part", index.route_by_part, [("texts", prefix) for prefix in range(1 << known.bits)]
    )
    bands = phases.phase(
        "bands-by-part", index.route_by_part, [("bands", place) for place in range(width << known.bits)]
    )
    arguments = [(number, texts, bands, width) for number in range(len(catalog.parts))]
    urls = phases.phase("entries", index.write_entries, arguments)
    entries = [Entries(*value) for value in executor.run_tasks(read_entries, urls)]
    return entries, {part.name: part.documents for part in catalog.parts}


def deduplicate_indexes(
    indexes: list[str],
    others: list[str],
    *,
    work: str,
    config: DedupConfig,
    executor: Executor,
    progress: Progress,
) -> DedupOutcome:
    """Which documents of one corpus, by its `indexes`, another one with the indexes `others` holds too.

    The outcome is that of `deduplicate`: kept documents are of the other corpus. Only texts of candidate
    pairs are read. Raises UserError if an index was made with other MinHash settings.
    """
    check_indexes([*indexes, *others], config)
    entries, documents = entries_of_indexes(
        indexes, files.join(work, "one"), executor=executor, progress=progress
    )
    return deduplicate(
        entries,
        documents,
        others,
        work=files.join(work, "pairs"),
        config=config,
        executor=executor,
        progress=progress,
    )
