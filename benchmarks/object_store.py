"""What a corpus build asks of an object store, by stage and size.

    python -m benchmarks.object_store [--parts 10 100 1000] [--delay 0.03] [--failing 0.01]

build: corpora of a number of small parts of synthetic text are built, refreshed and verified in this process,
on a server of S3's protocol on this machine. Every try of a request is counted in the client, with its bytes,
for the driver and for the tasks of each stage; `growth` is how many times the requests (or bytes) grow for
each tenfold of the parts beyond ten times. The shards must be those of the same build on a local disk.
driver: the driver's code at 25,000 parts and 22,400 shards of metadata alone: seconds, memory, bytes of a
description. versions: 366 versions, each with a table of 22,400 shards, and how the newest opens.
Results go to benchmarks/results/object_store.json.
"""

import argparse
import json
import math
import pickle
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

import base  # noqa: F401 - before numba
from base import files, manifest
from base.contents import Contents, InputEntry, ShardEntry
from base.layout import Layout
from base.manifest import SCHEMA, Manifest, SourceTotals, TokenizerFacts, Version
from benchmarks.dedup_inputs import circumstances, record
from benchmarks.s3_server import Requests, counted, serving
from dedup.config import LinesConfig
from pipelines.config import Config, load
from pipelines.corpus.stages import route
from pipelines.corpus.stages.edit import Edits
from pipelines.corpus.stages.survivors import Survivors
from pipelines.corpus.stages.tokenize import RunRange
from pipelines.corpus.text.settings import DecontaminateConfig, RedactConfig
from pipelines.corpus.versions import commands
from pipelines.corpus.versions.verify import verify
from pipelines.runtime.executor import InProcess, OnDone
from pipelines.runtime.progress import Counter, silent

DOCUMENTS = 20
"""In a part."""
PARTS, SHARDS, VERSIONS = 25_000, 22_400, 366
SHARD_TOKENS = 2**26


class Watched(InProcess):
    """Runs tasks in this process; what they ask of the store is counted as theirs."""

    def __init__(self, requests: Requests) -> None:
        """requests: where it is counted."""
        object.__setattr__(self, "requests", requests)

    def run_tasks(
        self, function: Callable[[Any], Any], items: list[Any], on_done: OnDone | None = None
    ) -> list[Any]:
        """As Executor says."""
        requests: Requests = self.requests  # type: ignore[attr-defined]
        name = getattr(function, "__name__", type(function).__name__)

        def task(item: Any) -> Any:
            requests.who = name
            try:
                return function(item)
            finally:
                requests.who = "driver"

        return super().run_tasks(task, items, on_done)

    def map_files(
        self, function: Callable[[Any], Any], items: list[Any], sizes: list[int], count: Counter
    ) -> list[Any]:
        """As Executor says."""
        return self.run_tasks(function, items, count)


def texts(seed: int) -> list[str]:
    """Documents of a part: words at random, one of them twice, one nearly."""
    choose = random.Random(seed)
    words = [
        f"{first}{last}" for first in ("ba", "lo", "mi", "tra", "stu") for last in ("n", "rk", "lee", "to")
    ]
    found = [" ".join(choose.choices(words, k=choose.randrange(60, 120))) for _ in range(DOCUMENTS - 2)]
    return [*found, found[0], found[1] + " and more"]


def write_part(folder: str, number: int) -> int:
    """Write a file of one part; its bytes."""
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts(number)).encode()
    files.write_bytes(files.join(folder, f"{number:06d}.jsonl"), content)
    return len(content)


def configuration(raw: str, storage: str, folder: Path) -> Config:
    """A configuration whose shards are small enough that there are as many as parts."""
    file = folder / "configuration.yaml"
    file.write_text(
        json.dumps(
            {
                "name": "benchmark",
                "storage": storage,
                "sources": [{"name": "web", "urls": [f"{raw}/*.jsonl"]}],
                "tokenize": {"vocab_size": 320, "train_bytes": 20_000},
                "shard": {"target_tokens": 2048},
                "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
            }
        )
    )
    return load(str(file))


def build(parts: int, requests: Requests, raw: str, storage: str, folder: Path) -> dict[str, Any]:
    """Build a corpus of so many parts, add one and verify; what was asked by command, and the shards."""
    size = sum(write_part(raw, number) for number in range(parts))
    config = configuration(raw, storage, folder)
    executor = Watched(requests)
    found: dict[str, Any] = {"parts": parts, "input_bytes": size}
    for name in ("prepare", "refresh", "verify"):
        if name == "refresh":
            write_part(raw, parts)
        requests.clear()
        begin = time.process_time()
        if name == "verify":
            damage = verify([manifest.require(storage)], executor=executor, progress=silent)
            assert not damage, damage
        else:
            with commands.claimed(config, name) as claim:
                run = commands.prepare if name == "prepare" else commands.refresh
                run(config, commands.inputs_of(config), claim=claim, executor=executor, progress=silent)
        found[name] = {
            who: {
                "requests": requests.total(who),
                "operations": dict(sorted(requests.operations[who].items())),
                "read_over_input": round(requests.read[who] / size, 3),
                "written_over_input": round(requests.written[who] / size, 3),
                "failed": requests.failed[who],
            }
            for who in sorted(requests.operations)
        }
        found[name]["cpu_seconds"] = round(time.process_time() - begin, 1)
    found["shards"] = {shard.path: shard.digest for shard in manifest.require(storage).shards}
    return found


def builds(sizes: list[int], delay: float, failing: float) -> dict[str, Any]:
    """Builds of several sizes, the smallest of them also on a local disk."""
    found = []
    with serving():
        filesystem = fsspec.filesystem("s3")
        for parts in sizes:
            with tempfile.TemporaryDirectory() as folder:
                requests = Requests()
                place = f"s3://bucket/{parts}"
                with counted(requests, delay=delay, failing=failing):
                    found.append(build(parts, requests, f"{place}/raw", f"{place}/storage", Path(folder)))
                filesystem.rm(place, recursive=True)
            print(json.dumps({key: value for key, value in found[-1].items() if key != "shards"}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        local = build(sizes[0], Requests(), f"{folder}/raw", f"{folder}/storage", Path(folder))
    same = local["shards"] == found[0]["shards"]
    for one in found:
        one["shards"] = len(one["shards"])
    return {"builds": found, "growth": growth(found), "shards_equal_those_on_local_disk": same}


def growth(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By command and who asks: requests of the last size over those of the one before, over ten."""
    if len(found) < 2:
        return {}
    few, many = found[-2:]
    times = math.log10(many["parts"] / few["parts"])
    grown: dict[str, dict[str, float]] = {}
    for name in ("prepare", "refresh", "verify"):
        for who, one in many[name].items():
            before = few[name].get(who)
            if who != "cpu_seconds" and before and before["requests"]:
                ratio = (one["requests"] / before["requests"]) ** (1 / times)
                grown.setdefault(name, {})[who] = round(ratio / 10, 3)
    return grown


def measured(do: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What something gives, its seconds, and the most memory that Python had for it."""
    tracemalloc.start()
    begin = time.perf_counter()
    result = do()
    seconds = time.perf_counter() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, {"seconds": round(seconds, 2), "peak_mib": round(peak / 2**20, 1)}


class Handles(InProcess):
    """An executor whose handles are as small as those of a cluster."""

    def share(self, value: Any) -> Any:
        """A handle."""
        return b"0" * 28


def driver() -> dict[str, Any]:
    """What the driver does to plan the shards of 25,000 parts of 20 sources."""
    sources = [f"source-{number}" for number in range(20)]
    tokens = SHARDS * SHARD_TOKENS // PARTS // len(sources)
    ranges = tuple(
        RunRange(
            source=name,
            split="train",
            batch=0,
            bits=8,
            documents=tokens // 700,
            tokens=tokens,
            bytes=4 * tokens,
        )
        for name in sources
    )
    edits = Edits(
        remove_spans=False,
        lines=LinesConfig(),
        line_keys=(),
        decontaminate=DecontaminateConfig(),
        benchmarks=None,
        redact=RedactConfig(),
    )
    parts = [
        route.PartRuns(
            survivors=Survivors(
                part=f"{number:016x}",
                file=f"s3://bucket/raw/{number}.jsonl.zst",
                documents="s3://bucket/documents",
                entries="s3://bucket/entries",
                dropped=None,
                spans=None,
                edits=edits,
            ),
            tokens=f"s3://bucket/storage/corpus/work/tokens/0123456789abcdef/{number:016x}.arrow",
            ranges=ranges,
        )
        for number in range(PARTS)
    ]

    def plan() -> tuple[int, int, int]:
        chunks = route.share(parts, Handles())
        groups = [
            route.Group(
                source=source,
                split=split,
                count=max(1, round(held.tokens / SHARD_TOKENS)),
                chunks=tuple(sorted(held.chunks)),
                most=max(held.chunks.values()),
                runs=held.runs,
                parts=chunks.parts,
                folder="s3://bucket/storage/corpus/work/shards/0123456789abcdef/routes",
            )
            for (source, split), held in chunks.held.items()
        ]
        wanted = [(group, number) for group in groups for number in range(group.count)]
        routes = route.routes_of(wanted)
        return len(wanted), len(routes), max(len(pickle.dumps(routes[0])), len(pickle.dumps(wanted[0])))

    (shards, routes, description), used = measured(plan)
    return {"parts": PARTS, "shards": shards, "routes": routes, "description_bytes": description, **used}


def versions(count: int = VERSIONS) -> dict[str, Any]:
    """A year of refreshes of a corpus of 22,400 shards: the newest version is opened, and all of them."""
    facts = TokenizerFacts(
        file="tokenizer.json",
        sha256="0" * 64,
        vocab_size=50_277,
        end_of_document="<|endoftext|>",
        end_of_document_id=0,
        dtype="uint16",
    )
    shards = [
        ShardEntry(
            path=f"v0001/shards/web/train-{number:05d}.arrow",
            source="web",
            split="train",
            documents=90_000,
            tokens=SHARD_TOKENS,
            text_bytes=4 * SHARD_TOKENS,
            bytes=2 * SHARD_TOKENS,
            digest=f"{hash(number) & (2**128 - 1):032x}",
            version="v0001",
        )
        for number in range(SHARDS)
    ]
    inputs = [
        InputEntry(
            source="web",
            file=f"s3://bucket/raw/{number:06d}.jsonl.zst",
            start=0,
            bytes=2**28,
            digest=f"{number:032x}",
            part=f"{number:016x}",
        )
        for number in range(PARTS)
    ]
    tables = Contents(shards=shards, inputs=inputs).tables()
    with tempfile.TemporaryDirectory() as storage:
        for number in range(1, count + 1):
            name = f"v{number:04d}"
            folder = Path(Layout(storage).version(name))
            folder.mkdir(parents=True)
            digests = {}
            for path, content in tables.items():
                (folder / path).write_bytes(content)
                digests[path] = files.digest(str(folder / path))
            Manifest(
                schema_number=SCHEMA,
                name="benchmark",
                version=name,
                parent=f"v{number - 1:04d}" if number > 1 else None,
                parent_manifest_hash="0" * 32 if number > 1 else None,
                config_hash="0" * 16,
                config={},
                packages=manifest.package_versions(),
                tokenizer=facts,
                sources={
                    "web": SourceTotals(weight=None, documents=1, tokens=SHARDS * SHARD_TOKENS, text_bytes=1)
                },
                shard_count=SHARDS,
                indexes=[f"index/{name}-{number}" for number in range(8)],
                input_count=PARTS,
                ledger={},
                files=digests,
            ).create(str(folder / "manifest.json"))
        newest, opened = measured(lambda: manifest.require(storage))
        _, listed = measured(lambda: manifest.versions(storage))
        _, with_shards = measured(lambda: _shards(newest))
        size = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "versions": count,
        "newest_opened": opened,
        "all_opened": listed,
        "shards_of_the_newest": with_shards,
        "bytes_of_a_version's_manifest_and_tables": size,
    }


def _shards(version: Version) -> int:
    return len(version.shards)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each request takes longer")
    parser.add_argument("--failing", type=float, default=0.0, help="share of requests answered with 503")
    chosen = parser.parse_args()
    result = {"driver": driver(), "versions": versions()}
    print(json.dumps(result), flush=True)
    result |= builds(chosen.parts, chosen.delay, chosen.failing)
    record("object_store", {**circumstances(), **result})


if __name__ == "__main__":
    main()
