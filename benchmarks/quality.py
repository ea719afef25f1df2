"""Quality rules against datatrove's: verdicts of every rule and rule set, and speed.

    python -m benchmarks.quality [--peer-python PYTHON | --peer VENV] [--documents 0]

Both read the texts of pile_sample as they stand in its files (nothing is cleaned before). A rule agrees on a
document if both drop it or both keep it; documents on which datatrove fails (it divides by the number of
words) are counted apart. Speeds are megabytes of UTF-8 per second of CPU time of one core: ours of
`quality.measure` (every measured column) and `quality.decide`, datatrove's of its four filters, which stop
at the first rule that a document breaks. Without --peer-python an environment with datatrove is made in
--peer.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "numba"))

import numpy as np
import pyarrow as pa

from benchmarks import peers
from benchmarks.dedup_inputs import DATA, circumstances, read_texts, record
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.text import quality
from pipelines.corpus.text.settings import QualityConfig, RuleSet

SETS: tuple[RuleSet, ...] = ("gopher_quality", "gopher_repetition", "fineweb", "c4")
BATCH = 500
REPEATS = 3
EXAMPLES = 3
SOURCE = SourceConfig(name="sample", urls=["x"])


def ask_datatrove(python: str, texts: list[str]) -> dict[str, Any]:
    """What peer_quality.py writes: verdicts by rule set and rule, and CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "texts.json", Path(folder) / "verdicts.json"
        asked.write_text(json.dumps(texts))
        script = Path(__file__).parent / "peer_quality.py"
        subprocess.run([python, str(script), str(asked), str(answered)], check=True, env=peers.environment())
        result: dict[str, Any] = json.loads(answered.read_text())
    return result


def measure(texts: list[str]) -> tuple[pa.Table, float]:
    """Measured columns, and the median CPU seconds of measuring and of deciding by the four rule sets."""
    batches = [pa.array(texts[at : at + BATCH], pa.large_string()) for at in range(0, len(texts), BATCH)]
    config = QualityConfig(rule_sets={"prose": list(SETS)})
    seconds = []
    quality.decide(quality.measure(batches[0][:1]), SOURCE, config)
    for _ in range(REPEATS):
        start = time.process_time()
        tables = [quality.measure(batch) for batch in batches]
        for table in tables:
            quality.decide(table, SOURCE, config)
        seconds.append(time.process_time() - start)
    return pa.concat_tables(tables).combine_chunks(), statistics.median(seconds)


def compare(
    names: list[str], reason: list[str | None], value: np.ndarray, peer: list[str | None]
) -> dict[str, Any]:
    """Agreement of one rule or rule set."""
    asked = [row for row in range(len(names)) if peer[row] != "error"]
    differing = [row for row in asked if (reason[row] is None) != (peer[row] is None)]
    return {
        "documents": len(asked),
        "dropped by ours": sum(reason[row] is not None for row in asked),
        "dropped by datatrove": sum(peer[row] is not None for row in asked),
        "agreement %": round(100 * (1 - len(differing) / max(len(asked), 1)), 3),
        "datatrove failed": len(names) - len(asked),
        "differences": [
            {
                "document": names[row],
                "ours": reason[row],
                "measured": None if np.isnan(value[row]) else round(float(value[row]), 5),
                "datatrove": peer[row],
            }
            for row in differing[:EXAMPLES]
        ],
    }


def agreement(names: list[str], measured: pa.Table, peer: dict[str, list[str | None]]) -> dict[str, Any]:
    """Agreement of every rule set and, with that rule alone, of every rule."""
    rows: dict[str, Any] = {}
    for rules in SETS:
        config = QualityConfig(rule_sets={"prose": [rules]})
        section = getattr(config, rules)
        reason, value = quality.decide(measured, SOURCE, config)
        rows[rules] = compare(names, reason.to_pylist(), value.to_numpy(), peer[rules])
        for rule in section.declared(rules):
            column, broken = quality.breaks(measured, rule)
            alone = [rule.field if row else None for row in broken.tolist()]
            rows[rule.name] = compare(names, alone, column, peer[rule.name])
    return rows


def main() -> None:
    """Ask both, print a table and write results/quality.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument(
        "--documents", type=int, default=0, help="every n-th, so that about this many; 0: all"
    )
    peers.add_options(parser)
    options = parser.parse_args()
    texts = read_texts(options.data / "pile_sample")
    step = max(len(texts) // options.documents, 1) if options.documents else 1
    names = [f"{file}:{line}" for file, line in texts][::step]
    chosen = list(texts.values())[::step]
    megabytes = sum(len(text.encode()) for text in chosen) / 1e6
    measured, seconds = measure(chosen)
    peer = ask_datatrove(peers.python(options), chosen)
    rows = agreement(names, measured, peer["verdicts"])
    print(f"{'rule':<62}{'documents':>10}{'ours':>7}{'theirs':>7}{'agreement %':>13}")
    for rule, row in rows.items():
        counts = f"{row['documents']:>10}{row['dropped by ours']:>7}{row['dropped by datatrove']:>7}"
        print(f"{rule if '.' not in rule else '  ' + rule:<62}{counts}{row['agreement %']:>13.2f}")
    ours, theirs = megabytes / seconds, megabytes / peer["seconds"]
    result = {
        "circumstances": circumstances(),
        "datatrove": peers.DATATROVE,
        "documents": len(chosen),
        "megabytes": round(megabytes, 1),
        "MB/s of one core": {"ours": round(ours, 1), "datatrove": round(theirs, 3)},
        "times datatrove": round(ours / theirs, 1),
        "rules": rows,
    }
    record("quality", result)


if __name__ == "__main__":
    main()
