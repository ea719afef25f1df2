"""Deduplication killed with SIGKILL at many points ends with the same bytes as one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from dedup.catalog import Entries
from tests.helpers.duplicates import THOROUGH, content, corpus_of, write_parts
from tests.helpers.values import known

ROOT = Path(__file__).parents[4]

DRIVER = """
import json, os, sys, time
import ray
from pipelines.corpus.stages import deduplicate, indexes, phases
from pipelines.runtime.executor import OnRay
from pipelines.runtime.cluster import start_local
from tests.helpers.duplicates import THOROUGH
for name, size in {sizes!r}.items():
    setattr(phases if hasattr(phases, name) else deduplicate, name, size)
start_local({workers}, PYTHONPATH={paths!r})
entries, urls = json.loads(sys.argv[1])
raylet = ray._private.worker._global_node.all_processes["raylet"][0].process.pid
print("raylet", raylet, flush=True)

def progress(phase, done, total, *_):
    print(phase, done, total, flush=True)
    # Whoever reads this may kill someone now.
    sys.stdin.readline()

ways = dict(config=THOROUGH, executor=OnRay(workers={workers}), progress=progress)
outcome = deduplicate.deduplicate(entries, urls, [], work=sys.argv[2] + "/work", **ways)
indexes.write_index(entries, urls, outcome.dropped, version="v0001", output=sys.argv[2] + "/index", **ways)
print("finished", json.dumps(outcome.counts), flush=True)
ray.shutdown()
"""
SIZES = {"GROUP_ROWS": 40, "PARTITION_ROWS": 100, "TASK_ROWS": 4000, "FOREST_ROWS": 100}


class Run:
    """One driver process, paused at every step of the progress."""

    def __init__(self, folder: Path, inputs: tuple[list[Entries], dict[str, str]], workers: int = 2) -> None:
        paths = str(ROOT)
        source = DRIVER.format(paths=paths, sizes=SIZES, workers=workers)
        self.process = subprocess.Popen(
            [sys.executable, "-c", source, json.dumps(inputs), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            text=True,
        )
        self.raylet = 0
        self.ask, self.answers = known(self.process.stdin), known(self.process.stdout)

    def lines(self):
        for line in self.answers:
            if line.startswith("raylet"):
                self.raylet = int(line.split()[1])
                continue
            yield line.strip()
            if not line.startswith("finished"):
                self.ask.write("\n")
                self.ask.flush()

    def kill_driver(self) -> None:
        """SIGKILL of the driver and, as when the machine is lost, of its workers."""
        processes = [self.process, psutil.Process(self.raylet), *self.workers()]
        children = psutil.Process(self.process.pid).children(recursive=True)
        for process in [*processes, *children]:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def workers(self) -> list[psutil.Process]:
        return [p for p in psutil.Process(self.raylet).children() if p.name().startswith("ray::")]


@pytest.mark.ray
@pytest.mark.slow
def test_the_same_bytes_after_kills_in_every_phase(tmp_path):
    inputs = write_parts(tmp_path / "in", corpus_of(1, 240), THOROUGH, parts=6)
    steps = list(Run(tmp_path / "whole" / "work", inputs).lines())
    assert steps[-1].startswith("finished")
    expected = content(tmp_path / "whole" / "work")
    assert list(Run(tmp_path / "eight" / "work", inputs, workers=8).lines())[-1] == steps[-1]
    assert content(tmp_path / "eight" / "work") == expected
    phases = sorted({line.rsplit(" ", 2)[0] for line in steps[:-1]})
    assert len(phases) > 15
    generator = np.random.default_rng(7)
    wanted, workers_killed, starts = set(phases), 0, 0
    while True:
        starts += 1
        run = Run(tmp_path / "killed" / "work", inputs)
        last = ""
        for line in run.lines():
            last = line
            phase = line.rsplit(" ", 2)[0]
            if line.startswith("finished") or phase not in wanted:
                continue
            wanted.discard(phase)
            if len(wanted) % 5 == 0:
                # A few milliseconds into the phase's next task.
                run.ask.write("\n")
                run.ask.flush()
                time.sleep(generator.random() * 0.05)
                run.kill_driver()
                break
            victims = run.workers()
            if victims:
                workers_killed += 1
                os.kill(victims[generator.integers(len(victims))].pid, signal.SIGKILL)
        else:
            run.process.wait()
        if last.startswith("finished"):
            break
    assert not wanted and starts > 3 and workers_killed > 5
    assert content(tmp_path / "killed" / "work") == expected
    assert last == steps[-1]
