"""What it costs that one command at a time writes a corpus.

    python -m benchmarks.claims [--data ../shared/data] [--times 200]

local: seconds to claim a folder and give it back, and of one look whether the claim still holds, on this
disk. s3: the same and the requests of each, on a server of the protocol on this machine.
build: pile_sample built with every task in this process, after one build that compiles: looks at the claim,
the seconds in them and in claiming, and their share of the build.
Results go to benchmarks/results/claims.json.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import base  # noqa: F401 - before numba
from base import claims, files
from base.claims import Claim, ClaimsConfig, held
from benchmarks.dedup_inputs import circumstances, record
from benchmarks.s3_server import Requests, counted, serving
from pipelines.config import load
from pipelines.corpus.versions import commands
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent

ROOT = Path(__file__).parents[1]


def seconds(do: Callable[[], Any], times: int) -> float:
    """The median of how long something takes."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        do()
        taken.append(time.perf_counter() - begin)
    return round(median(taken), 6)


def claim_once(folder: str) -> None:
    """Claim a folder and give it back."""
    with held(folder, "benchmark", ClaimsConfig()):
        pass


def measure(folder: str, times: int) -> dict[str, float]:
    """Seconds of a claim and of a look at it, and of a file created once beside one that is written."""
    found = {"claim_seconds": seconds(lambda: claim_once(folder), times)}
    with held(folder, "benchmark", ClaimsConfig()) as claim:
        found["look_seconds"] = seconds(claim.check, times)
    names = iter(range(2 * times))
    content = b"x" * 1000
    found["write_seconds"] = seconds(
        lambda: files.write_bytes(files.join(folder, f"{next(names)}"), content), times
    )
    found["create_seconds"] = seconds(
        lambda: files.create(files.join(folder, f"{next(names)}"), content), times
    )
    return found


def measure_s3(times: int) -> dict[str, Any]:
    """The same on a server on this machine, and the requests of a claim and of a look."""
    with serving():
        folder = "s3://bucket/corpus"
        found: dict[str, Any] = measure(folder, times)
        found["claim_requests"] = requests(lambda: claim_once(folder))
        with held(folder, "benchmark", ClaimsConfig()) as claim:
            found["look_requests"] = requests(claim.check)
        return found


def requests(do: Callable[[], Any]) -> int:
    """How many requests of S3 something makes."""
    found = Requests()
    with counted(found):
        do()
    return found.total("driver")


def measure_build(data: Path, folder: Path) -> dict[str, Any]:
    """How much of a build goes to its claim."""
    spent = {"looks": 0.0, "claim": 0.0}
    looks = 0
    check, take, release = Claim.check, claims._take, claims._release

    @contextmanager
    def timed(name: str) -> Any:
        begin = time.perf_counter()
        yield
        spent[name] += time.perf_counter() - begin

    def checked(claim: Claim) -> None:
        nonlocal looks
        looks += 1
        with timed("looks"):
            check(claim)

    def taken(*arguments: Any) -> int:
        with timed("claim"):
            return take(*arguments)

    def released(claim: Claim) -> None:
        with timed("claim"):
            release(claim)

    build(data, folder / "first")
    with (
        mock.patch.object(Claim, "check", checked),
        mock.patch.object(claims, "_take", taken),
        mock.patch.object(claims, "_release", released),
    ):
        whole = build(data, folder / "second")
    return {
        "build_seconds": round(whole, 3),
        "looks": looks,
        "seconds_in_looks": round(spent["looks"], 5),
        "seconds_in_claiming": round(spent["claim"], 5),
        "share_of_build": round((spent["looks"] + spent["claim"]) / whole, 6),
    }


def build(data: Path, folder: Path) -> float:
    """Seconds of a build in an empty folder."""
    changes = [
        f"storage={folder}/storage",
        "mixture={}",
        f'sources.0.urls=["{data}/pile_sample/*.jsonl.zst"]',
        f"tokenize.tokenizer={data}/tokenizer/tokenizer.json",
        f"tracking.uri=sqlite:///{folder.parent}/mlflow.db",
    ]
    config = load(str(ROOT / "configs" / "pile.yaml"), changes)
    begin = time.perf_counter()
    with commands.claimed(config, "benchmark") as claim:
        inputs = commands.inputs_of(config)
        commands.prepare(config, inputs, claim=claim, executor=InProcess(), progress=silent)
    taken = time.perf_counter() - begin
    shutil.rmtree(folder)
    return taken


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--times", type=int, default=200)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="claims-", dir=ROOT / ".cache") as folder:
        result = {
            "local": measure(f"{folder}/claimed", chosen.times),
            "s3": measure_s3(max(chosen.times // 10, 5)),
            "build": measure_build(chosen.data.absolute(), Path(folder)),
        }
    record("claims", {**circumstances(), "times": chosen.times, **result})


if __name__ == "__main__":
    main()
