"""Shards to the indexed dataset of Megatron-LM and GPT-NeoX: one `.bin` and one `.idx` a source and split.

The format (Megatron-LM megatron/core/datasets/indexed_dataset.py; GPT-NeoX megatron/data/indexed_dataset.py,
MMapIndexedDataset) is little-endian. `.bin` holds the tokens of all documents one after the other. `.idx`
holds the magic, version (uint64), dtype code (uint8), number of sequences (uint64), length of the document
index (uint64), then sequence lengths (int32), byte offsets into `.bin` (int64), the document index (int64):
the first sequence of each document, and the number of sequences. A document is one sequence here.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base import files
from base.contents import ShardEntry
from base.errors import UserError
from base.manifest import Version
from base.records import Record
from pipelines.corpus.versions.verify import read_shard
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress

MAGIC = b"MMIDIDX\x00\x00"
FORMAT_VERSION = 1
# The format has no uint32; ids are below 2**31, so that int32 has the same bytes.
DTYPE_CODES = {"uint16": 8, "uint32": 4}
CHUNK = 2**20


class ExportedPair(Record):
    """What a `.bin` and its `.idx` hold; <path>.json is this record, and written last."""

    path: str
    """URL without suffix."""
    manifest_hash: str
    dtype: str
    documents: int
    tokens: int
    text_bytes: int


@dataclass(frozen=True, kw_only=True)
class Export:
    """One source and split to write."""

    versions: str
    """The folder of all versions."""
    manifest_hash: str
    dtype: str
    shards: list[ShardEntry]
    output: str
    """URL without suffix."""

    def pair(self) -> ExportedPair:
        """What the task writes."""
        return ExportedPair(
            path=self.output,
            manifest_hash=self.manifest_hash,
            dtype=self.dtype,
            documents=sum(shard.documents for shard in self.shards),
            tokens=sum(shard.tokens for shard in self.shards),
            text_bytes=sum(shard.text_bytes for shard in self.shards),
        )


def export(
    version: Version,
    output: str,
    *,
    sources: list[str],
    splits: list[str],
    progress: Progress,
    executor: Executor,
) -> list[ExportedPair]:
    """Write <output>/<source>-<split>.bin and .idx for some sources (none: all) and splits of a version.

    Returns what each pair holds. Documents are in the order of the shards, and end in the end-of-document
    token. A finished pair is not written again.

    Raises UserError for a source or split that the version has not, and for a damaged shard.
    """
    groups: dict[tuple[str, str], list[ShardEntry]] = {}
    for shard in version.shards:
        groups.setdefault((shard.source, shard.split), []).append(shard)
    for position, (field, wanted) in enumerate((("source", sources), ("split", splits))):
        known = sorted({group[position] for group in groups})
        for name in wanted:
            if name not in known:
                raise UserError(f"--{field} {name}: {version.name} has {', '.join(known)}")
    tasks = [
        Export(
            versions=version.versions_url,
            manifest_hash=version.hash,
            dtype=version.manifest.tokenizer.dtype,
            shards=shards,
            output=files.below(output, f"{source}-{split}"),
        )
        for (source, split), shards in sorted(groups.items())
        if (not sources or source in sources) and split in splits
    ]
    if not tasks:
        raise UserError(f"{version.name} has no shards of these sources and splits")
    written = executor.run_tasks(write_pair, tasks, Counter(progress, "export", 0, len(tasks)))
    return [ExportedPair.from_json(pair, task.output) for pair, task in zip(written, tasks, strict=True)]


def write_pair(task: Export) -> dict[str, Any]:
    """Write one `.bin`, its `.idx`, and last a `.json` with what they hold, which makes the task a no-op.

    Returns the JSON value of that record.
    """
    pair = task.pair().to_json()
    done = f"{task.output}.json"
    finished = ExportedPair.found(done)
    if finished is not None and finished.to_json() == pair and _is_there(task):
        return pair
    # An index beside the tokens of another export would be read as if it were theirs.
    files.remove(done)
    files.remove(f"{task.output}.idx")
    lengths = []
    with files.atomic_writer(f"{task.output}.bin") as stream:
        for shard in task.shards:
            for chunk in read_shard(task.versions, shard)["input_ids"].chunks:
                offsets = chunk.offsets.to_numpy()
                tokens = chunk.values.to_numpy()[offsets[0] : offsets[-1]]
                stream.write(tokens.data.cast("B"))
                lengths.append(np.diff(offsets).astype("<i4"))
    _write_index(f"{task.output}.idx", np.concatenate([np.zeros(0, "<i4"), *lengths]), task.dtype)
    ExportedPair.from_json(pair, done).write(done)
    return pair


def _is_there(task: Export) -> bool:
    """Whether both files have the size that their content asks for."""
    documents = sum(shard.documents for shard in task.shards)
    tokens = sum(shard.tokens for shard in task.shards) * np.dtype(task.dtype).itemsize
    sizes = {"bin": tokens, "idx": len(MAGIC) + 25 + 20 * documents + 8}
    try:
        return all(files.size(f"{task.output}.{suffix}") == size for suffix, size in sizes.items())
    except FileNotFoundError:
        return False


def _write_index(url: str, lengths: NDArray[np.int32], dtype: str) -> None:
    """Write the `.idx` of sequences of these lengths (int32)."""
    width = np.dtype(dtype).itemsize
    with files.atomic_writer(url) as stream:
        stream.write(MAGIC)
        stream.write(struct.pack("<QBQQ", FORMAT_VERSION, DTYPE_CODES[dtype], len(lengths), len(lengths) + 1))
        stream.write(lengths.data.cast("B"))
        position = 0
        for first in range(0, len(lengths), CHUNK):
            ends = position + width * np.cumsum(lengths[first : first + CHUNK], dtype=np.int64)
            starts = np.concatenate([[position], ends[:-1]]).astype("<i8")
            stream.write(starts.tobytes())
            position = int(ends[-1])
        for first in range(0, len(lengths) + 1, CHUNK):
            stream.write(np.arange(first, min(first + CHUNK, len(lengths) + 1), dtype="<i8").tobytes())
