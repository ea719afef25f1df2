"""A corpus joined with another: the next version of one, with the documents of the other that it lacks.

Both are compared by their dedup indexes, so that only texts of candidate pairs are read. The new shards are
those of the other corpus without the documents that this one holds already.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import files
from base import layout as paths
from base import manifest as manifests
from base.claims import Claim
from base.contents import InputEntry, ShardEntry, WrittenShard
from base.credentials import hide
from base.damage import sound
from base.errors import UserError
from base.layout import REPORT, Layout
from base.manifest import LedgerCounts, Manifest, MergedFrom, Version
from base.records import Mark, made
from dedup import hashing, runs
from dedup.catalog import read_summary
from pipelines.config import Config
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.stages.deduplicate import DedupOutcome, check_indexes, deduplicate
from pipelines.corpus.stages.indexes import entries_of_indexes
from pipelines.corpus.stages.order import shuffle_keys
from pipelines.corpus.stages.plan import Run, check_mixture
from pipelines.corpus.stages.shards import Output
from pipelines.corpus.versions.commit import (
    Join,
    all_contents,
    check_shards,
    common_manifest,
    digests,
    join_tables,
    write_contents,
)
from pipelines.corpus.versions.indexes import add_index
from pipelines.corpus.versions.verify import read_origins, read_shard
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress

DROPPED_FILES = 4
"""Tables of dropped documents that one task routes."""
DROPPED_ROWS = 65_536
"""Dropped documents of a partition, about, until there are 256 of them."""
STAGES = (("exact", "exact_duplicate"), ("fuzzy", "near_duplicate"))


def check(config: Config, parent: Version, other: Version) -> None:
    """Raise UserError if the documents of `other` cannot join the corpus of `parent`, in one sentence."""
    if other.hash == parent.hash:
        raise UserError(f"{other.url} is the newest version of this corpus itself")
    if not config.dedup.exact:
        raise UserError("dedup.exact = False, but a merge needs it to tell what both corpora hold")
    mine, theirs = parent.manifest.tokenizer, other.manifest.tokenizer
    for name in ("sha256", "end_of_document", "dtype"):
        here, there = getattr(mine, name), getattr(theirs, name)
        if here != there:
            raise UserError(
                f"the tokenizer of {other.url} has {name} {there}, but that of {parent.url} has "
                f"{here}: corpora can be merged only if they share a tokenizer"
            )
    check_indexes([*parent.indexes, *other.indexes], config.dedup)
    check_mixture(config, {*parent.manifest.sources, *other.manifest.sources})


def find(parent: Version, other: Version) -> Version | None:
    """The version among `parent` and its ancestors that was merged from `other`, if there is one."""
    for version in manifests.ancestry(parent):
        if version.manifest.merged and version.manifest.merged.manifest_hash == other.hash:
            return version
    return None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Which documents of the other corpus this one holds."""

    work: str
    names: dict[str, str]
    """New names of parts that have that of another documents file here."""
    entries: list[str]
    documents: dict[str, str]
    outcome: DedupOutcome


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Deduplicate the documents of `other` against those of `parent`, by the indexes of both."""

    name: ClassVar[str] = "merge"
    config: Config
    layout: Layout
    parent: Version
    other: Version

    @property
    def key(self) -> str:
        """What the outputs depend on."""
        return files.key_of(self.parent.hash, self.other.hash, self.config.dedup.model_dump(mode="json"))

    @property
    def work(self) -> str:
        """The folder of all work of the merge."""
        return self.layout.work(self.name, self.key)

    def run(self, executor: Executor, progress: Progress) -> Compared:
        """Make entries of the other corpus's indexes, and deduplicate them."""
        names = self._names()
        entries, documents = entries_of_indexes(
            self.other.indexes,
            files.join(self.work, "other"),
            executor=executor,
            progress=progress,
            names=names,
        )
        outcome = deduplicate(
            entries,
            documents,
            self.parent.indexes,
            work=files.join(self.work, "pairs"),
            config=self.config.dedup,
            executor=executor,
            progress=progress,
        )
        return Compared(work=self.work, names=names, entries=entries, documents=documents, outcome=outcome)

    def _names(self) -> dict[str, str]:
        """New names of parts that have that of another documents file here: one file cleaned in two ways."""
        mine, theirs = (
            {name: url for folder in of.indexes for name, url, _ in read_summary(folder).parts}
            for of in (self.parent, self.other)
        )
        return {name: files.key_of(name, url) for name, url in theirs.items() if mine.get(name, url) != url}


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """The shards of the other corpus without what this one holds."""

    shards: list[WrittenShard]
    dropped: list[str]
    """A table for each shard of the other corpus, of the documents that were left out."""
    ledger: Ledger


@dataclass(frozen=True, kw_only=True)
class FilterShards:
    """Write the shards of `other` that keep documents, in its order."""

    compared: Compared
    other: Version
    folder: str
    """The folder of the version."""
    claim: Claim
    """Who may write there."""
    facts: str | None = None
    """Folder for what is written of each shard; None: below the work of the merge."""
    only: frozenset[str] | None = None
    """Paths below the folder; shards of which neither file is among them are left out. None: none is."""

    def run(self, executor: Executor, progress: Progress) -> Filtered:
        """Route the dropped documents to the shards, and write the shards that are not written."""
        tasks = [
            task
            for task in self._tasks(executor)
            if self.only is None or {task.path, task.origins} & self.only
        ]
        values = executor.run_tasks(write_shard, tasks, Counter(progress, "shard", 0, len(tasks)))
        results = [FilteredShard.from_json(value, "a shard") for value in values]
        ledger = Ledger()
        for result in results:
            ledger.add(Ledger.from_json(result.ledger))
        return Filtered(
            shards=[result.line for result in results if result.line is not None],
            dropped=[task.facts_url("dropped.parquet") for task in tasks],
            ledger=ledger,
        )

    def _tasks(self, executor: Executor) -> list["FilterShard"]:
        """A task for each shard of the other corpus, in its order."""
        outcome = self.compared.outcome
        bits = min(8, (sum(outcome.counts.values()) // DROPPED_ROWS).bit_length())
        seed = self._seed()
        routes = [
            _Route(
                dropped=outcome.dropped[first : first + DROPPED_FILES],
                seed=seed,
                bits=bits,
                output=files.join(self.compared.work, "routed", f"{number:05d}.parquet"),
            )
            for number, first in enumerate(range(0, len(outcome.dropped), DROPPED_FILES))
        ]
        routed = executor.run_tasks(_route, routes)
        counts: dict[tuple[str, str], int] = {}
        tasks = []
        for shard in self.other.shards:
            group = shard.source, shard.split
            counts[group] = counts.get(group, -1) + 1
            tasks.append(
                FilterShard(
                    source=shard.source,
                    split=shard.split,
                    number=counts[group],
                    folder=self.folder,
                    facts=self.facts or files.join(self.compared.work, "shards"),
                    claim=self.claim,
                    versions=self.other.versions_url,
                    shard=shard,
                    names=self.compared.names,
                    dropped=routed,
                    seed=seed,
                    bits=bits,
                )
            )
        return tasks

    def _seed(self) -> int:
        """The seed by which the other corpus orders its documents."""
        with sound(self.other.manifest_url):
            return int(self.other.manifest.config["shard"]["seed"])


def merge(compare: Compare, name: str, run: Run) -> Version:
    """Compare, write the shards and commit the version of that name; the parent itself if nothing is new.

    Raises UserError for what a person can mend, LedgerError when counts disagree.
    """
    folder = compare.layout.version(name)
    compared = run(compare)
    filtered = run(FilterShards(compared=compared, other=compare.other, folder=folder, claim=run.claim))
    filtered.ledger.check()
    if not filtered.shards:
        return compare.parent
    manifest = write_files(
        compare, name, folder, compared, filtered, index_documents(compare, name, compared, run), run.claim
    )
    check_shards(folder, filtered.shards)
    run.claim.publish(compare.layout.manifest(name), manifest)
    return manifests.open_version(folder)


def index_documents(compare: Compare, name: str, compared: Compared, run: Run) -> list[str]:
    """Write the dedup index of the documents that a version adds; the indexes of the version."""
    return add_index(
        compared.entries,
        compared.documents,
        compared.outcome.dropped,
        config=compare.config,
        layout=compare.layout,
        parent=compare.parent,
        version=name,
        key=compare.key,
        run=run,
    )


def write_files(
    compare: Compare,
    name: str,
    folder: str,
    compared: Compared,
    filtered: Filtered,
    indexes: list[str],
    claim: Claim,
) -> Manifest:
    """Write the version's files besides shards and manifest into `folder`; returns the whole manifest."""
    from pipelines.corpus.report import page  # matplotlib takes half a second

    parent, other = compare.parent, compare.other
    tokenizer = parent.manifest.tokenizer
    claim.write(files.join(folder, tokenizer.file), files.read_bytes(parent.tokenizer_url))
    table = paths.dropped("duplicates")
    dropped = files.join(folder, table)
    join_tables(Join(dropped, filtered.dropped, claim))
    known = {item.part for item in parent.inputs}
    inputs: list[InputEntry] = []
    for item in other.inputs:
        part = compared.names.get(item.part, item.part)
        if part not in known:
            inputs.append(item.model_copy(update={"part": part}))
    contents = all_contents(parent, name, filtered.shards, inputs)
    manifest = common_manifest(
        compare.config,
        name=name,
        parent=parent,
        tokenizer=tokenizer,
        contents=contents,
        indexes=indexes,
        ledger=filtered.ledger,
    ).model_copy(
        update={
            "merged": MergedFrom(url=hide(other.url), version=other.name, manifest_hash=other.hash),
            "lines": parent.manifest.lines,
        }
    )
    tables = page.Tables(
        dropped={"duplicates": [dropped]},
        attributes=[],
        rejects=[],
        contamination=None,
        documents=compared.documents,
    )
    page.write_report(manifest, contents, tables, files.join(folder, REPORT), write=claim.write)
    made = digests(folder, [tokenizer.file, table, REPORT]) | write_contents(folder, contents, claim)
    return manifest.model_copy(update={"files": made})


@dataclass(frozen=True, kw_only=True)
class _Route:
    """Tables of dropped documents to route by the key by which the other corpus orders them."""

    dropped: list[str]
    seed: int
    bits: int
    output: str


def _route(task: _Route) -> str:
    """Write a run of dropped documents by the first bits of their shuffle key; returns its URL."""
    if not files.whole(task.output):
        table = pa.concat_tables([files.read_parquet(url) for url in task.dropped])
        for name in ("part", "source", "reason"):
            plain = table[name].cast(pa.string())
            table = table.set_column(table.schema.get_field_index(name), name, plain)
        table = table.combine_chunks().replace_schema_metadata()
        keys = shuffle_keys(table["document_id"], task.seed)
        runs.write_run(task.output, [(table, hashing.prefix(keys, task.bits))])
    return task.output


class FilteredShard(Mark):
    """What was written of a shard of the other corpus."""

    line: WrittenShard | None
    """None if no document is left; then there is no file."""
    ledger: LedgerCounts
    """What entered the merge from the shard, and what left it."""


@dataclass(frozen=True, kw_only=True)
class FilterShard(Output):
    """A shard of the other corpus, and the runs of documents to leave out of it."""

    versions: str
    shard: ShardEntry
    names: dict[str, str]
    dropped: list[str]
    seed: int
    bits: int


def write_shard(task: FilterShard) -> dict[str, Any]:
    """Write a shard and its origins without the dropped documents, and the table of these.

    Returns the FilteredShard as JSON.
    """
    done = FilteredShard.finished(task.facts_url(), task.facts_url)
    if done is not None and (done.line is None or task.holds(done.line)):
        return done.to_json()
    origins = read_origins(task.versions, task.shard)
    if task.names:
        renamed = pc.index_in(origins["part"], pa.array(list(task.names)))
        part = pc.coalesce(pa.array(list(task.names.values())).take(renamed), origins["part"])
        origins = origins.set_column(origins.schema.get_field_index("part"), "part", part)
    stays, dropped = _divide(task, origins)
    written = None
    if stays.any():
        kept = pa.array(stays)
        written = task.write(read_shard(task.versions, task.shard).filter(kept), origins.filter(kept))
    files.write_parquet(task.facts_url("dropped.parquet"), dropped)
    result = FilteredShard(
        line=written,
        ledger=_ledger(task.source, origins, dropped).to_json(),
        made=made(task.facts_url, ["dropped.parquet"]),
    )
    result.write(task.facts_url())
    return result.to_json()


def _divide(task: FilterShard, origins: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Which documents of a shard stay, and the table of the others with their bytes in the shard."""
    keys = hashing.prefix(shuffle_keys(origins["document_id"], task.seed), task.bits)
    dropped = runs.read_partitions(task.dropped, np.unique(keys).tolist())
    names = pc.unique(dropped["part"])
    places = []
    for table in (dropped, origins):
        number = pc.fill_null(pc.index_in(table["part"], names), len(names)).to_numpy().astype(np.uint64)
        places.append(number << np.uint64(32) | table["row"].to_numpy().astype(np.uint64))
    order = np.argsort(places[0], kind="stable")
    at = np.searchsorted(places[0], places[1], sorter=order)
    gone = at < len(order)
    gone[gone] = places[0][order[at[gone]]] == places[1][gone]
    table = dropped.take(pa.array(order[at[gone]]))
    size = origins["bytes"].filter(pa.array(gone))
    return ~gone, table.set_column(table.schema.get_field_index("bytes"), "bytes", size)


def _ledger(source: str, origins: pa.Table, dropped: pa.Table) -> Ledger:
    """What entered the merge from a shard, and what left it."""
    ledger = Ledger()
    documents, size = len(origins), pc.sum(origins["bytes"]).as_py() or 0
    for name, reason in (("read", None), *STAGES):
        stage = ledger.stage(source, name)
        stage.documents_in, stage.bytes_in = documents, size
        mine = dropped.filter(pc.equal(dropped["reason"], reason))
        stage.drop(str(reason), len(mine), pc.sum(mine["bytes"]).as_py() or 0)
        documents, size = documents - stage.documents_dropped, size - stage.bytes_dropped
        stage.documents_out, stage.bytes_out = documents, size
    return ledger
