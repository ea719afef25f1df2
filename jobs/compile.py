"""Kernels compiled ahead of time, once a machine."""

import json
import os
import random
import tempfile
from pathlib import Path

from jobs.session import run

DOCUMENTS = 60
WORDS = (
    "the",
    "and",
    "of",
    "to",
    "in",
    "that",
    "tree",
    "river",
    "stone",
    "cloud",
    "bridge",
    "letter",
    "seven",
    "night",
)


def main() -> None:
    r"""Compile every kernel that a corpus build uses, which takes one to two minutes.

    Kernels are kept in NUMBA_CACHE_DIR (default: ~/.cache/piledriver/numba) and found again by every command.
    Without this command the first build on a machine compiles them.

    \b
    Examples:
      python -m jobs.compile
      NUMBA_CACHE_DIR=/var/cache/numba python -m jobs.compile
    """
    from pipelines.runtime import kernels

    os.environ.setdefault("NUMBA_CACHE_DIR", kernels.cache_folder())  # numba reads it when it is imported
    if not kernels.compiled():
        with tempfile.TemporaryDirectory(prefix="piledriver-compile-") as folder:
            build(Path(folder))
        kernels.note_compiled()
    print(f"kernels compiled in {kernels.cache_folder()}")


def build(folder: Path) -> None:
    """Run every stage of a small build in this process, with all that the configuration can turn on."""
    from base.claims import held
    from base.layout import Layout
    from pipelines.config import load
    from pipelines.corpus.inputs import list_inputs
    from pipelines.corpus.stages.plan import Plan, Run, select, tokenize, write_shards
    from pipelines.runtime.executor import InProcess
    from pipelines.runtime.progress import silent

    choose = random.Random(1)
    texts = [
        " ".join(choose.choices(WORDS, k=80)) + f" {number}. Write to anna{number}@mailbox.org.\r\n\0e\u0301"
        for number in range(DOCUMENTS)
    ]
    texts += [text + " Again." for text in texts[:9]] + texts[9:18]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    for name in ("books", "programs"):
        (folder / f"{name}.jsonl").write_text(lines)
    (folder / "questions.jsonl").write_text(json.dumps({"text": texts[0]}) + "\n")
    rules = ["basic", "gopher_quality", "gopher_repetition", "c4", "fineweb"]
    content = {
        "name": "compile",
        "storage": str(folder / "storage"),
        "sources": [
            {"name": name, "kind": kind, "urls": [f"{folder}/{name}.jsonl"], "max_loss": 1.0}
            for name, kind in (("books", "prose"), ("programs", "code"))
        ],
        "quality": {"rule_sets": {"code": rules}},
        "dedup": {"lines": {"min_documents": 5}, "span_tokens": 50},
        "decontaminate": {"benchmarks": [{"name": "questions", "urls": [f"{folder}/questions.jsonl"]}]},
        "tokenize": {"vocab_size": 300, "train_bytes": 10_000},
    }
    (folder / "config.yaml").write_text(json.dumps(content))
    settings = load(str(folder / "config.yaml"), [])
    layout = Layout(settings.storage)
    inputs = list_inputs(settings.sources, layout.inputs, settings.ingest.split_bytes)
    plan = Plan(config=settings, layout=layout, inputs=tuple(inputs), parent=None)
    with held(layout.corpus, "jobs.compile", settings.claims) as claim:
        stages = Run(claim=claim, executor=InProcess(), progress=silent)
        selected = select(plan, stages)
        vocabulary, tokenized = tokenize(plan, selected, stages)
        write_shards(plan, vocabulary, tokenized, stages, folder=layout.version("v0001"))


if __name__ == "__main__":
    run(main)
