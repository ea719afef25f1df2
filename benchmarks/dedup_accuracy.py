"""Recall and precision of deduplication on pile_messy, whose similar pairs are all known.

    python -m benchmarks.dedup_accuracy [--data ../shared/data] [--no-peers]

For every threshold: *candidates* is the share of the true pairs with a word-5-gram Jaccard similarity of at
least the threshold that agree in a band, *expected* the mean of 1 - (1 - s^r)^b over the same pairs, and
*dropped* the share of the pairs of which not both documents stay. Precision is the share of the dropped
documents whose exact Jaccard similarity with the kept document, recomputed here with Python sets, reaches
the threshold; *candidate precision* is edges / candidates, before verification.

Side by side: the bands of datatrove, rensa and text-dedup on the same texts with the same 14 bands of 8
(benchmarks/peer_dedup.py). They do not verify: what agrees in a band is one cluster, of which the first
document stays. *recall* and *precision* of their pairs, and of what they so drop, are against the same truth;
the similarity of a pair that the truth does not list is below 0.3. The truth's words are ours; datatrove
makes numbers equal and text-dedup counts the gaps between marks: part of their loss is another idea of words.
"""

import argparse
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "numba"))

import numpy as np
import pyarrow as pa

from base import files
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
from dedup import minhash
from dedup.catalog import read_entries
from dedup.config import DedupConfig
from pipelines.corpus.stages.deduplicate import deduplicate
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def shingles(text: str) -> set[tuple[str, ...]]:
    """The set of word 5-grams, one of all words if there are fewer."""
    words = re.findall(r"\w+", text.lower())
    if 0 < len(words) < 5:
        return {tuple(words)}
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def true_pairs(data: Path, rows: dict[tuple[str, int], int]) -> list[tuple[int, int, float]]:
    """(row, row, similarity) of every known pair of which both documents could be read."""
    pairs = []
    for line in (data / "pile_messy/truth/all_pairs_j30.jsonl").open():
        pair = json.loads(line)
        left, right = (
            [rows[key] for place in pair[side] if (key := (place["file"], place["line"])) in rows]
            for side in "ab"
        )
        pairs += [(a, b, pair["j_word5"]) for a in left for b in right]
    for line in (data / "pile_messy/truth/exact_groups.jsonl").open():
        group = json.loads(line)
        members = [rows[key] for place in group["docs"] if (key := (place["file"], place["line"])) in rows]
        if not group["empty"]:
            pairs += [(a, b, 1.0) for i, a in enumerate(members) for b in members[:i]]
    return pairs


def accuracy(texts: list[str], pairs: list[tuple[int, int, float]], threshold: float) -> dict[str, Any]:
    """One line of the table."""
    config = DedupConfig(threshold=threshold)
    column = pa.array(texts, pa.large_string())
    bands, _ = minhash.signatures(column, config.minhash)
    chosen = [pair for pair in pairs if pair[2] >= threshold]
    left, right = np.array([pair[0] for pair in chosen]), np.array([pair[1] for pair in chosen])
    similarity = np.array([pair[2] for pair in chosen])
    agree = (bands[left] == bands[right]).any(axis=1)
    expected = minhash.candidate_probability(similarity, config.minhash)
    with tempfile.TemporaryDirectory() as folder:
        entries, documents = write_part(folder, f"{0:016x}", column, config.minhash)
        outcome = deduplicate(
            [read_entries(entries)],
            {f"{0:016x}": documents},
            [],
            work=f"{folder}/work",
            config=config,
            executor=InProcess(),
            progress=silent,
        )
        dropped = pa.concat_tables([files.read_parquet(url) for url in outcome.dropped])
        numbers = {
            identifier: row
            for row, identifier in enumerate(files.read_parquet(entries, ["document_id"])[0].to_pylist())
        }
    gone = {
        row: numbers[kept]
        for row, kept in zip(
            *map(pa.ChunkedArray.to_pylist, (dropped["row"], dropped["kept_id"])), strict=True
        )
    }
    right_ones = 0
    for row, kept in gone.items():
        one, other = shingles(texts[row]), shingles(texts[kept])
        same = " ".join(texts[row].split()) == " ".join(texts[kept].split())
        right_ones += same or bool(len(one & other) / max(len(one | other), 1) >= np.float32(threshold))
    covered = sum(a in gone or b in gone for a, b, _ in chosen)
    return {
        "threshold": threshold,
        "true pairs": len(chosen),
        "candidates": round(float(agree.mean()), 4),
        "expected": round(float(expected.mean()), 4),
        "dropped": round(covered / len(chosen), 4),
        "dropped documents": len(gone),
        "precision": right_ones / len(gone),
        "candidate precision": round(outcome.edges / outcome.candidates, 4),
        "by reason": outcome.counts,
        "clusters by size": dict(sorted(outcome.cluster_sizes.items())),
    }


def side_by_side(bands: list[list[str] | None], truth: dict[tuple[int, int], float]) -> list[dict[str, Any]]:
    """Recall and precision, for each threshold, of the pairs that agree in a band and of their clusters."""
    kept = list(range(len(bands)))

    def find(row: int) -> int:
        while kept[row] != row:
            row = kept[row]
        return row

    pairs: set[tuple[int, int]] = set()
    for band in range(14):
        buckets: dict[str, list[int]] = {}
        for row, hashes in enumerate(bands):
            if hashes is not None:
                buckets.setdefault(hashes[band], []).append(row)
        for members in buckets.values():
            pairs.update((a, b) for i, b in enumerate(members) for a in members[:i])
    for a, b in pairs:
        one, other = sorted((find(a), find(b)))
        kept[other] = one
    gone = {row: find(row) for row in range(len(bands)) if find(row) != row}
    lines = []
    for threshold in THRESHOLDS:
        true = {pair for pair, similarity in truth.items() if similarity >= threshold}
        right = sum(truth.get((min(pair), max(pair)), 0.0) >= threshold for pair in gone.items())
        lines.append(
            {
                "threshold": threshold,
                "pairs, recall": round(len(true & pairs) / len(true), 4),
                "pairs, precision": round(len(true & pairs) / max(len(pairs), 1), 4),
                "dropped, recall": round(sum(a in gone or b in gone for a, b in true) / len(true), 4),
                "dropped, precision": round(right / max(len(gone), 1), 4),
                "dropped documents": len(gone),
            }
        )
    return lines


def main() -> None:
    """Measure every threshold and record the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--no-peers", action="store_true", help="leave out the other tools")
    add_peer_options(parser)
    options = parser.parse_args()
    places = read_texts(options.data / "pile_messy")
    rows = {place: row for row, place in enumerate(places)}
    texts, pairs = list(places.values()), true_pairs(options.data, rows)
    lines = [accuracy(texts, pairs, threshold) for threshold in THRESHOLDS]
    config = DedupConfig().minhash
    result: dict[str, Any] = {
        "circumstances": circumstances(),
        "documents": len(texts),
        "minhash": config.model_dump(),
        "thresholds": lines,
    }
    truth: dict[tuple[int, int], float] = {}
    for a, b, similarity in pairs:
        key = min(a, b), max(a, b)
        truth[key] = max(similarity, truth.get(key, 0.0))
    matrix, shingled = minhash.signatures(pa.array(texts, pa.large_string()), config)
    hexes = [[f"{h:x}" for h in row] if some else None for row, some in zip(matrix, shingled, strict=True)]
    result["unverified, side by side"] = {"piledriver": side_by_side(hexes, truth)}
    if not options.no_peers:
        for tool, python in peer_pythons(options).items():
            found = peer_bands(tool, python, texts)
            name = f"{tool} {found['version']}"
            result["unverified, side by side"][name] = side_by_side(found["bands"], truth)
    record("dedup_accuracy", result)


if __name__ == "__main__":
    main()
