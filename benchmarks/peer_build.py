"""datatrove's way from jsonl.zst to tokens; run by an interpreter with datatrove.

    python peer_build.py FOLDER WORK TOKENIZER.json

FOLDER holds jsonl.zst files. The stages are those of its FineWeb example, by one local worker: Gopher
repetition, Gopher quality, C4 and FineWeb filters; MinHash deduplication of word 5-grams in 14 buckets of 8;
personal data replaced; tokens. The filters look at every document and drop none, as the build that it is
compared with measures all and drops few: most of pile_sample is no prose, and the later stages would have
nothing to do. Prints JSON: seconds (wall) and CPU seconds of each stage, documents kept, tokens.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig


def measuring(kind: type[Any]) -> Any:
    """A filter that looks at every document and keeps it, with its text as it was."""

    def look(self: Any, doc: Any) -> bool:
        text = doc.text
        kind.filter(self, doc)
        doc.text = text
        return True

    return type("Measuring", (kind,), {"filter": look})()


def stages(folder: str, work: str, tokenizer: str) -> Iterator[tuple[str, list[Any]]]:
    """(name, pipeline) of every stage."""
    config = MinhashConfig(
        hash_config=HashConfig(hash_fc="sha1", precision=64), n_grams=5, num_buckets=14, hashes_per_bucket=8
    )
    yield (
        "filter",
        [
            JsonlReader(folder, compression="zstd", glob_pattern="*.jsonl.zst"),
            measuring(GopherRepetitionFilter),
            measuring(GopherQualityFilter),
            measuring(C4QualityFilter),
            measuring(FineWebQualityFilter),
            JsonlWriter(f"{work}/filtered"),
        ],
    )
    yield (
        "signatures",
        [
            JsonlReader(f"{work}/filtered"),
            MinhashDedupSignature(output_folder=f"{work}/signatures", config=config),
        ],
    )
    yield (
        "buckets",
        [MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config)],
    )
    yield (
        "cluster",
        [MinhashDedupCluster(f"{work}/buckets", f"{work}/removed", config=config)],
    )
    yield (
        "tokens",
        [
            JsonlReader(f"{work}/filtered"),
            MinhashDedupFilter(f"{work}/removed"),
            PIIFormatter(),
            DocumentTokenizer(f"{work}/tokens", tokenizer_name_or_path=tokenizer, eos_token="<|endoftext|>"),
        ],
    )


def cpu() -> float:
    """CPU seconds of this process and its finished children."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in (own, children))


def main() -> None:
    """Run every stage, print what it took."""
    folder, work, tokenizer = sys.argv[1:]
    seconds = {}
    for name, pipeline in stages(folder, work, tokenizer):
        tasks = 14 if name == "buckets" else 1
        begin, used = time.perf_counter(), cpu()
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{work}/logs/{name}").run()
        seconds[name] = {"wall": time.perf_counter() - begin, "cpu": cpu() - used}
    counts = json.loads(Path(work, "logs", "tokens", "stats.json").read_text())
    json.dump({"seconds": seconds, "stats": counts}, sys.stdout)


if __name__ == "__main__":
    main()
