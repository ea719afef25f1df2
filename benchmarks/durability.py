"""What it costs that a corpus build is on the disk when it says so.

    python -m benchmarks.durability [--data ../shared/data] [--builds 5]

syncs: pile_sample built with every task in this process, by turns with syncs and with none, after one build
that compiles: seconds of each, the number of syncs, the seconds that threads spent in them, and the seconds
for which the build waited (syncs of one task run at the same time).
slower: the same builds with syncs that take 1, 5 and 10 milliseconds longer, which stand for other disks.
The machine should be idle. Results go to benchmarks/results/durability.json.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from benchmarks.dedup_inputs import circumstances, record
from pipelines.config import load
from pipelines.corpus.versions import commands
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent

ROOT = Path(__file__).parents[1]
SLOWER = (0.001, 0.005, 0.010)


class Syncs:
    """Stands in for os.fsync, and counts."""

    def __init__(self, sync: Callable[[Any], None], slower: float = 0.0) -> None:
        """sync: what is called; slower: seconds that each call takes longer."""
        self.sync, self.slower = sync, slower
        self.lock = threading.Lock()
        self.number = self.running = 0
        self.seconds = self.waited = 0.0
        self.since = 0.0

    def __call__(self, descriptor: Any) -> None:
        """Sync."""
        begin = time.perf_counter()
        with self.lock:
            if not self.running:
                self.since = begin
            self.running += 1
        if self.slower:
            time.sleep(self.slower)
        self.sync(descriptor)
        with self.lock:
            now = time.perf_counter()
            self.number += 1
            self.running -= 1
            self.seconds += now - begin
            if not self.running:
                self.waited += now - self.since


def build(data: Path, folder: Path, syncs: Syncs) -> float:
    """Seconds of a build in an empty folder, with `syncs` in place of those of the system."""
    changes = [
        f"storage={folder}/storage",
        "mixture={}",
        f'sources.0.urls=["{data}/pile_sample/*.jsonl.zst"]',
        f"tokenize.tokenizer={data}/tokenizer/tokenizer.json",
        f"tracking.uri=sqlite:///{folder.parent}/mlflow.db",
    ]
    config = load(str(ROOT / "configs" / "pile.yaml"), changes)
    os.sync()  # of the build before
    with mock.patch.object(os, "fsync", syncs):
        begin = time.perf_counter()
        with commands.claimed(config, "benchmark") as claim:
            inputs = commands.inputs_of(config)
            commands.prepare(config, inputs, claim=claim, executor=InProcess(), progress=silent)
        seconds = time.perf_counter() - begin
    shutil.rmtree(folder)
    return seconds


def measure(data: Path, folder: Path, builds: int) -> dict[str, Any]:
    """Build by turns."""
    system = os.fsync

    def none(descriptor: Any) -> None:
        """No sync."""

    build(data, folder / "first", Syncs(system))
    slow = {f"{1000 * seconds:g} ms slower": seconds for seconds in SLOWER}
    kinds = ["with", "without", *slow]
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    last: dict[str, Syncs] = {}
    for number in range(builds):
        for name in kinds:
            last[name] = Syncs(none if name == "without" else system, slow.get(name, 0.0))
            seconds[name].append(build(data, folder / f"{number}-{name.replace(' ', '-')}", last[name]))
    middle = {name: median(values) for name, values in seconds.items()}
    return {
        "build_seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "syncs": last["with"].number,
        "seconds_in_syncs": round(last["with"].seconds, 3),
        "seconds_waited_for_syncs": round(last["with"].waited, 3),
        "share_of_build": round(last["with"].waited / seconds["with"][-1], 4),
        "medians_with_to_without": round(middle["with"] / middle["without"], 4),
        "slower": {
            name: {
                "seconds_in_syncs": round(last[name].seconds, 3),
                "seconds_waited_for_syncs": round(last[name].waited, 3),
                "share_of_build": round(last[name].waited / seconds[name][-1], 4),
            }
            for name in slow
        },
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--builds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="durability-") as folder:
        result = measure(chosen.data.absolute(), Path(folder), chosen.builds)
    record("durability", {**circumstances(), "builds": chosen.builds, **result})


if __name__ == "__main__":
    main()
