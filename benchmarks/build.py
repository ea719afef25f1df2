"""The whole corpus build: against datatrove, by workers, in memory, and after a changed threshold.

    python -m benchmarks.build [--parts kernels,peer,workers,profile,memory,threshold] [--data ../shared/data]
        [--peer-python PYTHON] [--copies 10] [--megabytes 6]

kernels: signatures, quality rules and tokens of one core on about `megabytes` of pile_sample, ours and
datatrove's (benchmarks/peer_kernels.py) on the same texts, in CPU seconds; ours are the medians of five
passes after one that compiles, tokens with a word cache that is empty at first.
peer: pile_sample from jsonl.zst to shards by datatrove (benchmarks/peer_build.py, in its own environment), by
one worker of ours, and by one of ours with `copies` of it, whose speed counts: it pays the start of processes
and the report once; datatrove's are its CPU seconds, which are fewer.
Both: every document measured by the rules of Gopher, C4 and FineWeb and hardly any
dropped, MinHash 14 x 8 over word 5-grams, personal data replaced,
GPT-NeoX tokens. Ours measures the language too, verifies duplicates and checks its tokens.
workers: half of `copies` of pile_sample, then all (each with its words in another order, so that they are no
duplicates), by two workers, one, and two again; the mean of the seconds counts. Few copies show the start of
processes. Before and after: how many times as much two processes do as one of the rules' kernels alone, the
machine's limit.
profile: pile_sample with every task in this process; the functions in which the time goes, compiled kernels
counted to the function that calls them.
memory: greatest private memory of a worker, use and spill of the object store, for pile_sample and for the
copies, each of other sources.
threshold: a build, and the same with another quality rule: seconds by two workers, and what the tasks read in
another pair of builds, whose tasks run in this process so that imports do not count.
Seconds are those of the wall, from listing the sources to the committed version, on a new Ray cluster each
time, which has had five seconds to start, with an MLflow store that is there; the machine should be idle.
Results go to benchmarks/results/build.json, the parts that were run.
"""

import argparse
import cProfile
import json
import multiprocessing
import os
import platform
import pstats
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
import pyarrow as pa
import ray
import zstandard
from ray._private import internal_api

from benchmarks import peers
from benchmarks.dedup_inputs import read_texts
from benchmarks.dedup_speed import kernel
from dedup import minhash
from dedup.config import DedupConfig
from pipelines.config import Config, load
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.text import quality
from pipelines.corpus.text.settings import QualityConfig
from pipelines.corpus.text.tokenizer import Tokenizer
from pipelines.corpus.versions import commands as prepare
from pipelines.runtime import cluster
from pipelines.runtime.executor import InProcess, OnDone, OnRay

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "build.json"
RULES = {
    kind: ["gopher_repetition", "gopher_quality", "c4", "fineweb"]
    for kind in ("prose", "code", "mathematics", "dialogue", "law")
}
SETTLE = 5.0
"""Seconds in which a new cluster starts what it runs besides workers."""
STORE = tempfile.TemporaryDirectory(prefix="piledriver-bench-")


class Watch(threading.Thread):
    """Watches the private memory of the workers of a local cluster, and what lies in its object store."""

    def __init__(self, seconds: float) -> None:
        """Not started yet; `seconds` pass between two looks."""
        super().__init__(daemon=True)
        self.seconds = seconds
        self.finished = threading.Event()
        self.memory = 0
        self.stored = 0
        self.spilled = 0
        self.busy: dict[int, float] = {}

    def run(self) -> None:
        """Look every few seconds: a look takes some hundredths of one, which workers on all cores miss."""
        while not self.finished.wait(self.seconds):
            self.look()

    def look(self) -> None:
        """Note what is in use now."""
        store = internal_api.get_memory_info_reply(ray._private.state.state).store_stats
        self.stored = max(self.stored, store.object_store_bytes_used)
        self.spilled = store.spilled_bytes_total
        for process in psutil.Process().children(recursive=True):
            try:
                if process.name().startswith("ray::"):
                    memory, times = process.memory_info(), process.cpu_times()
                    self.memory = max(self.memory, memory.rss - memory.shared)
                    self.busy[process.pid] = times.user + times.system
            except psutil.Error:
                continue

    def close(self) -> None:
        """Look a last time."""
        self.finished.set()
        self.join()
        self.look()


def configuration(data: Path, storage: Path, sources: list[Path], workers: int, **overrides: Any) -> Config:
    """A build of jsonl.zst files in The Pile's layout with the GPT-NeoX tokenizer."""
    changes = {
        "storage": str(storage),
        "mixture": {},
        "sources.0.urls": [str(path) for path in sources],
        "tokenize.tokenizer": str(data / "tokenizer" / "tokenizer.json"),
        "ray.workers": workers,
        "tracking.uri": f"sqlite:///{STORE.name}/mlflow.db",
        **overrides,
    }
    settings = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    return load(str(ROOT / "configs" / "pile.yaml"), settings)


def build(config: Config, looks: float = 5) -> dict[str, Any]:
    """Build on a new cluster: seconds in all and by stage, memory of a worker seen every `looks` s."""
    assert config.ray.workers is not None
    cluster.start_local(config.ray.workers)
    time.sleep(SETTLE)
    watch = Watch(looks)
    watch.start()
    stages: dict[str, float] = {}
    begin = time.perf_counter()
    last, since = "list", begin

    def progress(stage: str, *_: Any) -> None:
        nonlocal last, since
        now = time.perf_counter()
        stages[last] = stages.get(last, 0.0) + now - since
        last, since = stage.split()[0], now

    try:
        with prepare.claimed(config, "benchmark") as claim:
            inputs, executor = prepare.inputs_of(config), OnRay(workers=config.ray.workers)
            version = prepare.prepare(
                config, inputs, claim=claim, executor=executor, progress=progress
            ).version
        seconds = time.perf_counter() - begin
        progress("end")
    finally:
        watch.close()
        ray.shutdown()
    read = sum(stages[0]["bytes_in"] for stages in version.manifest.ledger.values())
    return {
        "seconds": round(seconds, 2),
        "megabytes": round(read / 1e6, 2),
        "megabytes_per_second": round(read / 1e6 / seconds, 2),
        "stages": {name: round(value, 2) for name, value in stages.items()},
        "workers_cpu_seconds": round(sum(watch.busy.values()), 2),
        "worker_peak_mib": round(watch.memory / 2**20),
        "object_store_peak_mib": round(watch.stored / 2**20, 1),
        "object_store_spilled_mib": round(watch.spilled / 2**20, 1),
        "tokens": sum(shard.tokens for shard in version.shards),
        "documents": sum(shard.documents for shard in version.shards),
    }


def measure_peer(data: Path, work: Path, python: str, copies: int) -> dict[str, Any]:
    """One worker of ours over pile_sample and copies of it, and datatrove over pile_sample."""
    sources = sorted((data / "pile_sample").glob("*.jsonl.zst"))
    rules = {"dedup.preset": "fineweb"}
    ours = {}
    for count in (1, copies):
        paths = write_copies(sources, work / f"copies-{count}", count)
        ours[f"{count}x"] = run = build(configuration(data, work / f"ours-{count}", paths, 1, **rules))
        print(
            f"ours {count}x    {run['seconds']:8.1f} s  {run['megabytes_per_second']:8.2f} MB/s", flush=True
        )
    folder = work / "peer-input"
    folder.mkdir()
    for path in sources:
        (folder / path.name).symlink_to(path)
    script = ROOT / "benchmarks" / "peer_build.py"
    command: list[str | Path] = [python, script, folder, work / "peer", data / "tokenizer" / "tokenizer.json"]
    output = subprocess.run(command, check=True, capture_output=True, env=peers.environment())
    found = json.loads(output.stdout)
    seconds = sum(stage["cpu"] for stage in found["seconds"].values())
    peer = {
        "cpu_seconds": round(seconds, 1),
        "seconds": round(sum(stage["wall"] for stage in found["seconds"].values()), 1),
        "megabytes_per_second": round(ours["1x"]["megabytes"] / seconds, 3),
        "stages": {name: round(stage["cpu"], 1) for name, stage in found["seconds"].items()},
    }
    print(f"datatrove  {peer['cpu_seconds']:8.1f} s  {peer['megabytes_per_second']:8.3f} MB/s")
    times = {
        name: round(run["megabytes_per_second"] / peer["megabytes_per_second"], 1)
        for name, run in ours.items()
    }
    print(f"megabytes per second over datatrove's: {times}")
    return {"piledriver": ours, "datatrove": peer, "times": times}


def measure_kernels(data: Path, work: Path, python: str, megabytes: float) -> dict[str, Any]:
    """Signatures, quality rules and tokens of one core, ours and the peers', on the same texts."""
    every = list(read_texts(data / "pile_sample").values())
    step = max(1, round(sum(len(text.encode()) for text in every) / 1e6 / megabytes))
    texts = every[::step]
    column = pa.array(texts, pa.large_string())
    size = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = data / "tokenizer" / "tokenizer.json"
    minhash_config = DedupConfig().minhash
    source = SourceConfig(name="sample", urls=["x"])
    rules = QualityConfig.model_validate({"rule_sets": RULES})
    cold = [Tokenizer.load(str(tokenizer), "<|endoftext|>") for _ in range(6)]
    ours = {
        "signatures": kernel(lambda text: minhash.signatures(text, minhash_config), column, size)["median"],
        "quality rules": kernel(
            lambda text: quality.decide(quality.measure(text), source, rules), column, size
        )["median"],
        "tokens": kernel(lambda text: cold.pop().encode(text, end=False), column, size)["median"],
    }
    (work / "texts.json").write_text(json.dumps(texts))
    script = ROOT / "benchmarks" / "peer_kernels.py"
    output = subprocess.run(
        [python, script, work / "texts.json", tokenizer],
        check=True,
        capture_output=True,
        env=peers.environment(),
    )
    theirs = {name: size / took for name, took in json.loads(output.stdout).items() if took}
    rows = {
        name: {
            "ours": speed,
            "peer": round(theirs[name], 3),
            "times": round(speed / theirs[name], 1),
        }
        for name, speed in ours.items()
    }
    if "rensa" in theirs:
        speed, rensa = ours["signatures"], theirs["rensa"]
        rows["signatures, rensa"] = {
            "ours": speed,
            "peer": round(rensa, 2),
            "times": round(speed / rensa, 1),
        }
    for name, row in rows.items():
        speeds = f"ours {row['ours']:7.1f} MB/s  peer {row['peer']:7.3f} MB/s"
        print(f"{name:<18} {speeds}  {row['times']} times the peer's")
    return {"documents": len(texts), "megabytes": round(size, 1), "MB per CPU second": rows}


def _load(texts: pa.LargeStringArray) -> None:
    """Give a process the texts of `_pass`, and compile."""
    _pass.texts = texts  # type: ignore[attr-defined]
    quality.measure(texts.slice(0, 10))


def _pass(until: float) -> int:
    """Passes of the quality rules' kernels over the texts up to an instant of time.time."""
    passes = 0
    while time.time() < until:
        quality.measure(_pass.texts)  # type: ignore[attr-defined]
        passes += 1
    return passes


def machine_scaling(data: Path) -> float:
    """How many times as much two processes do at once as one, of the rules' kernels alone and without Ray.

    Cores of a virtual machine share memory, caches and at times an execution unit. It drifts too.
    """
    texts = pa.array(list(read_texts(data / "pile_sample").values())[::40], pa.large_string())
    done = {1: 0, 2: 0}
    with multiprocessing.get_context("spawn").Pool(2, _load, (texts,)) as pool:
        pool.map(_pass, [time.time() + 5] * 2, chunksize=1)  # both have started
        for processes in (2, 1, 1, 2):
            done[processes] += sum(pool.map(_pass, [time.time() + 10] * processes, chunksize=1))
    return done[2] / done[1]


def measure_workers(data: Path, work: Path, copies: int) -> dict[str, Any]:
    """Half the copies of pile_sample and then all by two workers, one, and two again; the machine itself.

    A virtual machine's speed drifts with its neighbours'; in this order drift counts for both alike, if it is
    even. times = times by busy time x CPU of one over two: how busy two workers are over how busy one is, the
    program's part, and how much longer the same work takes two cores at once, the machine's. "times of the
    second half": of the seconds that all copies took more than half of them, without what every build costs
    once: starts, the ends of stages, the report.
    """
    machine = [machine_scaling(data)]
    sources = write_copies(sorted((data / "pile_sample").glob("*.jsonl.zst")), work / "copies", copies)
    half = [path for number, path in enumerate(sources) if number % copies < copies // 2]
    runs = {
        "half": alternate(data, work / "workers", half),
        "all": alternate(data, work / "workers", sources),
    }
    machine.append(machine_scaling(data))
    some_one, some_two = (mean(run["seconds"] for run in of) for of in runs["half"].values())
    one, two = (mean(run["seconds"] for run in of) for of in runs["all"].values())
    busy = [mean(run["workers_cpu_seconds"] for run in of) for of in runs["all"].values()]
    found = {
        "times": round(one / two, 3),
        "times of half": round(some_one / some_two, 3),
        "times of the second half": round((one - some_one) / (two - some_two), 3),
        "times by busy time": round(busy[1] / two / (busy[0] / one), 3),
        "CPU of one over two": round(busy[0] / busy[1], 3),
        "kernels alone": [round(times, 3) for times in machine],
    }
    print(f"seconds of one worker over those of two: {found}")
    return runs | found


def alternate(data: Path, storage: Path, sources: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Builds of `sources` by two workers, one, and two again: those of "one" worker and those of "two"."""
    runs: dict[str, list[dict[str, Any]]] = {"one": [], "two": []}
    for name, workers in (("two", 2), ("one", 1), ("two", 2)):
        runs[name].append(run := build(configuration(data, storage, sources, workers)))
        shutil.rmtree(storage)
        print(
            f"{workers} workers {run['seconds']:8.1f} s  {run['megabytes_per_second']:8.2f} MB/s", flush=True
        )
        for stage, seconds in run["stages"].items():
            print(f"    {stage:<12} {seconds:7.2f} s  {100 * seconds / run['seconds']:5.1f} %")
    return runs


def strided(text: str, stride: int) -> str:
    """The words in another order, every `stride`-th first: the same words, other n-grams."""
    words = text.split(" ")
    return " ".join(word for at in range(stride) for word in words[at::stride])


def write_copies(sources: list[Path], folder: Path, copies: int, apart: bool = False) -> list[Path]:
    """`copies` of the files, each with its words in another order and, where `apart`, of other sources."""
    folder.mkdir()
    paths = []
    for path in sources:
        lines = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()
        records = [json.loads(line) for line in lines]
        for copy in range(copies):
            content = b"".join(
                json.dumps(
                    {
                        "text": strided(record["text"], copy + 1),
                        "meta": {"pile_set_name": record["meta"]["pile_set_name"] + f"-{copy}" * apart},
                    }
                ).encode()
                + b"\n"
                for record in records
            )
            paths.append(folder / f"{path.name.split('.')[0]}-{copy}.jsonl.zst")
            paths[-1].write_bytes(zstandard.compress(content, 1))
    return paths


class Timed(InProcess):
    """An executor that runs tasks in this process: CPU seconds and megabytes read, by stage.

    The stage is what the progress of the build names, so `progress` is to be given to the build too.
    """

    def __init__(self) -> None:
        """Nothing has run."""
        super().__init__()
        self.profiler = cProfile.Profile()
        self.stage = "list"
        self.seconds: dict[str, float] = {}
        self.megabytes: dict[str, float] = {}

    def run_tasks(
        self, function: Callable[[Any], Any], items: list[Any], on_done: OnDone | None = None
    ) -> list[Any]:
        """As Executor says, counted to the stage that runs; maps over files and actors come here too."""

        def counted(item: Any) -> Any:
            begin, read = time.process_time(), psutil.Process().io_counters().read_chars
            result = self.profiler.runcall(function, item)
            read = psutil.Process().io_counters().read_chars - read
            self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + time.process_time() - begin
            self.megabytes[self.stage] = self.megabytes.get(self.stage, 0.0) + read / 1e6
            return result

        return super().run_tasks(counted, items, on_done)

    def progress(self, name: str, *_: Any) -> None:
        """Note the stage."""
        self.stage = name.split()[0]

    def build(self, config: Config) -> None:
        """Build; counts begin at zero."""
        self.profiler.clear()
        self.seconds, self.megabytes = {}, {}
        with prepare.claimed(config, "benchmark") as claim:
            inputs = prepare.inputs_of(config)
            prepare.prepare(config, inputs, claim=claim, executor=self, progress=self.progress)


def measure_profile(data: Path, work: Path) -> dict[str, Any]:
    """Where the CPU time of the tasks of a build goes: own seconds of functions, in all and by stage."""
    here = Timed()
    for name in ("us_*", "*"):  # the first compiles
        sources = sorted((data / "pile_sample").glob(f"{name}.jsonl.zst"))
        here.build(configuration(data, work / f"profile-{len(sources)}", sources, 1))
    whole = sum(here.seconds.values())
    own: dict[str, float] = {}
    for (file, _, function), row in pstats.Stats(here.profiler).stats.items():  # type: ignore[attr-defined]
        path = Path(file)
        module = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(path.name)
        name = f"{module.with_suffix('').as_posix()} {function}"
        own[name] = own.get(name, 0.0) + row[2]
    largest = sorted(own.items(), key=lambda item: -item[1])[:30]
    for name, seconds in largest:
        print(f"{name:<60} {seconds:6.2f} s  {100 * seconds / whole:5.1f} %")
    return {
        "CPU seconds": round(whole, 2),
        "stages": {name: round(seconds, 2) for name, seconds in here.seconds.items()},
        "own seconds of functions": {name: round(seconds, 2) for name, seconds in largest},
    }


def measure_memory(data: Path, work: Path, copies: int) -> dict[str, Any]:
    """Greatest memory of a worker for pile_sample and for copies of it."""
    sources = sorted((data / "pile_sample").glob("*.jsonl.zst"))
    found = {}
    for count in (1, copies):
        paths = write_copies(sources, work / f"copies-{count}", count, apart=True)
        run = build(configuration(data, work / f"memory-{count}", paths, 2), looks=1)
        shutil.rmtree(work / f"memory-{count}")
        print(
            f"{run['megabytes']:6.0f} MB: greatest memory of a worker {run['worker_peak_mib']} MiB, "
            f"object store {run['object_store_peak_mib']} MiB, spilled {run['object_store_spilled_mib']} MiB"
        )
        found[f"{count}x"] = run
    return found


def measure_threshold(data: Path, work: Path) -> dict[str, Any]:
    """A build, and another of the same storage with a stricter rule: seconds, and what their tasks read."""
    sources = sorted((data / "pile_sample").glob("*.jsonl.zst"))
    stricter = {"quality.basic.min_words": 30}
    here = Timed()
    here.build(configuration(data, work / "warm", sources[-2:], 1))
    found = {}
    for name, changes in (("build", {}), ("changed rule", stricter)):
        run = build(configuration(data, work / "threshold", sources, 2, **changes))
        here.build(configuration(data, work / "read", sources, 1, **changes))
        run["megabytes_read"] = {stage: round(size, 2) for stage, size in here.megabytes.items()}
        read = sum(here.megabytes.values())
        print(f"{name:<14} {run['seconds']:7.1f} s, tasks read {read:7.1f} MB: {run['megabytes_read']}")
        found[name] = run
    return found


def main() -> None:
    """Run the chosen parts, print what they found, add it to the results."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--parts", default="kernels,peer,workers,profile,memory,threshold")
    options.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    options.add_argument("--copies", type=int, default=10)
    options.add_argument("--megabytes", type=float, default=6)
    peers.add_options(options)
    given = options.parse_args()
    parts = given.parts.split(",")
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    # The import of MLflow and the making of its store are paid here, once.
    small = sorted((given.data / "pile_sample").glob("us_*.jsonl.zst"))
    if parts != ["kernels"]:
        build(configuration(given.data, Path(STORE.name), small, 1))
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="piledriver-bench-") as folder:
            work = Path(folder)
            if part == "kernels":
                result = measure_kernels(given.data, work, peers.python(given), given.megabytes)
            elif part == "peer":
                result = measure_peer(given.data, work, peers.python(given), given.copies)
            elif part == "workers":
                result = measure_workers(given.data, work, given.copies)
            elif part == "profile":
                result = measure_profile(given.data, work)
            elif part == "memory":
                result = measure_memory(given.data, work, given.copies)
            elif part == "threshold":
                result = measure_threshold(given.data, work)
            else:
                options.error(
                    f"--parts {part}: allowed are kernels, peer, workers, profile, memory, threshold"
                )
        found[part] = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "commit": revision.stdout.strip(),
            "command": "python -m benchmarks.build " + " ".join(sys.argv[1:]),
            **result,
        }
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
