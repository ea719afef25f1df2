"""Speed of deduplication: the kernels per core, and the phases on Ray with one worker.

    python -m benchmarks.dedup_speed [--data ../shared/data] [--copies 1]

Kernels: megabytes of UTF-8 per second of CPU time of one thread, the best and the median of 5 runs over
pile_sample, after a first run that compiles. Phases: wall time of each, over pile_sample,
pile_sample_sharealike and pile_messy, `--copies` times with other words so that copies are no duplicates.
Signatures of datatrove, rensa and text-dedup (benchmarks/peer_dedup.py): every k-th text of pile_sample,
about `--peer-megabytes` in all; ours on the same texts before and after each; CPU time of one thread.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "numba"))

import pyarrow as pa
import pyarrow.compute as pc
import ray

from benchmarks.dedup_inputs import (
    DATA,
    add_peer_options,
    circumstances,
    peer_bands,
    peer_pythons,
    read_texts,
    record,
    write_part,
)
from benchmarks.dedup_scale import Watch
from dedup import hashing, minhash
from dedup.catalog import read_entries
from dedup.config import DedupConfig
from pipelines.corpus.stages.deduplicate import deduplicate
from pipelines.corpus.stages.indexes import write_index
from pipelines.runtime.cluster import start_local
from pipelines.runtime.executor import OnRay


def kernel(function: Callable[[pa.Array], Any], text: pa.Array, megabytes: float) -> dict[str, float]:
    """Megabytes per CPU second of a function of the whole column."""
    function(text)
    speeds = []
    for _ in range(5):
        start = time.process_time()
        function(text)
        speeds.append(megabytes / (time.process_time() - start))
    return {"best": round(max(speeds), 1), "median": round(statistics.median(speeds), 1)}


def kernels(data: Path) -> dict[str, Any]:
    """Every kernel over pile_sample."""
    text = pa.array(list(read_texts(data / "pile_sample").values()), pa.large_string())
    megabytes = pc.sum(pc.binary_length(text)).as_py() / 1e6
    config = DedupConfig().minhash
    return {
        "documents": len(text),
        "megabytes": round(megabytes, 1),
        "signatures, 112 permutations": kernel(lambda t: minhash.signatures(t, config), text, megabytes),
        "signatures, 256 permutations": kernel(
            lambda t: minhash.signatures(t, config.model_copy(update={"bands": 32})), text, megabytes
        ),
        "signatures, characters": kernel(
            lambda t: minhash.signatures(t, config.model_copy(update={"shingle": "character"})),
            text,
            megabytes,
        ),
        "shingle sets": kernel(lambda t: minhash.shingle_sets(t, config), text, megabytes),
        "text hash": kernel(minhash.text_hash, text, megabytes),
        "xxh3-128": kernel(hashing.hash128, text, megabytes),
    }


def against_peers(data: Path, pythons: dict[str, str], megabytes: float) -> dict[str, Any]:
    """MB/s of CPU time of the signatures of every other tool, and of ours in the same minutes."""
    every = list(read_texts(data / "pile_sample").values())
    step = max(1, round(sum(len(text.encode()) for text in every) / 1e6 / megabytes))
    texts = every[::step]
    column = pa.array(texts, pa.large_string())
    size = sum(len(text.encode()) for text in texts) / 1e6
    config = DedupConfig().minhash
    result: dict[str, Any] = {"documents": len(texts), "megabytes": round(size, 2)}
    for tool in ("datatrove", "rensa", "text-dedup"):
        ours = [kernel(lambda t: minhash.signatures(t, config), column, size)["median"]]
        found = peer_bands(tool, pythons[tool], texts)
        ours.append(kernel(lambda t: minhash.signatures(t, config), column, size)["median"])
        theirs = size / found["seconds"]
        result[tool] = {
            "version": found["version"],
            "MB/s": round(theirs, 3),
            "ours, MB/s": ours,
            "times": round(min(ours) / theirs, 1),
        }
    return result


def phases(data: Path, copies: int) -> dict[str, Any]:
    """Wall seconds of every phase with one worker, workers started and kernels compiled before."""
    texts = [
        list(read_texts(data / name).values())
        for name in ("pile_sample", "pile_sample_sharealike", "pile_messy")
    ]
    config = DedupConfig()
    with tempfile.TemporaryDirectory() as folder:
        entries, documents = [], {}
        megabytes, hashing_seconds = 0.0, 0.0
        for copy in range(copies):
            for number, column in enumerate(texts):
                text = pa.array(column, pa.large_string())
                if copy:
                    text = pc.replace_substring_regex(text, "(\\w)\\b", f"\\1{copy}")
                megabytes += pc.sum(pc.binary_length(text)).as_py() / 1e6
                start = time.process_time()
                minhash.signatures(text, config.minhash)
                minhash.text_hash(text)
                hashing_seconds += time.process_time() - start
                name = f"{copy * 3 + number:016x}"
                url, documents[name] = write_part(folder, name, text, config.minhash)
                entries.append(read_entries(url))
        seconds: dict[str, float] = {}
        last = time.perf_counter()

        def progress(phase: str, done: int, total: int, *_: int) -> None:
            nonlocal last
            now = time.perf_counter()
            seconds[phase] = round(seconds.get(phase, 0.0) + now - last, 3)
            last = now

        for attempt in range(2):
            seconds.clear()
            last = start = time.perf_counter()
            with Watch() as watch:
                outcome = deduplicate(
                    entries,
                    documents,
                    [],
                    work=f"{folder}/work{attempt}",
                    config=config,
                    executor=OnRay(workers=1),
                    progress=progress,
                )
            total = time.perf_counter() - start
            last = start = time.perf_counter()
            write_index(
                entries,
                documents,
                outcome.dropped,
                version="v0001",
                output=f"{folder}/index{attempt}",
                config=config,
                executor=OnRay(workers=1),
                progress=progress,
            )
            index_seconds = time.perf_counter() - start
    rows = sum(part[1] for part in outcome.counts.items())
    return {
        "documents": sum(len(column) for column in texts) * copies,
        "megabytes": round(megabytes, 1),
        "dropped": outcome.counts,
        "dropped share": round(rows / (sum(len(column) for column in texts) * copies), 4),
        "candidates": outcome.candidates,
        "edges": outcome.edges,
        "hashing CPU seconds": round(hashing_seconds, 3),
        "phases wall seconds": seconds,
        "deduplicate wall seconds": round(total, 2),
        "deduplicate CPU seconds of workers": round(watch.cpu, 2),
        "index wall seconds": round(index_seconds, 2),
        "MB/s of one worker, hashing and phases": round(megabytes / (hashing_seconds + total), 1),
        "MB/s of CPU time, hashing and phases": round(megabytes / (hashing_seconds + watch.cpu), 1),
    }


def main() -> None:
    """Run both parts and record the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--peer-megabytes", type=float, default=4.0, help="text for the other tools; 0: none")
    add_peer_options(parser)
    options = parser.parse_args()
    result = {"circumstances": circumstances(), "kernels, MB/s of one core": kernels(options.data)}
    if options.peer_megabytes:
        pythons = peer_pythons(options)
        result["signatures of other tools"] = against_peers(options.data, pythons, options.peer_megabytes)
    start_local(2)
    result["phases"] = phases(options.data, options.copies)
    ray.shutdown()
    record("dedup_speed", result)


if __name__ == "__main__":
    main()
