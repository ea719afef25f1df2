"""Speed and memory of reading one file of each format with pipelines.corpus.reading.ingest.read, one core.

    python -m benchmarks.reading [--data ../shared/data/pile_sample] [--copies 2 20]

The texts of the sample are written `copies` times over into one file a format: parquet as one row group,
Arrow files as one record batch, pages as HTML of one paragraph a line. Each file is read in a fresh process
with the default settings. Speed: megabytes of text (UTF-8) per second of CPU time, compiling of kernels left
out. Memory: the largest anonymous memory (RssAnon, sampled after each batch) over that before reading.
"""

import argparse
import csv
import gzip
import html
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from benchmarks.dedup_inputs import DATA, ROOT, circumstances, read_texts, record
from pipelines.corpus.reading import ingest
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

NAMES = ("a.jsonl", "a.jsonl.zst", "a.jsonl.gz", "a.csv", "a.parquet", "a.arrow", "stream.arrow", "a.warc.gz")


def write(path: Path, texts: list[str], copies: int) -> None:
    """Write the texts `copies` times over in the format of the path's name."""
    if path.suffix in (".parquet", ".arrow"):
        once = pa.array(texts, pa.large_string())
        column = pa.concat_arrays([once] * copies)
        table = pa.table({"text": column})
        if path.suffix == ".parquet":
            pq.write_table(table, path, row_group_size=len(column), compression="zstd", use_dictionary=False)
        elif path.stem == "stream":
            with pa.ipc.new_stream(str(path), table.schema) as writer:
                writer.write_table(table, max_chunksize=1000)
        else:
            with pa.ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table)
        return
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["number", "text"])
            for _ in range(copies):
                writer.writerows(enumerate(texts))
        return
    compress: Any = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    with path.open("wb") as file:
        if ".warc" in path.name:
            block = b"".join(compress(_page(text)) for text in texts)
        else:
            block = compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
        for _ in range(copies):
            file.write(block)


def _page(text: str) -> bytes:
    """A WARC response with the text as a page of one paragraph a line."""
    lines = "</p><p>".join(html.escape(text).split("\n"))
    page = f"<html><body><main><p>{lines}</p></main></body></html>".encode()
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body + b"\r\n\r\n"


def read(path: Path) -> dict[str, Any]:
    """Read a file in this process."""
    source, config = SourceConfig(name="s", urls=["x"]), IngestConfig()
    for _ in ingest.read(str(path), source, config, 0, min(path.stat().st_size, 2**16)):
        break  # kernels are compiled or loaded
    before = peak = _anonymous()
    documents = size = 0
    start = time.process_time()
    for batch in ingest.read(str(path), source, config):
        documents += batch.documents.num_rows
        size += batch.documents["text"].nbytes
        peak = max(peak, _anonymous())
    seconds = time.process_time() - start
    return {
        "documents": documents,
        "text_mb": round(size / 1e6, 1),
        "mb_per_cpu_second": round(size / 1e6 / seconds, 1),
        "memory_mib": round((peak - before) / 1024),
    }


def _anonymous() -> int:
    """Anonymous memory of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main() -> None:
    """Write, read in fresh processes, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA / "pile_sample")
    parser.add_argument("--copies", type=int, nargs="+", default=[2, 20])
    parser.add_argument("--read", type=Path)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(arguments.read)))
        return
    texts = list(read_texts(arguments.data).values())
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            for copies in arguments.copies:
                path = Path(folder, name)
                write(path, texts, copies)
                command = [sys.executable, "-m", "benchmarks.reading", "--read", str(path)]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
                facts = {"file_mb": round(path.stat().st_size / 1e6, 1), **json.loads(done.stdout)}
                results.setdefault(name, []).append(facts)
                path.unlink()
                print(name, facts, file=sys.stderr)
    record("reading", {**circumstances(), "formats": results})


if __name__ == "__main__":
    main()
