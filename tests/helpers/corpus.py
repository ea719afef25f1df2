"""Synthetic corpus versions, written as docs/reference/formats.md says."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

END = "<|endoftext|>"


def tokenizer_of(vocab_size: int) -> bytes:
    """A `tokenizers` JSON whose token 0 ends documents; each of the others is a word: w1, w2, …"""
    vocabulary = {END: 0, **{f"w{number}": number for number in range(1, vocab_size)}}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": END, "special": True, **flags}],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": END},
    }
    return json.dumps(content).encode()


def write_corpus(
    folder: Path,
    sources: dict[str, list[list[int]]],
    vocab_size: int = 128,
    dtype: str = "uint16",
    heldout: int = 2,
    seed: int = 0,
    heldout_text_bytes: int = 1000,
) -> str:
    """Write a version with the given document lengths ({source: [shard: [lengths of its documents]]}).

    Documents are arithmetic sequences, which a small model learns. Returns the manifest URL.
    """
    generator = np.random.default_rng(seed)
    versions = folder / "corpus" / "versions"
    entries, summary = [], {}
    for source, documents in sources.items():
        lengths = [length for group in documents for length in group]
        groups = [("train", number, group) for number, group in enumerate(documents)]
        groups.append(("heldout", 0, lengths[:heldout]))
        tokens_of = {"train": 0, "heldout": 0}
        for split, number, group in groups:
            rows = []
            for length in group:
                step = int(generator.integers(1, 4))
                row = (int(generator.integers(1, vocab_size)) + step * np.arange(length)) % (
                    vocab_size - 1
                ) + 1
                row[-1] = 0
                rows.append(row)
            ids = [
                xxhash.xxh3_128_digest(f"{source} {split} {number} {row}".encode())
                for row in range(len(group))
            ]
            offsets = np.concatenate([[0], np.cumsum(group)]).astype(np.int64)
            values = np.concatenate(rows).astype(dtype) if rows else np.zeros(0, dtype)
            column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
            batch = pa.record_batch({"input_ids": column, "document_id": pa.array(ids, pa.binary(16))})
            path = f"v0001/shards/{source}/{split}-{number:05d}.arrow"
            origins = versions / f"v0001/origins/{source}/{split}-{number:05d}.parquet"
            origins.parent.mkdir(parents=True, exist_ok=True)
            records = pa.array(range(1000 * number, 1000 * number + len(group)), pa.int64())
            sizes = pa.array([5 * length for length in group], pa.int64())
            named = pa.array([f"/data/{source}-{split}.jsonl"] * len(group), pa.string())
            pq.write_table(
                pa.table({"document_id": ids, "file": named, "record": records, "bytes": sizes}), origins
            )
            (versions / path).parent.mkdir(parents=True, exist_ok=True)
            with pa.ipc.new_file(str(versions / path), batch.schema) as writer:
                writer.write_batch(batch)
            digest = xxhash.xxh3_128_hexdigest((versions / path).read_bytes())
            size = (versions / path).stat().st_size
            entries.append(
                {
                    "path": path,
                    "source": source,
                    "split": split,
                    "documents": len(group),
                    "tokens": len(values),
                    "text_bytes": heldout_text_bytes if split == "heldout" else 5 * len(values),
                    "bytes": size,
                    "digest": digest,
                    "version": "v0001",
                }
            )
            tokens_of[split] += len(values)
        summary[source] = {
            "weight": None,
            "documents": sum(map(len, documents)),
            "tokens": tokens_of["train"],
            "text_bytes": 5 * tokens_of["train"],
            "heldout_documents": heldout,
            "heldout_tokens": tokens_of["heldout"],
            "heldout_text_bytes": heldout_text_bytes,
        }
    tokenizer = tokenizer_of(vocab_size)
    manifest = {
        "schema": 1,
        "name": "tiny",
        "version": "v0001",
        "parent": None,
        "parent_manifest_hash": None,
        "config_hash": "0" * 16,
        "config": {},
        "packages": {},
        "shards": entries,
        "sources": summary,
        "tokenizer": {
            "file": "tokenizer.json",
            "sha256": hashlib.sha256(tokenizer).hexdigest(),
            "vocab_size": vocab_size,
            "end_of_document": END,
            "end_of_document_id": 0,
            "dtype": dtype,
        },
        "indexes": [],
        "inputs": [],
        "ledger": {},
    }
    place = versions / "v0001" / "manifest.json"
    place.with_name("tokenizer.json").write_bytes(tokenizer)
    place.write_text(json.dumps(manifest))
    return str(place)
