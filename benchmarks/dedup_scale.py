"""Deduplication of many synthetic signatures: time and memory of every phase, refreshes, an extrapolation.

    python -m benchmarks.dedup_scale [--documents 1000000 3000000 10000000] [--folder /tmp]

Each corpus has parts of 250,000 documents with 14 random band hashes; 3 documents in 10 are copies of another
one, with half of its bands. Texts are six words, so that verification runs but its time says nothing of real
texts: benchmarks/dedup_speed.py measures that. One worker. For each size: the deduplication, its index, and a
refresh with 5 % new documents (1 in 3 a copy of an old one) against that index, with its own index.
CPU seconds are those of the worker processes, after their start; peak memory is the largest resident set of
one, in all and by phase (pages of mapped files included). Files of phases are removed before the index is
written; 30 million documents need about 25 GB in --folder.

The extrapolation multiplies the CPU seconds a document of the largest corpus by the documents, adds
signatures, text hashes and shingles of real texts at the speeds that benchmarks/dedup_speed.py measured, and
computes files and the largest partition from the constants of pipelines/corpus/stages/deduplicate.py.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "numba"))

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray._private import worker as ray_worker

from base import files
from benchmarks.dedup_inputs import DATA, ROOT, circumstances, read_texts, record
from dedup import hashing, runs
from dedup.catalog import MAX_GROUPS, read_entries
from dedup.config import DedupConfig
from pipelines.corpus.stages.deduplicate import deduplicate
from pipelines.corpus.stages.indexes import write_index
from pipelines.runtime.cluster import start_local
from pipelines.runtime.executor import OnRay

PART = 250_000
BANDS = 14
COPIES = 0.3


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def write_part(folder: str, first: int, count: int, originals: int) -> tuple[str, str, str]:
    """Write documents `first`… as a part; copies are of documents below `originals` or of the part."""
    generator = np.random.default_rng(first)
    numbers = np.arange(first, first + count, dtype=np.uint64)
    source = numbers.copy()
    copy = generator.random(count) < COPIES
    source[copy] = generator.integers(0, max(originals, first + count), int(copy.sum()))
    bands = np.empty((count, BANDS), np.uint64)
    for band in range(BANDS):
        own = generator.random(count) < 0.5
        bands[:, band] = mix(np.where(own, source, numbers) * np.uint64(64) + np.uint64(band + 1))
    words = [pa.array(mix(source + np.uint64(word << 40))).cast(pa.string()) for word in range(6)]
    text = pc.binary_join_element_wise(*words, " ").cast(pa.large_string())
    ids = hashing.ids_from_words(mix(numbers), numbers)
    name = f"{first:016x}"
    documents = files.join(folder, f"{name}.arrow")
    table = pa.table({"document_id": ids, "record": np.arange(count), "text": text})
    with files.atomic_writer(documents) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=8192)
    entries = pa.table(
        {
            "document_id": ids,
            "part": pa.array([name]).take(pa.array(np.zeros(count, np.int64))).dictionary_encode(),
            "row": np.arange(count, dtype=np.uint32),
            "source": pa.array(["web"]).take(pa.array(np.zeros(count, np.int64))).dictionary_encode(),
            "text_hash": hashing.ids_from_words(mix(numbers + np.uint64(1 << 50)), numbers),
            "rank": np.zeros(count, np.int32),
            "quality": generator.random(count, np.float32),
            "length": pc.binary_length(text),
            "bands": pa.FixedSizeListArray.from_arrays(pa.array(bands.ravel()), BANDS),
            "shingles": np.full(count, 2, np.int32),
        }
    )
    url = files.join(folder, f"{name}.parquet")
    files.write_parquet(url, entries)
    return name, url, documents


class Watch:
    """Wall and CPU seconds of the workers and their largest resident set, over a block and by phase."""

    def __enter__(self) -> "Watch":
        """Start the clock."""
        raylet = ray_worker._global_node.all_processes["raylet"][0].process.pid
        self.raylet = psutil.Process(raylet)
        self.peak = self.phase_peak = 0
        self.phases: dict[str, dict[str, float]] = {}
        self.cpu_before, self.start = self._cpu(), time.perf_counter()
        self.last = (self.start, self.cpu_before)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._poll, daemon=True)
        self.thread.start()
        return self

    def _workers(self) -> list[psutil.Process]:
        return [child for child in self.raylet.children() if child.name().startswith("ray::")]

    def _cpu(self) -> float:
        return sum(sum(worker.cpu_times()[:2]) for worker in self._workers())

    def _poll(self) -> None:
        while not self.stop.wait(0.1):
            now = max((worker.memory_info().rss for worker in self._workers()), default=0)
            self.peak, self.phase_peak = max(self.peak, now), max(self.phase_peak, now)

    def progress(self, phase: str, done: int, total: int, *_: int) -> None:
        """Count time since the last call to the phase."""
        now = (time.perf_counter(), self._cpu())
        entry = self.phases.setdefault(phase.removeprefix("dedup "), {"wall": 0.0, "cpu": 0.0})
        entry["wall"] = round(entry["wall"] + now[0] - self.last[0], 2)
        entry["cpu"] = round(entry["cpu"] + now[1] - self.last[1], 2)
        entry["peak MiB"] = max(entry.get("peak MiB", 0), self.phase_peak >> 20)
        self.last, self.phase_peak = now, 0

    def __exit__(self, *_: object) -> None:
        """Stop the clock."""
        self.stop.set()
        self.thread.join()
        self.cpu, self.wall = self._cpu() - self.cpu_before, time.perf_counter() - self.start

    def summary(self) -> dict[str, Any]:
        """What was measured."""
        return {
            "wall seconds": round(self.wall, 1),
            "CPU seconds": round(self.cpu, 1),
            "peak MiB of a worker": round(self.peak / 2**20),
            "phases": self.phases,
        }


def size_of(folder: str) -> tuple[int, int]:
    """(bytes, files) below a folder."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in paths), len(paths)


def scale(documents: int, folder: str) -> dict[str, Any]:
    """Deduplicate `documents` synthetic ones, index them, and refresh with 5 % more."""
    config = DedupConfig()
    firsts = range(0, documents, PART)
    old = [write_part(f"{folder}/in", first, min(PART, documents - first), 0) for first in firsts]
    new = documents // 20
    firsts = range(documents, documents + new, PART)
    more = [write_part(f"{folder}/in", f, min(PART, documents + new - f), documents) for f in firsts]
    result: dict[str, Any] = {"documents": documents}
    totals = []
    for name, parts, indexes in (("full", old, []), ("refresh", more, [f"{folder}/full-index"])):
        entries, urls = [read_entries(part[1]) for part in parts], {part[0]: part[2] for part in parts}
        cluster_start()
        with Watch() as watch:
            outcome = deduplicate(
                entries,
                urls,
                indexes,
                work=f"{folder}/{name}",
                config=config,
                executor=OnRay(workers=1),
                progress=watch.progress,
            )
            work = size_of(f"{folder}/{name}")
            for phase in Path(folder, name).iterdir():
                if phase.name != "dropped":
                    shutil.rmtree(phase)
            index = f"{folder}/{name}-index"
            write_index(
                entries,
                urls,
                outcome.dropped,
                version=name,
                output=index,
                config=config,
                executor=OnRay(workers=1),
                progress=watch.progress,
            )
        ray.shutdown()
        totals.append(watch.cpu)
        result[name] = watch.summary() | {
            "candidates": outcome.candidates,
            "edges": outcome.edges,
            "dropped": outcome.counts,
            "largest cluster": max(outcome.cluster_sizes),
            "work bytes and files": work,
            "index bytes and files": size_of(index),
        }
        print(name, documents, result[name], flush=True)
    result["refresh / full, CPU of the phases"] = round(totals[1] / totals[0], 4)
    measured = measuring_hours(documents * 0.003) * 3600
    result["refresh / full, CPU with signatures and text hashes of 3,000-byte documents"] = round(
        (totals[1] + measured / 20) / (totals[0] + measured), 4
    )
    return result


def kernel_speeds() -> dict[str, dict[str, float]]:
    """MB/s of one core, as benchmarks/dedup_speed.py recorded them."""
    speed = files.read_json(str(ROOT / "benchmarks" / "results" / "dedup_speed.json"))
    kernels: dict[str, dict[str, float]] = speed["kernels, MB/s of one core"]
    return kernels


def measuring_hours(megabytes: float) -> float:
    """Core-hours of signatures and text hashes."""
    kernels = kernel_speeds()
    names = ("signatures, 112 permutations", "text hash")
    return sum(megabytes / kernels[name]["median"] / 3600 for name in names)


def opening_seconds(partitions: int) -> float:
    """CPU seconds to open a run of that many partitions and read one of them."""
    with tempfile.TemporaryDirectory() as folder:
        values = np.arange(partitions, dtype=np.uint64)
        table = pa.table({"hash": values, "ref": values, "key": values})
        runs.write_run(f"{folder}/run", [(table, values.astype(np.int64))])
        start = time.process_time()
        for partition in range(10):
            runs.read_partitions([f"{folder}/run"], [partition])
        return (time.process_time() - start) / 10


def reading_speed() -> float:
    """MB of text a CPU second that are decompressed from a documents file."""
    text = pa.array(list(read_texts(DATA / "pile_sample").values())[:1000], pa.large_string())
    table = pa.table({"document_id": hashing.hash128(text), "text": text})
    with tempfile.TemporaryDirectory() as folder:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(f"{folder}/documents", table.schema, options=options) as writer:
            writer.write_table(table)
        start = time.process_time()
        for _ in range(5):
            pa.ipc.open_file(f"{folder}/documents").get_batch(0)
        size: int = pc.sum(pc.binary_length(text)).as_py()
        return 5 * size / 1e6 / (time.process_time() - start)


def routing_speed() -> float:
    """MB of shingle sets a CPU second that are written to a run and read again."""
    values = np.random.default_rng(0).bytes(2**25)
    sets = pa.array([values[at : at + 4096] for at in range(0, len(values), 4096)], pa.large_binary())
    table = pa.table({"ref": np.arange(len(sets), dtype=np.uint64), "shingles": sets})
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        chunks = [(table, np.zeros(len(sets), np.int64))] * 10
        runs.write_run(f"{folder}/run", chunks, compression="none")
        assert sum(len(piece) for piece in runs.row_groups([f"{folder}/run"], 0)) == 10 * len(sets)
        return 10 * len(values) / 1e6 / (time.process_time() - start)


def cluster_start() -> None:
    """A Ray cluster of one worker, with compiled kernels and what tasks import."""
    start_local(1, OMP_NUM_THREADS="1")

    def warm() -> None:
        import pipelines.corpus.stages.deduplicate  # noqa: F401 (what every task imports)

        config = DedupConfig()
        with tempfile.TemporaryDirectory() as folder:
            name, url, documents = write_part(folder, 0, 2000, 0)
            from dedup import candidates, components, decide, exact, index, verify
            from dedup.catalog import open_catalog

            catalog = open_catalog([read_entries(url)], {name: documents}, [])
            exact.write_run(catalog, 0, 0, f"{folder}/exact-run")
            exact.drop_duplicates(catalog, [f"{folder}/exact-run"], [0], f"{folder}/exact")
            candidates.write_run(catalog, 0, [f"{folder}/exact"], 0, f"{folder}/run")
            candidates.find(catalog, [f"{folder}/run"], list(range(14)), 0, f"{folder}/pairs")
            pairs, wanted, sets = [f"{folder}/pairs"], [f"{folder}/wanted"], [f"{folder}/sets"]
            verify.write_wanted(catalog, pairs, 0, *wanted)
            verify.write_sets(catalog, wanted, 0, config, *sets)
            verify.verify(catalog, pairs, sets, 0, config, f"{folder}/edges")
            components.forest(catalog, [f"{folder}/edges"], f"{folder}/forest")
            components.write_members(catalog, [f"{folder}/forest"], 0, f"{folder}/members")
            edges = f"{folder}/cluster-edges"
            components.write_edges(catalog, [f"{folder}/forest"], f"{folder}/edges", 0, edges)
            decide.decide(catalog, [f"{folder}/members"], [edges], 0, config, f"{folder}/near")
            index.write_gone(catalog, [], f"{folder}/gone")

    ray.get(ray.remote(warm).remote())


def extrapolate(
    line: dict[str, Any], documents: int = 2_000_000_000, megabytes: float = 6e6
) -> dict[str, Any]:
    """Core-hours, disk, files and largest partition for a corpus of `documents` and `megabytes` of text."""
    hashing_hours = measuring_hours(megabytes)
    full = line["full"]
    phases_hours = full["CPU seconds"] / line["documents"] * documents / 3600
    pairs = full["candidates"] / line["documents"] * documents
    document_megabytes = megabytes / documents
    compared = min(2 * pairs, documents)
    verify_hours = compared * document_megabytes / kernel_speeds()["shingle sets"]["median"] / 3600
    # The documents of pairs are anywhere, and a record batch is decompressed whole.
    reading_hours = megabytes / reading_speed() / 3600
    # A set is routed to each group that compares it, 8 bytes a word of 6.
    sets = 2 * pairs * document_megabytes / 6 * 8
    routing_hours = sets / routing_speed() / 3600
    config = DedupConfig()
    bits = config.partitions.bit_length() - 1
    partitions = config.minhash.bands << bits
    # The candidates and the index read each partition of every run.
    opening_hours = 2 * partitions * MAX_GROUPS * opening_seconds(partitions) / 3600
    work, index = full["work bytes and files"][0], full["index bytes and files"][0]
    return {
        "documents": documents,
        "terabytes of text": megabytes / 1e6,
        "core-hours": {
            "signatures and text hashes": round(hashing_hours),
            "phases and index": round(phases_hours),
            "shingles of candidate pairs": round(verify_hours),
            "reading texts of candidate pairs": round(reading_hours),
            "routing shingle sets": round(routing_hours),
            "opening the larger number of runs": round(opening_hours),
            "all": round(
                hashing_hours + phases_hours + verify_hours + reading_hours + routing_hours + opening_hours
            ),
        },
        "terabytes of work files": round(work / line["documents"] * documents / 1e12, 2),
        "terabytes of shingle sets, until they are compared": round(sets / 1e6, 2),
        "terabytes of index": round(index / line["documents"] * documents / 1e12, 2),
        "files of work": 14 * MAX_GROUPS + (config.minhash.bands << bits) + (2 << bits),
        "files of index": MAX_GROUPS + ((config.minhash.bands + 1) << bits),
        "largest partition, rows": documents >> bits,
        "largest partition, MB of columns": round((documents >> bits) * 24 / 1e6),
        "assumptions": [
            "750 tokens and 3,000 bytes a document: 1.5T tokens",
            "copies as in the synthetic corpus; candidate pairs a document as there",
            "every record batch holds a document of a candidate pair, and each of them is shingled once",
            "every set is routed once for each of its pairs: no two of them are of one group",
            "texts that are read again, of clusters whose members LSH did not pair, are few",
            "CPU time of the phases grows in proportion to documents; storage is not the limit",
            f"a group has {documents // MAX_GROUPS:,} documents: routing takes about 700 bytes for each",
            f"dedup.partitions = {config.partitions}, {MAX_GROUPS} groups",
        ],
    }


def main() -> None:
    """Measure every size and record the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--folder", default=None)
    parser.add_argument("--record", default="dedup_scale", help="name of the result")
    options = parser.parse_args()
    lines = []
    for documents in options.documents:
        folder = tempfile.mkdtemp(dir=options.folder, prefix="dedup-scale-")
        try:
            lines.append(scale(documents, folder))
        finally:
            shutil.rmtree(folder)
    result = {"circumstances": circumstances(), "sizes": lines, "extrapolation": extrapolate(lines[-1])}
    record(options.record, result)


if __name__ == "__main__":
    main()
