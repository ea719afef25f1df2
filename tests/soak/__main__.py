"""Long draws: `python -m tests.soak KIND [--draws N] [--seed FIRST]`; without a KIND all kinds to their full
counts, as `make soak` does.

Finished draws are appended to .cache/soak/KIND.jsonl and not drawn again, except for those that failed; sums
go to benchmarks/results/soak.json. Deleting the first file begins anew.
"""

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import SkipTest

import base  # noqa: F401 - before numba
from benchmarks.dedup_inputs import circumstances
from tests.soak import kinds, warm

ROOT = Path(__file__).parents[2]
DRAWN = ROOT / ".cache" / "soak"
RESULTS = ROOT / "benchmarks" / "results" / "soak.json"


def main() -> None:
    """Draw, and write down what was seen; exit code 1 when a draw failed or none could be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=list(kinds.KINDS), help="default: all of them")
    parser.add_argument("--draws", type=int, help="default: the kind's full count")
    parser.add_argument("--seed", type=int, default=0, help="of the first draw; the others follow")
    chosen = parser.parse_args()
    warm.MODULES.append("model.train")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what is mounted is taken away
    good = True
    for name in [chosen.kind] if chosen.kind else list(kinds.KINDS):
        count = len(kinds.KINDS[name].full) if chosen.draws is None else chosen.draws
        good = soak(name, range(chosen.seed, chosen.seed + count)) and good
    sys.exit(0 if good else 1)


def soak(name: str, seeds: range) -> bool:
    """Make the draws of one kind that are not made yet; whether all of `seeds` went well."""
    DRAWN.mkdir(parents=True, exist_ok=True)
    lines = DRAWN / f"{name}.jsonl"
    found = read(lines)
    circumstance = circumstances()
    for seed in seeds:
        if found.get(seed, {}).get("failure", "not drawn") is None:
            continue
        try:
            found[seed] = {**draw(name, seed), "commit": circumstance["commit"]}
        except SkipTest as reason:
            print(f"{name}: cannot be drawn here: {reason}")
            return False
        with lines.open("a") as file:
            file.write(json.dumps(found[seed]) + "\n")
        failed = sum(found[one]["failure"] is not None for one in seeds if one in found)
        print(f"{name} {seed}: {found[seed]['counts']}, {failed} failed so far", flush=True)
        if found[seed]["failure"]:
            print(found[seed]["failure"], flush=True)
    record(name, found, circumstance)
    return all(found[seed]["failure"] is None for seed in seeds)


def read(lines: Path) -> dict[int, dict[str, Any]]:
    """The draws of a file by their seeds, the last of each; a line that a kill cut short is none."""
    found = {}
    for line in lines.read_text().splitlines(keepends=True) if lines.exists() else []:
        if line.endswith("\n"):
            value = json.loads(line)
            found[value["seed"]] = value
    return found


def draw(name: str, seed: int) -> dict[str, Any]:
    """One draw in a new folder: its seed, seconds, counts, and the story of its failure or None."""
    begin = time.monotonic()
    counts: dict[str, int] = {}
    failure = None
    with tempfile.TemporaryDirectory(prefix=f"soak-{name}-", ignore_cleanup_errors=True) as folder:
        try:
            counts = kinds.draw(name, seed, Path(folder))
        except SkipTest:
            raise
        except Exception:
            failure = traceback.format_exc()
    seconds = round(time.monotonic() - begin, 2)
    return {"seed": seed, "seconds": seconds, "counts": counts, "failure": failure}


def record(name: str, found: dict[int, dict[str, Any]], circumstance: dict[str, Any]) -> None:
    """Write the sums of a kind's draws beside those of the other kinds."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    total: Counter[str] = Counter()
    for one in found.values():
        total.update(one["counts"])
    results[name] = {
        **circumstance,
        "command": shlex.join(["python", "-m", "tests.soak", *sys.argv[1:]]),
        "commit": ", ".join(sorted({one["commit"] for one in found.values()})),
        "draws": len(found),
        "seeds": ranges(sorted(found)),
        "counts": dict(sorted(total.items())),
        "failures": {str(seed): one["failure"] for seed, one in sorted(found.items()) if one["failure"]},
        "seconds": round(sum(one["seconds"] for one in found.values()), 1),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def ranges(seeds: list[int]) -> list[list[int]]:
    """Ascending numbers as pairs of the first and the last of those that follow each other."""
    pairs: list[list[int]] = []
    for seed in seeds:
        if pairs and pairs[-1][1] == seed - 1:
            pairs[-1][1] = seed
        else:
            pairs.append([seed, seed])
    return pairs


if __name__ == "__main__":
    main()
