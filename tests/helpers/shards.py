"""Shards of a few texts, divided into parts at will."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from base import files
from base.claims import ClaimsConfig, held
from base.contents import WrittenShard
from base.layout import Layout
from base.manifest import TokenizerFacts
from dedup import hashing
from dedup.config import LinesConfig
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.settings import ShardConfig
from pipelines.corpus.stages.edit import Edits
from pipelines.corpus.stages.shards import WriteShards
from pipelines.corpus.stages.survivors import Survivors
from pipelines.corpus.stages.tokenize import TokenCounts, Tokenized, TokenizePart, tokenize_part
from pipelines.corpus.stages.vocabulary import Vocabulary
from pipelines.corpus.text import tokenizer as tokenizers
from pipelines.corpus.text.settings import DecontaminateConfig, RedactConfig
from pipelines.corpus.text.tokenizer import train
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent

TEXTS = [f"Document {number} says {'very ' * (number % 7)}little.\n" for number in range(60)]
END = "<|endoftext|>"
NOTHING = RedactConfig(email=None, ipv4=None, ipv6=None, phone=None, secret=None)
NO_EDITS = Edits(
    remove_spans=False,
    lines=LinesConfig(),
    line_keys=(),
    decontaminate=DecontaminateConfig(),
    benchmarks=None,
    redact=NOTHING,
)


def tokenizer_in(folder: Path) -> str:
    """A small tokenizer of TEXTS; its URL."""
    url = str(folder / "tokenizer.json")
    files.write_bytes(url, train(TEXTS, 300, END))
    return url


def build(
    folder: Path,
    tokenizer: str,
    divisions: list[int],
    target_tokens: int = 100,
    dropped: dict[int, list[int]] | None = None,
    key: str = "one",
    ordinal: int = 0,
) -> tuple[list[WrittenShard], Path]:
    """Shards of TEXTS as two sources, divided into parts at the given document numbers.

    Each is a document's copy number `ordinal`.
    """
    ids = hashing.hash128(pa.array(TEXTS, pa.large_string()))
    counts, tasks = [], []
    bounds = [0, *divisions, len(TEXTS)]
    for number, (start, stop) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        part = f"{number:016x}"
        documents = str(folder / f"{part}.documents")
        table = pa.table(
            {
                "document_id": ids.slice(start, stop - start),
                "record": pa.array(range(start, stop), pa.int64()),
                "text": pa.array(TEXTS[start:stop], pa.large_string()),
            }
        )
        with files.atomic_writer(documents) as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
        attributes = str(folder / f"{part}.attributes")
        files.write_parquet(attributes, table.select(["document_id"]))
        entries = str(folder / f"{part}.entries")
        files.write_parquet(
            entries,
            pa.table(
                {
                    "document_id": hashing.add_ordinals(table["document_id"], np.full(stop - start, ordinal)),
                    "row": pa.array(range(stop - start), pa.uint32()),
                    "source": ["even" if place % 2 == 0 else "odd" for place in range(start, stop)],
                    "length": pa.array([len(text) for text in TEXTS[start:stop]], pa.int64()),
                }
            ),
        )
        gone = str(folder / f"{part}.dropped")
        rows = (dropped or {}).get(number, [])
        files.write_parquet(gone, pa.table({"part": [part] * len(rows), "row": pa.array(rows, pa.uint32())}))
        survivors = survivors_of(part, f"file-{number}", documents, entries, gone)
        task = TokenizePart(
            survivors=survivors,
            attributes=attributes,
            tokenizer=tokenizer,
            end_of_document=END,
            special_tokens="text",
            seed=1,
            heldout_fraction=0.2,
            folder=str(folder / "runs"),
            key=key,
        )
        tasks.append(task)
        counts.append(TokenCounts.from_json(tokenize_part(task), "counts"))
    with held(str(folder), "shards", ClaimsConfig()) as claim:
        stage = WriteShards(
            layout=Layout(str(folder)),
            tokenized=Tokenized(key=key, tasks=tuple(tasks), counts=tuple(counts), ledger=Ledger()),
            vocabulary=Vocabulary(
                url=tokenizer, facts=TokenizerFacts(file="tokenizer.json", **tokenizers.facts(tokenizer, END))
            ),
            settings=ShardConfig(target_tokens=1024).model_copy(update={"target_tokens": target_tokens}),
            verify_documents=3,
            folder=str(folder / "v0001"),
            claim=claim,
            facts=str(folder / "facts" / key),
        )
        return stage.run(InProcess(), silent), folder / "v0001"


def survivors_of(part: str, file: str, documents: str, entries: str, dropped: str | None) -> Survivors:
    return Survivors(
        part=part,
        file=file,
        documents=documents,
        entries=entries,
        dropped=dropped,
        spans=None,
        edits=NO_EDITS,
    )


def contents(version: Path, shards: list[WrittenShard]) -> dict[str, bytes]:
    return {shard.path: (version / shard.path).read_bytes() for shard in shards}
