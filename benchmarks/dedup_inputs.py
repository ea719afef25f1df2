"""What the deduplication benchmarks share: sample files, parts, other tools' signatures, the machine."""

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

from base import files
from benchmarks import peers
from dedup import hashing, minhash
from dedup.config import MinHashConfig

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


def read_lines(path: Path) -> list[bytes]:
    """The lines of a jsonl.zst file, as far as it can be read."""
    lines: list[bytes] = []
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        with contextlib.suppress(zstandard.ZstdError):
            lines.extend(io.BufferedReader(reader))
    return lines


def read_texts(folder: Path) -> dict[tuple[str, int], str]:
    """Text by (file name, 0-based line) of every record that has a text in valid Unicode."""
    texts = {}
    for path in sorted(folder.glob("*.zst")):
        for number, line in enumerate(read_lines(path)):
            try:
                text = json.loads(line.removeprefix(b"\xef\xbb\xbf"))["text"]
                text.encode()
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            texts[path.name, number] = text
    return texts


def write_part(folder: str, name: str, text: pa.Array, config: MinHashConfig) -> tuple[str, str]:
    """Write documents and entries of one part; returns (entries URL, documents URL).

    The document id is the hash of the part's name and the row, so that identical texts differ.
    """
    labels = pa.array([f"{name}/{row}" for row in range(len(text))], pa.large_string())
    ids = hashing.hash128(labels)
    documents = files.join(folder, f"{name}.arrow")
    table = pa.table({"document_id": ids, "record": np.arange(len(text)), "text": text})
    with files.atomic_writer(documents) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    bands, shingles = minhash.signatures(text, config)
    count = len(text)
    entries = pa.table(
        {
            "document_id": ids,
            "part": pa.array([name] * count).dictionary_encode(),
            "row": np.arange(count, dtype=np.uint32),
            "source": pa.array(["sample"] * count).dictionary_encode(),
            "text_hash": minhash.text_hash(text),
            "rank": np.zeros(count, np.int32),
            "quality": np.zeros(count, np.float32),
            "length": np.diff(hashing.string_buffers(text)[1]),
            "bands": pa.FixedSizeListArray.from_arrays(pa.array(bands.ravel()), config.bands),
            "shingles": shingles,
        }
    )
    url = files.join(folder, f"{name}.parquet")
    files.write_parquet(url, entries)
    return url, documents


def add_peer_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where the environments of the other tools are; they are made where they are not."""
    peers.add_options(parser)
    parser.add_argument("--text-dedup-python", help="interpreter of an environment that has text-dedup")


def peer_pythons(options: argparse.Namespace) -> dict[str, str]:
    """The interpreter of every other tool."""
    found = options.text_dedup_python
    if not found:
        folder = ROOT / ".cache" / "peers" / "text-dedup"
        found = str(folder / "bin" / "python")
        if not (folder / "complete").exists():
            print(f"making {folder}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            subprocess.run([found, "-m", "pip", "install", "-q", "text-dedup==0.4.0"], check=True)
            (folder / "complete").touch()
    datatrove = peers.python(options)
    return {"datatrove": datatrove, "rensa": datatrove, "text-dedup": found}


def peer_bands(tool: str, python: str, texts: list[str]) -> dict[str, Any]:
    """What benchmarks/peer_dedup.py writes: bands of every text, CPU seconds, version of the tool."""
    script = ROOT / "benchmarks" / "peer_dedup.py"
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "texts.json"), Path(folder, "bands.json")
        asked.write_text(json.dumps(texts))
        command = [python, str(script), tool, str(asked), str(answered)]
        subprocess.run(command, check=True, capture_output=True, env=peers.environment())
        found: dict[str, Any] = json.loads(answered.read_text())
    return found


def circumstances() -> dict[str, Any]:
    """Processor, commit and command of a result; GIT_COMMIT names the commit of a copy without .git."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names),
        "python": platform.python_version(),
        "commit": os.environ.get("GIT_COMMIT") or commit.stdout.strip(),
        "command": "python -m " + " ".join([f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
    }


def record(name: str, result: dict[str, Any]) -> None:
    """Print a result and write it to benchmarks/results/<name>.json."""
    print(json.dumps(result, indent=1))
    files.write_json(str(ROOT / "benchmarks" / "results" / f"{name}.json"), result)
