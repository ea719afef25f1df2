"""The documents of a shard, gathered from the sorted runs of all parts.

A run is divided by the first bits of its keys (tokenize.RunRange): of few runs a shard reads the batches that
hold its range of keys. Many would be opened by every shard, so they are routed first. Parts are divided into
chunks of about the square root of their number, and the keys of a source and split into as many ranges, or
buckets, as about the square root of the number of its shards. A route holds the documents of a chunk in a
bucket, a batch for each shard. So tokens are read twice and written twice, and a task opens about as many
files as the square root of the number of parts.
"""

import json
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from base import arrow, files
from base.records import Mark, made
from dedup import hashing
from pipelines.corpus.stages.order import in_order
from pipelines.corpus.stages.survivors import Survivors
from pipelines.corpus.stages.tokenize import MOST_BITS, RunRange
from pipelines.runtime.executor import Executor, shared

DIRECT_RUNS = 64
"""A source and split of at most so many runs is not routed; a chunk has so many parts at least."""
ROUTE_TOKENS = 2**26
"""Tokens of a route, about, at most: it is in memory twice."""
READERS = 16
"""Files that a task reads at the same time."""


@dataclass(frozen=True, kw_only=True)
class PartRuns:
    """The runs of one part."""

    survivors: Survivors
    tokens: str
    """URL of the file."""
    ranges: tuple[RunRange, ...]


@dataclass(kw_only=True)
class Held:
    """What all parts hold of one source and split."""

    tokens: int = 0
    documents: int = 0
    runs: int = 0
    chunks: dict[int, int] = field(default_factory=dict)
    """Tokens of each chunk that holds a document."""


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """The parts in chunks, as tasks can get them."""

    parts: Any
    """A handle (executor.share) of the list of handles of the chunks, lists of PartRuns."""
    held: dict[tuple[str, str], Held]
    """By source and split."""


def share(parts: list[PartRuns], executor: Executor) -> Chunks:
    """Divide parts into chunks and share them."""
    size = max(DIRECT_RUNS, math.isqrt(len(parts)))
    chunks = [parts[first : first + size] for first in range(0, len(parts), size)]
    held: dict[tuple[str, str], Held] = {}
    for number, chunk in enumerate(chunks):
        for item in (item for part in chunk for item in part.ranges):
            mine = held.setdefault((item.source, item.split), Held())
            mine.tokens += item.tokens
            mine.documents += item.documents
            mine.runs += 1
            mine.chunks[number] = mine.chunks.get(number, 0) + item.tokens
    return Chunks(parts=executor.share([executor.share(chunk) for chunk in chunks]), held=held)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The documents of a source and split, divided into shards by their keys."""

    source: str
    split: str
    count: int
    """Shards."""
    chunks: tuple[int, ...]
    """Those that hold a document."""
    most: int
    """Tokens of the chunk that holds most."""
    runs: int
    parts: Any
    """As Chunks has it."""
    folder: str
    """Of routes."""

    @property
    def is_routed(self) -> bool:
        """Whether its runs are too many for each shard to read."""
        return self.runs > DIRECT_RUNS

    @property
    def bits(self) -> int:
        """The first bits of a key that name its bucket: so many that a route is not too large."""
        large = (-(-self.most // ROUTE_TOKENS) - 1).bit_length()
        return min(MOST_BITS, max(large, ((self.count - 1).bit_length() + 1) // 2))

    def first_key(self, number: int) -> int:
        """The least key of a shard; that of `count` is the first beyond all keys."""
        return number * 2**64 // self.count

    def shard_of(self, key: int) -> int:
        """The number of the shard that a key belongs to."""
        number = key * self.count >> 64
        return number + (number + 1 < self.count and self.first_key(number + 1) <= key)

    def buckets(self, number: int) -> range:
        """The buckets in which a shard has keys."""
        rest = 64 - self.bits
        return range(self.first_key(number) >> rest, ((self.first_key(number + 1) - 1) >> rest) + 1)

    def chunk(self, number: int) -> list[PartRuns]:
        """The parts of a chunk."""
        parts: list[PartRuns] = shared(shared(self.parts)[number])
        return parts

    def survivors(self, chunks: Iterable[int]) -> Iterator[Survivors]:
        """The survivors of the parts of some chunks."""
        return (part.survivors for number in chunks for part in self.chunk(number))


@dataclass(frozen=True, kw_only=True)
class Route:
    """The documents of a chunk in a bucket of a source and split."""

    group: Group
    bucket: int
    chunk: int

    @property
    def keys(self) -> tuple[int, int]:
        """The least and the greatest key."""
        rest = 64 - self.group.bits
        return self.bucket << rest, ((self.bucket + 1) << rest) - 1

    @property
    def shards(self) -> range:
        """The shards that have keys in the bucket: the route has a batch for each."""
        low, high = self.keys
        return range(self.group.shard_of(low), self.group.shard_of(high) + 1)

    def url(self, suffix: str) -> str:
        """An output: arrow, or json (the mark, last)."""
        group = self.group
        name = f"{group.source}.{group.split}-{self.bucket:03d}-{self.chunk:05d}.{suffix}"
        return files.join(group.folder, name)


def routes_of(shards: Iterable[tuple[Group, int]]) -> list[Route]:
    """The routes from which some shards, given by number, are to be read."""
    wanted: dict[tuple[str, str], tuple[Group, set[int]]] = {}
    for group, number in shards:
        if group.is_routed:
            buckets = wanted.setdefault((group.source, group.split), (group, set()))[1]
            buckets.update(group.buckets(number))
    return [
        Route(group=group, bucket=bucket, chunk=chunk)
        for group, buckets in wanted.values()
        for bucket in sorted(buckets)
        for chunk in group.chunks
    ]


def write_route(route: Route) -> None:
    """Write the documents of a route, in order, if they are not written."""
    if Mark.finished(route.url("json"), route.url) is not None:
        return
    chunk = route.group.chunk(route.chunk)
    table = _in_order(_from_runs(route.group, {route.chunk: chunk}, *route.keys))
    keys = table["key"].to_numpy()
    firsts = [route.group.first_key(number) for number in route.shards[1:]]
    cuts = np.searchsorted(keys, np.array(firsts, np.uint64)).tolist()
    names = _names(chunk)
    batch = table.to_batches()[0] if len(keys) else pa.RecordBatch.from_pylist([], table.schema)
    schema = table.schema.with_metadata({name: json.dumps(values) for name, values in names.items()})
    with files.atomic_writer(route.url("arrow")) as stream, pa.ipc.new_file(stream, schema) as writer:
        for start, stop in zip([0, *cuts], [*cuts, len(keys)], strict=True):
            writer.write_batch(batch.slice(start, stop - start))
    Mark(made=made(route.url, [], unsealed=["arrow"])).write(route.url("json"))


def documents_of(group: Group, number: int) -> pa.Table:
    """The documents of a shard in order: the columns of runs, and file, part and chunk of each."""
    if not group.is_routed:
        chunks = {chunk: group.chunk(chunk) for chunk in group.chunks}
        table = _from_runs(group, chunks, group.first_key(number), group.first_key(number + 1) - 1)
        return _named(_in_order(table), {chunk: _names(parts) for chunk, parts in chunks.items()})
    routes = [
        Route(group=group, bucket=bucket, chunk=chunk)
        for bucket in group.buckets(number)
        for chunk in group.chunks
    ]
    with ThreadPoolExecutor(READERS) as readers:
        pieces = list(readers.map(lambda route: _from_route(route, number), routes))
    names = {route.chunk: found for route, (_, found) in zip(routes, pieces, strict=True)}
    return _named(_in_order(pa.concat_tables([table for table, _ in pieces])), names)


def _from_route(route: Route, number: int) -> tuple[pa.Table, dict[str, list[str]]]:
    """The documents of a shard in a route, and the names of file and part by number in the chunk."""
    reader = arrow.open_file(route.url("arrow"))
    table = pa.Table.from_batches([reader.get_rows(number - route.shards[0])])
    names = {name.decode(): json.loads(values) for name, values in reader.schema.metadata.items()}
    return table.replace_schema_metadata(), names


def _names(chunk: list[PartRuns]) -> dict[str, list[str]]:
    """The file and the name of each part of a chunk."""
    parts = [part.survivors for part in chunk]
    return {"file": [part.file for part in parts], "part": [part.part for part in parts]}


def _from_runs(group: Group, chunks: dict[int, list[PartRuns]], low: int, high: int) -> pa.Table:
    """The documents of chunks with keys within [low, high], by run; `at` is a part's number in its chunk."""
    places = [
        (chunk, at, part)
        for chunk, parts in chunks.items()
        for at, part in enumerate(parts)
        if any((item.source, item.split) == (group.source, group.split) for item in part.ranges)
    ]

    def read(place: tuple[int, int, PartRuns]) -> pa.Table:
        chunk, at, part = place
        table = pa.concat_tables(_slices(group, part, low, high))
        for name, value in (("chunk", chunk), ("at", at)):
            table = table.append_column(name, pa.repeat(pa.scalar(value, pa.int32()), table.num_rows))
        return table

    with ThreadPoolExecutor(READERS) as readers:
        return pa.concat_tables(readers.map(read, places))


def _slices(group: Group, part: PartRuns, low: int, high: int) -> Iterator[pa.Table]:
    """The documents of a part with keys within [low, high]."""
    reader = arrow.open_file(part.tokens)
    for item in part.ranges:
        if (item.source, item.split) != (group.source, group.split):
            continue
        rest = 64 - item.bits
        for number in range(low >> rest, (high >> rest) + 1):
            batch = reader.get_rows(item.batch + number)
            keys = batch.column("key").to_numpy()
            first = int(np.searchsorted(keys, np.uint64(low), "left"))
            last = int(np.searchsorted(keys, np.uint64(high), "right"))
            yield pa.Table.from_batches([batch.slice(first, last - first)])


def _in_order(table: pa.Table) -> pa.Table:
    """Documents in order of key, and of id where keys are the same."""
    high, low = hashing.id_words(table["document_id"])
    return in_order(table, np.lexsort((low, high, table["key"].to_numpy())))


def _named(table: pa.Table, names: dict[int, dict[str, list[str]]]) -> pa.Table:
    """A table with the names of file and part for the number of a part in its chunk."""
    firsts = np.zeros(max(names) + 1, np.int64)
    every: dict[str, list[str]] = {"file": [], "part": []}
    for chunk, found in names.items():
        firsts[chunk] = len(every["part"])
        for name, values in found.items():
            every[name] += values
    place = pa.array(firsts[table["chunk"].to_numpy()] + table["at"].to_numpy())
    for name, values in every.items():
        table = table.append_column(name, pa.array(values, pa.string()).take(place))
    return table
