"""A corpus joined with another: the next version of one, with the documents of the other that it lacks.

Both are compared by their dedup indexes, so that only texts of candidate pairs are read. The new shards are
those of the other corpus without the documents that this one holds already.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import files
from base import manifest as manifests
from base.errors import UserError
from base.manifest import Version
from dedup import hashing, runs
from dedup.catalog import read_summary
from pipelines.config import Config
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.report import page as report
from pipelines.corpus.stages import shard
from pipelines.corpus.stages.deduplicate import check_indexes, deduplicate, entries_of_indexes
from pipelines.corpus.versions import commit
from pipelines.corpus.versions.verify import read_origins, read_shard, sibling
from pipelines.runtime.cluster import Progress, counter, run_tasks

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
    mine, theirs = parent.raw["tokenizer"], other.raw["tokenizer"]
    for name in ("sha256", "end_of_document", "dtype"):
        if mine[name] != theirs[name]:
            raise UserError(
                f"the tokenizer of {other.url} has {name} {theirs[name]}, but that of {parent.url} has "
                f"{mine[name]}: corpora can be merged only if they share a tokenizer"
            )
    check_indexes([*manifests.indexes(parent), *manifests.indexes(other)], config.dedup)
    commit.check_mixture(config, {*parent.raw["sources"], *other.raw["sources"]})


def find(parent: Version, other: Version) -> Version | None:
    """The version among `parent` and its ancestors that was merged from `other`, if there is one."""
    for version in manifests.ancestry(parent):
        if version.raw.get("merged", {}).get("manifest_hash") == other.hash:
            return version
    return None


class Merge:
    """One merge of the documents of `other` into the corpus of `parent`."""

    def __init__(
        self,
        config: Config,
        parent: Version,
        other: Version,
        progress: Progress,
        version: str | None = None,
    ) -> None:
        """Plan the merge as `version`, by default the next one; nothing is written before `run`."""
        self.config = config
        self.parent = parent
        self.other = other
        self.progress = progress
        self.corpus = manifests.corpus_url(config.storage)
        self.version = version or manifests.next_name(config.storage)
        self.folder = files.join(self.corpus, "versions", self.version)
        self.key = files.key_of(parent.hash, other.hash, config.dedup.model_dump(mode="json"))
        self.ledger = Ledger()

    def run(self) -> Version:
        """Compare, write the shards and commit the version; the parent itself if nothing is new.

        Raises UserError for what a person can mend, LedgerError when counts disagree.
        """
        self.select()
        lines = self.write_shards(self.plan_shards())
        self.ledger.check()
        if not lines:
            return self.parent
        self.write_index()
        files.write_json(files.join(self.folder, "manifest.json"), self.write_files(lines))
        return manifests.open_version(self.folder)

    def work(self, *parts: str) -> str:
        """A URL below the work folder of this merge."""
        return files.join(self.corpus, "work", "merge", self.key, *parts)

    def select(self) -> None:
        """Find the documents of the other corpus that this one holds."""
        self.names = self._names()
        workers = self.config.ray.workers
        self.entries, self.documents = entries_of_indexes(
            manifests.indexes(self.other), self.work("other"), workers, self.progress, self.names
        )
        self.dropped = deduplicate(
            self.entries,
            self.documents,
            self.work("pairs"),
            self.config.dedup,
            manifests.indexes(self.parent),
            self.progress,
            workers,
        )

    def _names(self) -> dict[str, str]:
        """New names of parts that have that of another documents file here: one file cleaned in two ways."""
        mine, theirs = (
            {name: url for folder in manifests.indexes(of) for name, url, _ in read_summary(folder).parts}
            for of in (self.parent, self.other)
        )
        return {name: files.key_of(name, url) for name, url in theirs.items() if mine.get(name, url) != url}

    def plan_shards(self) -> list["Filter"]:
        """A task for each shard of the other corpus, in its order."""
        total = sum(self.dropped.counts.values())
        bits = min(8, (total // DROPPED_ROWS).bit_length())
        seed = self.other.raw["config"]["shard"]["seed"]
        batches = [
            self.dropped.dropped[first : first + DROPPED_FILES]
            for first in range(0, len(self.dropped.dropped), DROPPED_FILES)
        ]
        routes = [
            _Route(batch, seed, bits, self.work("routed", f"{number:05d}.parquet"))
            for number, batch in enumerate(batches)
        ]
        routed = run_tasks(_route, routes, self.config.ray.workers)
        counts: dict[tuple[str, str], int] = {}
        tasks = []
        for line in self.other.raw["shards"]:
            group = line["source"], line["split"]
            counts[group] = counts.get(group, -1) + 1
            tasks.append(
                Filter(
                    *group,
                    counts[group],
                    folder=self.folder,
                    facts=self.work("shards"),
                    versions=sibling(self.other, ""),
                    line=line,
                    names=self.names,
                    dropped=routed,
                    seed=seed,
                    bits=bits,
                )
            )
        return tasks

    def write_shards(self, tasks: list["Filter"]) -> list[dict[str, Any]]:
        """Write shards that keep documents; returns their lines of the manifest, paths below versions/."""
        count = counter(self.progress, "shard", 0, len(tasks))
        results = run_tasks(write_shard, tasks, self.config.ray.workers, count)
        for result in results:
            self.ledger.add(Ledger.from_json(result["ledger"]))
        self.dropped_of_shards = [task.facts_url("dropped.parquet") for task in tasks]
        return [
            {**line, "path": f"{self.version}/{line['path']}", "version": self.version}
            for result in results
            if (line := result["line"]) is not None
        ]

    def write_index(self) -> None:
        """Write the dedup index of the documents that this version adds."""
        self.index_paths = commit.add_index(
            self.config,
            self.parent,
            self.version,
            self.key,
            self.entries,
            self.documents,
            self.dropped.dropped,
            self.progress,
        )

    def write_files(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Write the version's files besides shards and manifest; returns the manifest."""
        tokenizer = self.parent.raw["tokenizer"]
        content = files.read_bytes(files.join(self.parent.url, tokenizer["file"]))
        files.write_bytes(files.join(self.folder, tokenizer["file"]), content)
        dropped = files.join(self.folder, "dropped/duplicates.parquet")
        commit.join_tables(commit.Join(dropped, self.dropped_of_shards))
        inputs = [
            {**item, "part": self.names.get(item["part"], item["part"])} for item in self.other.raw["inputs"]
        ]
        known = {item["part"] for item in self.parent.raw["inputs"]}
        manifest = {
            **commit.manifest(
                self.config,
                self.version,
                self.parent,
                tokenizer,
                lines,
                self.index_paths,
                [item for item in inputs if item["part"] not in known],
                self.ledger,
            ),
            "merged": {"url": self.other.url, "version": self.other.name, "manifest_hash": self.other.hash},
            "lines": self.parent.raw["lines"],
        }
        tables = report.Tables({"duplicates": [dropped]}, [], [], None, self.documents)
        report.write_report(manifest, tables, files.join(self.folder, "report.html"))
        written = (tokenizer["file"], "dropped/duplicates.parquet", "report.html")
        manifest["files"] = {path: files.digest(files.join(self.folder, path)) for path in written}
        return manifest


@dataclass(frozen=True)
class _Route:
    """Tables of dropped documents to route by the key by which the other corpus orders them."""

    dropped: list[str]
    seed: int
    bits: int
    output: str


def _route(task: _Route) -> str:
    """Write a run of dropped documents by the first bits of their shuffle key; returns its URL."""
    if not files.exists(task.output):
        table = pa.concat_tables([files.read_parquet(url) for url in task.dropped])
        for name in ("part", "source", "reason"):
            plain = table[name].cast(pa.string())
            table = table.set_column(table.schema.get_field_index(name), name, plain)
        table = table.combine_chunks().replace_schema_metadata()
        keys = shard.shuffle_keys(table["document_id"], task.seed)
        runs.write_run(task.output, [(table, hashing.prefix(keys, task.bits))])
    return task.output


@dataclass(frozen=True)
class Filter(shard.Output):
    """A shard of the other corpus, and the runs of documents to leave out of it."""

    versions: str
    line: dict[str, Any]
    names: dict[str, str]
    dropped: list[str]
    seed: int
    bits: int


def write_shard(task: Filter) -> dict[str, Any]:
    """Write a shard and its origins without the dropped documents, and the table of these.

    Returns its `line` of the manifest, None if no document is left (then there is no file), and its `ledger`.
    """
    if files.exists(task.facts_url()):
        done: dict[str, Any] = files.read_json(task.facts_url())
        if done["line"] is None or task.holds(done["line"]):
            return done
    origins = read_origins(task.versions, task.line)
    if task.names:
        renamed = pc.index_in(origins["part"], pa.array(list(task.names)))
        part = pc.coalesce(pa.array(list(task.names.values())).take(renamed), origins["part"])
        origins = origins.set_column(origins.schema.get_field_index("part"), "part", part)
    stays, dropped = _divide(task, origins)
    line = None
    if stays.any():
        kept = pa.array(stays)
        line = task.write(read_shard(task.versions, task.line).filter(kept), origins.filter(kept))
    files.write_parquet(task.facts_url("dropped.parquet"), dropped)
    facts = {"line": line, "ledger": _ledger(task.source, origins, dropped).to_json()}
    files.write_json(task.facts_url(), facts)
    return facts


def _divide(task: Filter, origins: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Which documents of a shard stay, and the table of the others with their bytes in the shard."""
    keys = hashing.prefix(shard.shuffle_keys(origins["document_id"], task.seed), task.bits)
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
