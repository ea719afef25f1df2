"""Parts of documents with their signatures, as the deduplication reads them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from base import files
from dedup import hashing, minhash
from dedup.catalog import Entries, read_entries
from dedup.config import DedupConfig, MinHashConfig

# Rows of one: nearly every pair with any similarity is a candidate.
THOROUGH = DedupConfig(minhash=MinHashConfig(ngram=1, bands=64, rows=1), threshold=0.6)


def write_part(
    folder: Path, name: str, documents: list[dict[str, Any]], config: DedupConfig, batch: int = 3
) -> tuple[str, str]:
    """Write documents (dicts with text, and source, rank, quality if not the default) as a part."""
    texts = pa.array([document["text"] for document in documents], pa.large_string())
    sources = pa.array([document.get("source", "web") for document in documents], pa.string())
    ids = pa.array(
        [
            hashlib.md5(f"{document.get('name', document['text'])}".encode()).digest()
            for document in documents
        ],
        pa.binary(16),
    )
    url = str(folder / f"{name}.arrow")
    table = pa.table({"document_id": ids, "record": range(len(texts)), "text": texts})
    with files.atomic_writer(url) as file, pa.ipc.new_file(file, table.schema) as writer:
        for record_batch in table.to_batches(max_chunksize=batch):
            writer.write_batch(record_batch)
    bands, shingles = minhash.signatures(texts, config.minhash)
    flat = pa.array(bands.ravel())
    entries = pa.table(
        {
            "document_id": ids,
            "part": pa.array([name] * len(texts), pa.string()).dictionary_encode(),
            "row": pa.array(range(len(texts)), pa.uint32()),
            "source": sources.dictionary_encode(),
            "text_hash": minhash.text_hash(texts),
            "rank": pa.array([document.get("rank", 0) for document in documents], pa.int32()),
            "quality": pa.array([document.get("quality", 0.0) for document in documents], pa.float32()),
            "length": pa.array([len(text.as_py().encode()) for text in texts], pa.int64()),
            "bands": pa.FixedSizeListArray.from_arrays(flat, config.minhash.bands),
            "shingles": shingles,
        }
    )
    entries_url = str(folder / f"{name}.parquet")
    files.write_parquet(entries_url, entries)
    return entries_url, url


def write_parts(
    folder: Path, documents: list[dict[str, Any]], config: DedupConfig, parts: int = 2
) -> tuple[list[Entries], dict[str, str]]:
    folder.mkdir(exist_ok=True)
    entries, urls = [], {}
    for number in range(parts):
        name = f"{number:016x}"
        entry, url = write_part(folder, name, documents[number::parts], config)
        entries.append(read_entries(entry))
        urls[name] = url
    return entries, urls


def corpus_of(seed: int, count: int, vocabulary: int = 400) -> list[dict[str, Any]]:
    """Random documents, most of them followed by edited copies."""
    generator = np.random.default_rng(seed)
    corpus: list[dict[str, Any]] = []
    while len(corpus) < count:
        base = generator.integers(0, vocabulary, 60)
        for _ in range(generator.integers(1, 6)):
            edited = base.copy()
            edited[generator.integers(0, 60, generator.integers(0, 9))] = generator.integers(0, vocabulary)
            corpus.append({"text": " ".join(f"w{word}" for word in edited), "name": f"{seed}-{len(corpus)}"})
    return corpus[:count]


def content(folder: Path) -> dict[Path, bytes]:
    """Every finished file: what a killed task had begun stays under a temporary name."""
    paths = [path for path in folder.rglob("*.parquet") if not path.name.startswith(files.TEMPORARY)]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def make_part(
    folder: Path, name: str, texts: list[str], config: MinHashConfig, **columns: Any
) -> tuple[str, dict[str, str]]:
    count = len(texts)
    text = pa.array(texts, pa.large_string())
    ids = hashing.hash128(pa.array([f"{name}{i}" for i in range(count)], pa.large_string()))
    documents = str(folder / f"{name}.arrow")
    table = pa.table({"document_id": ids, "text": text})
    with files.atomic_writer(documents) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    bands, shingles = minhash.signatures(text, config)
    entries = {
        "document_id": ids,
        "part": pa.array([name] * count, pa.string()).dictionary_encode(),
        "row": np.arange(count, dtype=np.uint32),
        "source": pa.array(["s"] * count, pa.string()).dictionary_encode(),
        "text_hash": minhash.text_hash(text),
        "rank": np.zeros(count, np.int32),
        "quality": np.zeros(count, np.float32),
        "length": np.array([len(one.encode()) for one in texts], np.int64),
        "bands": pa.FixedSizeListArray.from_arrays(pa.array(bands.ravel()), config.bands),
        "shingles": shingles,
    }
    url = str(folder / f"{name}.parquet")
    files.write_parquet(url, pa.table(entries | columns))
    return url, {name: documents}
