"""The shards of a version: each holds a range of the keys of one source and split, in order."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from base import files
from base.claims import Claim
from base.contents import WrittenShard
from base.layout import Layout
from pipelines.corpus.settings import ShardConfig
from pipelines.corpus.stages.order import SPLITS
from pipelines.corpus.stages.route import (
    Chunks,
    Group,
    PartRuns,
    documents_of,
    routes_of,
    share,
    write_route,
)
from pipelines.corpus.stages.stage import Stage, unkeyed
from pipelines.corpus.stages.survivors import edited_documents
from pipelines.corpus.stages.tokenize import Tokenized, tokenizer_of
from pipelines.corpus.stages.vocabulary import Vocabulary
from pipelines.corpus.text.tokenizer import SpecialTokens
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress

VERIFY_BYTES, VERIFY_SHARE = 2**17, 1 / 200
"""Text of a shard that is encoded by `tokenizers` too, at about 2 MB a second."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """A shard and its origins below the folder of a version, and their facts in a folder of work."""

    source: str
    split: str
    number: int
    folder: str
    facts: str
    claim: Claim
    """Who may write below the folder."""

    @property
    def path(self) -> str:
        """Path below the version's folder."""
        return f"shards/{self.source}/{self.split}-{self.number:05d}.arrow"

    @property
    def origins(self) -> str:
        """Path of the origins below the version's folder."""
        return f"origins/{self.source}/{self.split}-{self.number:05d}.parquet"

    def facts_url(self, suffix: str = "json") -> str:
        """A file of the task in the folder of facts."""
        return files.join(self.facts, f"{self.source}.{self.split}-{self.number:05d}.{suffix}")

    def holds(self, written: WrittenShard) -> bool:
        """Whether shard and origins are there as they were written."""
        url, origins_url = files.join(self.folder, self.path), files.join(self.folder, self.origins)
        try:
            return (files.digest(url), files.digest(origins_url)) == (written.digest, written.origins_digest)
        except FileNotFoundError:
            return False

    def write(self, shard: pa.Table, origins: pa.Table) -> WrittenShard:
        """Write the shard (of one chunk) and its origins."""
        url, origins_url = files.join(self.folder, self.path), files.join(self.folder, self.origins)
        with files.together():
            with self.claim.writer(url) as stream, pa.ipc.new_file(stream, shard.schema) as writer:
                if shard.num_rows:
                    writer.write_batch(shard.to_batches()[0])
            with self.claim.writer(origins_url) as stream:
                pq.write_table(origins, stream, compression="zstd")
        return WrittenShard(
            path=self.path,
            source=self.source,
            split=self.split,
            documents=shard.num_rows,
            tokens=int(pc.sum(pc.list_value_length(shard["input_ids"])).as_py() or 0),
            text_bytes=int(pc.sum(origins["bytes"]).as_py() or 0),
            bytes=files.size(url),
            digest=files.digest(url),
            origins_digest=files.digest(origins_url),
        )


@dataclass(frozen=True, kw_only=True)
class MergeRuns(Output):
    """What merging one shard needs: where its documents are, and its share of the keys."""

    group: Group
    tokenizer: str
    end_of_document: str
    special_tokens: SpecialTokens
    verify_documents: int


def write_shard(task: MergeRuns) -> dict[str, Any]:
    """Write one shard and its origins; returns the WrittenShard as JSON.

    Raises RuntimeError when a checked document's ids differ from those of `tokenizers`.
    """
    done = WrittenShard.found(task.facts_url())
    # A build with another configuration may have been killed in the same version's folder.
    if done is not None and done.path == task.path and task.holds(done):
        return done.to_json()
    table = documents_of(task.group, task.number)
    _verify(task, table)
    columns = ["document_id", "record", "row", "bytes", "file", "part"]
    written = task.write(table.select(["input_ids", "document_id"]), table.select(columns))
    written.write(task.facts_url())
    return written.to_json()


def _verify(task: MergeRuns, table: pa.Table) -> None:
    """Compare the first documents of the shard with `tokenizers`: one, or as much as is allowed above."""
    sizes = np.cumsum(table["bytes"].to_numpy())
    most = min(VERIFY_BYTES, VERIFY_SHARE * sizes[-1]) if len(sizes) else 0
    count = min(len(sizes), task.verify_documents, max(int(np.searchsorted(sizes, most, "right")), 1))
    if not count:
        return
    tokenizer = tokenizer_of(
        task.tokenizer, task.end_of_document, task.special_tokens, files.digest(task.tokenizer)
    )
    chunks = pc.unique(table["chunk"].slice(0, count)).to_pylist()
    survivors = {item.part: item for item in task.group.survivors(chunks)}
    parts = table["part"].slice(0, count).to_numpy()
    rows = table["row"].slice(0, count).to_numpy()
    for part in np.unique(parts).tolist():
        positions = np.flatnonzero(parts == part)
        positions = positions[np.argsort(rows[positions], kind="stable")]
        columns = {"row": rows[positions], "source": pa.repeat(task.source, len(positions))}
        first = 0
        for chosen, _, edited in edited_documents(survivors[part], pa.table(columns)):
            taken = positions[first : first + chosen.num_rows]
            tokenizer.verify(edited.texts, table["input_ids"].take(pa.array(taken)))
            first += chosen.num_rows


@dataclass(frozen=True, kw_only=True)
class WriteShards(Stage):
    """Merge the runs of all parts into the shards of a version."""

    name: ClassVar[str] = "shards"
    version: ClassVar[int] = 1
    layout: Layout = unkeyed()
    tokenized: Tokenized
    vocabulary: Vocabulary
    settings: ShardConfig
    verify_documents: int = unkeyed()
    """Documents of each shard whose ids are compared with those of `tokenizers`."""
    folder: str = unkeyed()
    """The folder of the version."""
    claim: Claim = unkeyed()
    """Who may write there."""
    facts: str | None = unkeyed(default=None)
    """Folder for what is written of each shard; None: one that its content names."""
    only: frozenset[str] | None = unkeyed(default=None)
    """Paths below the folder; shards of which neither file is among them are left out. None: none is."""

    def run(self, executor: Executor, progress: Progress) -> list[WrittenShard]:
        """Write the shards that are not written, by source, split and number."""
        groups = self.groups(share(self._parts(), executor))
        tasks = [task for group in groups for task in self._tasks(group)]
        if self.only is not None:
            tasks = [task for task in tasks if {task.path, task.origins} & self.only]
        routes = routes_of((task.group, task.number) for task in tasks)
        executor.run_tasks(write_route, routes, Counter(progress, "route", 0, len(routes)))
        values = executor.run_tasks(write_shard, tasks, Counter(progress, "shard", 0, len(tasks)))
        return [WrittenShard.from_json(value, "a shard") for value in values]

    @property
    def _facts(self) -> str:
        return self.facts or self.layout.work(self.name, self.key)

    def _parts(self) -> list[PartRuns]:
        """What each part holds, in order of part."""
        parts = zip(self.tokenized.tasks, self.tokenized.counts, strict=True)
        return [
            PartRuns(
                survivors=task.survivors,
                tokens=task.url("arrow"),
                ranges=tuple(item for ranges in counts.runs for item in ranges),
            )
            for task, counts in sorted(parts, key=lambda pair: pair[0].survivors.part)
        ]

    def groups(self, chunks: Chunks) -> list[Group]:
        """Every source and split; about `target_tokens` tokens a shard, and no more shards than documents."""
        return [
            Group(
                source=source,
                split=split,
                count=max(1, min(round(held.tokens / self.settings.target_tokens), held.documents)),
                chunks=tuple(sorted(held.chunks)),
                most=max(held.chunks.values()),
                runs=held.runs,
                parts=chunks.parts,
                folder=files.join(self._facts, "routes"),
            )
            for (source, split), held in sorted(
                chunks.held.items(), key=lambda item: (item[0][0], SPLITS.index(item[0][1]))
            )
        ]

    def _tasks(self, group: Group) -> list[MergeRuns]:
        """A task for each shard of a source and split."""
        return [
            MergeRuns(
                source=group.source,
                split=group.split,
                number=number,
                folder=self.folder,
                facts=self._facts,
                claim=self.claim,
                group=group,
                tokenizer=self.vocabulary.url,
                end_of_document=self.vocabulary.facts.end_of_document,
                special_tokens=self.vocabulary.special_tokens,
                verify_documents=self.verify_documents,
            )
            for number in range(group.count)
        ]
