"""The runs of all parts as shards: each holds a range of the keys of one source and split, in order."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from base import arrow, files
from base.claims import Claim
from base.contents import WrittenShard
from base.layout import Layout
from dedup import hashing
from pipelines.corpus.settings import ShardConfig
from pipelines.corpus.stages.order import SPLITS, in_order
from pipelines.corpus.stages.stage import Stage, unkeyed
from pipelines.corpus.stages.survivors import Survivors, edited_documents
from pipelines.corpus.stages.tokenize import Tokenized, tokenizer_of
from pipelines.corpus.stages.vocabulary import Vocabulary
from pipelines.corpus.text.tokenizer import SpecialTokens
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress

VERIFY_BYTES, VERIFY_SHARE = 2**17, 1 / 200
"""Text of a shard that is encoded by `tokenizers` too, at about 2 MB a second."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The documents of one source and split in one run of a part: [start, start + documents)."""

    survivors: Survivors
    tokens: str
    number: int
    start: int
    documents: int


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
    """What merging one shard needs: the runs that hold its source and split, and its share of the keys."""

    count: int
    runs: list[Run]
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
    pieces, origins = [], []
    low = task.number * 2**64 // task.count
    high = (task.number + 1) * 2**64 // task.count - 1
    for run in task.runs:
        piece = _run_slice(run, low, high)
        pieces.append(piece)
        origins.append(
            pa.table(
                {
                    "file": pa.repeat(run.survivors.file, piece.num_rows).dictionary_encode(),
                    "part": pa.repeat(run.survivors.part, piece.num_rows).dictionary_encode(),
                }
            )
        )
    table = pa.concat_tables(pieces)
    origin = pa.concat_tables(origins, promote_options="permissive").unify_dictionaries()
    id_high, id_low = hashing.id_words(table["document_id"])
    order = np.lexsort((id_low, id_high, table["key"].to_numpy()))
    table = in_order(table, order)
    origin = origin.take(pa.array(order))
    _verify(task, table, origin)
    origin_table = table.select(["document_id", "record", "row", "bytes"])
    for name in ("file", "part"):
        origin_table = origin_table.append_column(name, origin[name].cast(pa.string()))
    written = task.write(table.select(["input_ids", "document_id"]), origin_table)
    written.write(task.facts_url())
    return written.to_json()


def _run_slice(run: Run, low: int, high: int) -> pa.Table:
    """The documents of a run whose keys lie within [low, high]."""
    reader = arrow.open_file(run.tokens)
    keys = reader.get_column(run.number, "key", run.start, run.documents).to_numpy()
    first = int(np.searchsorted(keys, np.uint64(low), "left"))
    last = int(np.searchsorted(keys, np.uint64(high), "right"))
    return pa.Table.from_batches([reader.get_rows(run.number, run.start + first, last - first)])


def _verify(task: MergeRuns, table: pa.Table, origin: pa.Table) -> None:
    """Compare the first documents of the shard with `tokenizers`: one, or as much as is allowed above."""
    sizes = np.cumsum(table["bytes"].to_numpy())
    most = min(VERIFY_BYTES, VERIFY_SHARE * sizes[-1]) if len(sizes) else 0
    count = min(len(sizes), task.verify_documents, max(int(np.searchsorted(sizes, most, "right")), 1))
    if not count:
        return
    tokenizer = tokenizer_of(
        task.tokenizer, task.end_of_document, task.special_tokens, files.digest(task.tokenizer)
    )
    survivors = {run.survivors.part: run.survivors for run in task.runs}
    parts = origin["part"].slice(0, count).cast(pa.string()).to_numpy(zero_copy_only=False)
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
        tasks = [task for task in self.tasks() if self.only is None or {task.path, task.origins} & self.only]
        values = executor.run_tasks(write_shard, tasks, Counter(progress, "shard", 0, len(tasks)))
        return [WrittenShard.from_json(value, "a shard") for value in values]

    def tasks(self) -> list[MergeRuns]:
        """A task for each shard.

        A source and split has about `target_tokens` tokens a shard, and no more shards than documents.
        """
        runs: dict[tuple[str, str], list[Run]] = {}
        tokens: dict[tuple[str, str], int] = {}
        parts = zip(self.tokenized.tasks, self.tokenized.counts, strict=True)
        for task, counts in sorted(parts, key=lambda pair: pair[0].survivors.part):
            for number, ranges in enumerate(counts.runs):
                for item in ranges:
                    group = item.source, item.split
                    tokens[group] = tokens.get(group, 0) + item.tokens
                    run = Run(
                        survivors=task.survivors,
                        tokens=task.url("arrow"),
                        number=number,
                        start=item.start,
                        documents=item.documents,
                    )
                    runs.setdefault(group, []).append(run)
        shards = []
        for group in sorted(runs, key=lambda group: (group[0], SPLITS.index(group[1]))):
            documents = sum(run.documents for run in runs[group])
            count = max(1, min(round(tokens[group] / self.settings.target_tokens), documents))
            shards += [self._task(group, number, count, runs[group]) for number in range(count)]
        return shards

    def _task(self, group: tuple[str, str], number: int, count: int, runs: list[Run]) -> MergeRuns:
        return MergeRuns(
            source=group[0],
            split=group[1],
            number=number,
            folder=self.folder,
            facts=self.facts or self.layout.work(self.name, self.key),
            claim=self.claim,
            count=count,
            runs=runs,
            tokenizer=self.vocabulary.url,
            end_of_document=self.vocabulary.facts.end_of_document,
            special_tokens=self.vocabulary.special_tokens,
            verify_documents=self.verify_documents,
        )
