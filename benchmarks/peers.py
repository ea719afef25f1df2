"""The environment of datatrove, which the benchmarks compare with."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATATROVE = "0.10.1"
# What its filters, MinHash and tokenizing need beside datatrove itself.
REQUIREMENTS = (
    f"datatrove=={DATATROVE}",
    "spacy==3.8.18",
    "nltk",
    "tokenizers==0.23.3",
    "zstandard",
    "orjson",
    "xxhash",
    "regex",
    "fasttext-numpy2-wheel",
    "rensa==0.5.0",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where the environment is."""
    parser.add_argument("--peer", type=Path, default=ROOT / ".cache" / "peers" / "datatrove", help="its venv")
    parser.add_argument(
        "--peer-python", help="interpreter of an environment that has datatrove; none is made"
    )


def python(options: argparse.Namespace) -> str:
    """The interpreter with datatrove; its environment is made if it is not there."""
    if options.peer_python:
        return str(options.peer_python)
    found = options.peer / "bin" / "python"
    if not (options.peer / "complete").exists():
        print(f"making {options.peer}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(options.peer)], check=True)
        subprocess.run([str(found), "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
        (options.peer / "complete").touch()
    return str(found)


def environment() -> dict[str, str]:
    """Environment variables of a peer: one thread, as ours."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    return {**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
