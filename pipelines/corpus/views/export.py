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
from base.errors import UserError
from base.manifest import ShardEntry, Version
from pipelines.corpus.versions.verify import read_shard
from pipelines.runtime.cluster import run_tasks
from pipelines.runtime.progress import Progress, counter

MAGIC = b"MMIDIDX\x00\x00"
FORMAT_VERSION = 1
# The format has no uint32; ids are below 2**31, so that int32 has the same bytes.
DTYPE_CODES = {"uint16": 8, "uint32": 4}
CHUNK = 2**20


@dataclass(frozen=True)
class Export:
    """One source and split to write: folder of the versions, the lines of its shards, URL without suffix."""

    versions: str
    manifest_hash: str
    dtype: str
    lines: list[dict[str, Any]]
    output: str


def export(
    version: Version,
    output: str,
    sources: list[str],
    splits: list[str],
    workers: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Write <output>/<source>-<split>.bin and .idx for some sources (none: all) and splits of a version.

    Returns {"path" (without suffix), "documents", "tokens", "text_bytes"} of each pair. Documents are in the
    order of the shards, and end in the end-of-document token. A finished pair is not written again. Ray must
    be initialised.

    Raises UserError for a source or split that the version has not, and for a damaged shard.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in version.raw["shards"]:
        groups.setdefault((line["source"], line["split"]), []).append(line)
    for position, (field, wanted) in enumerate((("source", sources), ("split", splits))):
        known = sorted({group[position] for group in groups})
        for name in wanted:
            if name not in known:
                raise UserError(f"--{field} {name}: {version.name} has {', '.join(known)}")
    tasks = [
        Export(
            version.versions_url,
            version.hash,
            version.raw["tokenizer"]["dtype"],
            lines,
            files.join(output, f"{source}-{split}"),
        )
        for (source, split), lines in sorted(groups.items())
        if (not sources or source in sources) and split in splits
    ]
    if not tasks:
        raise UserError(f"{version.name} has no shards of these sources and splits")
    return run_tasks(write_pair, tasks, workers, counter(progress, "export", 0, len(tasks)))


def write_pair(task: Export) -> dict[str, Any]:
    """Write one `.bin`, its `.idx`, and last a `.json` with what they hold, which makes the task a no-op."""
    facts = {
        "path": task.output,
        "manifest_hash": task.manifest_hash,
        "dtype": task.dtype,
        **{name: sum(line[name] for line in task.lines) for name in ("documents", "tokens", "text_bytes")},
    }
    done = f"{task.output}.json"
    if files.exists(done) and files.read_json(done) == facts:
        return facts
    # An index beside the tokens of another export would be read as if it were theirs.
    files.remove(done)
    files.remove(f"{task.output}.idx")
    lengths = []
    with files.atomic_writer(f"{task.output}.bin") as stream:
        for line in task.lines:
            for chunk in read_shard(task.versions, ShardEntry.model_validate(line))["input_ids"].chunks:
                offsets = chunk.offsets.to_numpy()
                tokens = chunk.values.to_numpy()[offsets[0] : offsets[-1]]
                stream.write(tokens.data.cast("B"))
                lengths.append(np.diff(offsets).astype("<i4"))
    _write_index(f"{task.output}.idx", np.concatenate([np.zeros(0, "<i4"), *lengths]), task.dtype)
    files.write_json(done, facts)
    return facts


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
