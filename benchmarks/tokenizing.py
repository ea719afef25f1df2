"""Encoding speed of one core against Hugging Face `tokenizers` (and kitoken), and how many documents agree.

    python -m benchmarks.tokenizing [--data ../shared/data] [--kitoken PYTHON]

Every engine encodes every readable document of the three sample folders with GPT-NeoX-20B's tokenizer, in
batches of 1,000 documents, single-threaded; speeds are megabytes of UTF-8 per second of CPU time. Cold starts
with an empty word cache, warm is the second pass over the same text. The ids of every engine are compared
with those of `tokenizers`. PYTHON is the interpreter of an environment with kitoken and numpy.

Kitoken 0.11.1 differs where an apostrophe that starts a contraction of the pattern follows a line break or
tab: 'set' at the start of a line is "'s", "et" in `tokenizers` and "'", "set" in kitoken (all 25 documents of
pile_sample and pile_sample_sharealike that differ are of this kind).

The file is not called tokenize.py because scripts beside it would then import it for the standard library's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tokenizers
import zstandard

from pipelines.corpus.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
FOLDERS = "pile_sample", "pile_sample_sharealike", "pile_messy"
END = "<|endoftext|>"
BATCH = 1000
REPEATS = 3
KITOKEN = """
import json, sys, time
import numpy, kitoken
texts = json.load(open(sys.argv[1]))
encoder = kitoken.Kitoken.from_file(sys.argv[2])
encoder.encode("warm up", True)
start = time.process_time()
ids = [encoder.encode(text, True) for text in texts]
seconds = time.process_time() - start
lengths = numpy.array([len(row) for row in ids])
ids = numpy.concatenate([numpy.array(row, numpy.uint32) for row in ids])
numpy.savez(sys.argv[3], seconds=seconds, ids=ids, lengths=lengths)
"""


def read_documents(folder: Path) -> list[str]:
    """The text of every readable record of a folder, up to the damage in damaged files."""
    texts = []
    for file in sorted(folder.glob("*.jsonl.zst")):
        content = bytearray()
        reader = zstandard.ZstdDecompressor().stream_reader(file.open("rb"), read_across_frames=True)
        try:
            while chunk := reader.read(2**20):
                content += chunk
        except zstandard.ZstdError:
            pass
        for line in bytes(content).split(b"\n"):
            try:
                text = json.loads(line)["text"]
                text.encode()
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            texts.append(text)
    return texts


def encode_fast(tokenizer: Tokenizer, batches: list[pa.Array]) -> tuple[float, list[pa.LargeListArray]]:
    """CPU seconds and ids of one pass."""
    start = time.process_time()
    ids = [tokenizer.encode(batch, end=False) for batch in batches]
    return time.process_time() - start, ids


def encode_reference(tokenizer: Tokenizer, batches: list[list[str]]) -> tuple[float, list[list[list[int]]]]:
    """CPU seconds and ids of one pass by `tokenizers`."""
    start = time.process_time()
    ids = [tokenizer.encode_reference(batch) for batch in batches]
    return time.process_time() - start, ids


def encode_kitoken(python: str, texts: list[str], file: Path, scratch: Path) -> dict[str, Any]:
    """CPU seconds, ids and lengths by kitoken in its own environment."""
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "texts.json").write_text(json.dumps(texts))
    arguments = [str(scratch / "texts.json"), str(file), str(scratch / "ids.npz")]
    subprocess.run([python, "-c", KITOKEN, *arguments], check=True)
    return dict(np.load(scratch / "ids.npz"))


def hardware() -> str:
    """Processor name and number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{model}, {os.cpu_count()} cores"


def measure(data: Path, kitoken: str | None) -> dict[str, Any]:
    """Run every engine over every folder."""
    file = data / "tokenizer" / "tokenizer.json"
    start = time.perf_counter()
    tokenizer = Tokenizer.load(str(file), END)
    load_seconds = time.perf_counter() - start
    encode_fast(tokenizer, [pa.array(["compile é"], pa.large_string())])
    rows = []
    for folder in FOLDERS:
        texts = read_documents(data / folder)
        megabytes = sum(len(text.encode()) for text in texts) / 1e6
        lists = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        arrays = [pa.array(batch, pa.large_string()) for batch in lists]
        cold, warm = [], []
        for _ in range(REPEATS):
            fresh = Tokenizer.load(str(file), END)
            cold.append(encode_fast(fresh, arrays)[0])
            seconds, ids = encode_fast(fresh, arrays)
            warm.append(seconds)
        reference_seconds, wanted = encode_reference(tokenizer, lists)
        same = sum(
            found.as_py() == expected
            for batch, references in zip(ids, wanted, strict=True)
            for found, expected in zip(batch, references, strict=True)
        )
        reference = megabytes / reference_seconds
        row = {
            "folder": folder,
            "documents": len(texts),
            "identical": same,
            "megabytes": round(megabytes, 2),
            "tokens": sum(len(batch.values) for batch in ids),
            "tokenizers_mb_s": round(reference, 2),
            "cold_mb_s": round(megabytes / statistics.median(cold), 1),
            "warm_mb_s": round(megabytes / statistics.median(warm), 1),
            "cold_times_tokenizers": round(megabytes / statistics.median(cold) / reference, 1),
            "warm_times_tokenizers": round(megabytes / statistics.median(warm) / reference, 1),
        }
        if kitoken:
            answer = encode_kitoken(kitoken, texts, file, Path("/tmp") / f"kitoken-{os.getpid()}")
            pieces = np.split(answer["ids"], np.cumsum(answer["lengths"])[:-1])
            flat = [references for batch in wanted for references in batch]
            differing = [at for at, piece in enumerate(pieces) if piece.tolist() != flat[at]]
            row |= {
                "kitoken_mb_s": round(megabytes / float(answer["seconds"]), 2),
                "kitoken_identical": len(texts) - len(differing),
                "kitoken_differs_on": differing[:20],
            }
        rows.append(row)
    return {
        "hardware": hardware(),
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip(),
        "command": "python -m benchmarks.tokenizing " + " ".join(sys.argv[1:]),
        "packages": {"tokenizers": tokenizers.__version__, "python": platform.python_version()},
        "load_seconds": round(load_seconds, 2),
        "rows": rows,
    }


def main() -> None:
    """Measure, print a table and write results/tokenize.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--kitoken", help="Python of an environment with kitoken and numpy")
    arguments = parser.parse_args()
    # Read when `tokenizers` first encodes: one core for every engine.
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    result = measure(arguments.data, arguments.kitoken)
    (ROOT / "benchmarks" / "results").mkdir(exist_ok=True)
    (ROOT / "benchmarks" / "results" / "tokenize.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['hardware']}; commit {result['commit'][:12]}; loaded in {result['load_seconds']} s")
    columns = [column for column in result["rows"][0] if column != "kitoken_differs_on"]
    print("  ".join(columns))
    for row in result["rows"]:
        print("  ".join(str(row[column]).rjust(len(column)) for column in columns))


if __name__ == "__main__":
    main()
