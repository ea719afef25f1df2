"""The token loader: speed from page cache on one core, and start and resume over 10^12 tokens.

    python -m benchmarks.loader

Speeds are per second of CPU time. Results go to benchmarks/results/loader.json.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from base.manifest import SCHEMA
from benchmarks.dedup_inputs import circumstances, record
from model.corpus import Corpus
from model.loader import Loader

SHARD_TOKENS = 4_000_000
SHARDS = 16
DOCUMENT_TOKENS = 1000


def write_shards(folder: Path) -> str:
    """A corpus of one source with random tokens; the URL of its manifest."""
    versions = folder / "corpus" / "versions"
    (versions / "v0001" / "shards" / "a").mkdir(parents=True)
    generator = np.random.default_rng(0)
    documents = SHARD_TOKENS // DOCUMENT_TOKENS
    offsets = np.arange(0, SHARD_TOKENS + 1, DOCUMENT_TOKENS, dtype=np.int64)
    entries = []
    for number in range(SHARDS):
        values = generator.integers(0, 50277, SHARD_TOKENS).astype(np.uint16)
        column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
        ids = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), documents, [None, pa.py_buffer(generator.bytes(16 * documents))]
        )
        batch = pa.record_batch({"input_ids": column, "document_id": ids})
        path = f"v0001/shards/a/train-{number:05d}.arrow"
        with pa.ipc.new_file(str(versions / path), batch.schema) as writer:
            writer.write_batch(batch)
        entries.append(_entry(path, "a", documents, SHARD_TOKENS))
    return _write_manifest(versions, entries)


def write_trillion(folder: Path) -> str:
    """A manifest of 10^12 tokens in 10,000 shards of 35 sources, without the shards."""
    entries = [
        _entry(f"v0001/shards/s{n % 35:02d}/train-{n // 35:05d}.arrow", f"s{n % 35:02d}", 10**5, 10**8)
        for n in range(10_000)
    ]
    return _write_manifest(folder / "trillion" / "versions", entries)


def _entry(path: str, source: str, documents: int, tokens: int) -> dict[str, Any]:
    return {
        "path": path,
        "source": source,
        "split": "train",
        "documents": documents,
        "tokens": tokens,
        "text_bytes": 4 * tokens,
        "bytes": 2 * tokens,
        "digest": "0" * 32,
        "version": "v0001",
    }


def _write_manifest(versions: Path, entries: list[dict[str, Any]]) -> str:
    manifest = {
        "schema": SCHEMA,
        "name": "loader",
        "version": "v0001",
        "parent": None,
        "parent_manifest_hash": None,
        "config_hash": "0" * 16,
        "config": {},
        "packages": {},
        "shards": entries,
        "sources": {},
        "tokenizer": {
            "file": "tokenizer.json",
            "sha256": "0" * 64,
            "vocab_size": 50277,
            "end_of_document": "<|endoftext|>",
            "end_of_document_id": 0,
            "dtype": "uint16",
        },
        "indexes": [],
        "inputs": [],
        "ledger": {},
    }
    path = versions / "v0001" / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))
    return str(path)


def speed(url: str, length: int) -> dict[str, float]:
    """Million tokens a second of batches of 2^20 tokens, the pages of all shards touched before."""
    loader = Loader(Corpus.open(url), length, seed=1)
    rows = 2**20 // length
    epoch = int(loader.windows.sum()) // rows
    for number in range(epoch):
        loader.batch(number * rows, rows)
    speeds = []
    for number in range(epoch, epoch + 40):
        begin = time.process_time()
        loader.batch(number * rows, rows)
        speeds.append(rows * length / (time.process_time() - begin) / 1e6)
    return {"median": round(float(np.median(speeds)), 1), "best": round(max(speeds), 1)}


def trillion(url: str) -> dict[str, Any]:
    """Seconds to the order of samples at the start and in the middle, and the memory that takes."""
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = {f"s{number:02d}": 1.0 + number for number in range(35)}
    begin = time.process_time()
    loader = Loader(Corpus.open(url), 4096, seed=1, weights=weights, global_batch_size=2048)
    started = time.process_time()
    loader.locate(np.arange(2048, dtype=np.int64))
    first = time.process_time()
    again = Loader(Corpus.open(url), 4096, seed=1, weights=weights, global_batch_size=2048)
    again.locate(np.arange(100_000 * 2048, 100_001 * 2048, dtype=np.int64))
    resumed = time.process_time()
    return {
        "tokens": 10**12,
        "shards": 10_000,
        "windows": int(loader.windows.sum()),
        "start_seconds": round(started - begin, 4),
        "first_batch_located_seconds": round(first - started, 4),
        "resume_at_step_100000_seconds": round(resumed - first, 4),
        "memory_mib": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss) / 1024, 1),
    }


def main() -> None:
    """Measure and record."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = trillion(write_trillion(Path(folder)))
        url = write_shards(Path(folder))
        speeds = {f"sequences of {length}": speed(url, length) for length in (256, 2048, 4096)}
    record(
        "loader",
        {
            **circumstances(),
            "unit": "million tokens a second of CPU time, one core, page cache",
            "corpus_tokens": SHARDS * SHARD_TOKENS,
            "speed": speeds,
            "trillion": large,
        },
    )


if __name__ == "__main__":
    main()
