"""The tokenizer of a build: that of an earlier version, a given one, or one trained on the survivors."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import files
from base.kernels import splitmix64
from base.layout import TOKENIZER, Layout
from base.manifest import TokenizerFacts
from base.records import Mark, made
from dedup import hashing
from pipelines.corpus.stages.plan_edits import EditPlan
from pipelines.corpus.stages.stage import Stage, unkeyed
from pipelines.corpus.stages.survivors import Survivors, edited_documents, surviving_entries
from pipelines.corpus.text import tokenizer
from pipelines.corpus.text.settings import TokenizeConfig
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Progress

SAMPLE_CHARACTERS = 65_536
"""Of each document that a tokenizer is trained on."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokenizer file of a build and what a manifest says of it."""

    url: str
    facts: TokenizerFacts

    @property
    def key(self) -> str:
        """What tokens depend on."""
        return files.key_of(self.facts.sha256, self.facts.end_of_document)


@dataclass(frozen=True, kw_only=True)
class ChooseVocabulary(Stage):
    """Take the given tokenizer, or train one on a sample of the edited texts."""

    name: ClassVar[str] = "tokenizer"
    version: ClassVar[int] = 1
    layout: Layout = unkeyed()
    edits: EditPlan
    settings: TokenizeConfig
    """Without how many documents are compared."""
    given: str | None = unkeyed()
    """URL of the tokenizer to take; None: one is trained."""
    text_bytes: int = unkeyed()
    """Bytes of the texts before the edits, of which `settings.train_bytes` are sampled."""

    def run(self, executor: Executor, progress: Progress) -> Vocabulary:
        """Train the tokenizer if none is given and it is not trained yet."""
        url = self.given or self.layout.work(self.name, self.key, TOKENIZER)
        mark = self.layout.work(self.name, self.key, "trained.json")
        if self.given is None and Mark.finished(mark, self._output) is None:
            self._train(url, executor, progress)
            Mark(made=made(self._output, (), unsealed=[TOKENIZER])).write(mark)
        facts = tokenizer.facts(url, self.settings.end_of_document)
        return Vocabulary(url=url, facts=TokenizerFacts(file=TOKENIZER, **facts))

    def _output(self, name: str) -> str:
        """A file that training a tokenizer leaves."""
        return self.layout.work(self.name, self.key, name)

    def _train(self, url: str, executor: Executor, progress: Progress) -> None:
        progress("train tokenizer", 0, 1)
        share = min(1.0, self.settings.train_bytes / max(self.text_bytes, 1))
        tasks = [
            SamplePart(
                survivors=survivors,
                share=share,
                output=self.layout.work(self.name, self.key, f"{survivors.part}.parquet"),
            )
            for survivors in self.edits.survivors
        ]
        samples = executor.run_tasks(sample_texts, tasks)
        sample = pa.concat_tables([files.read_parquet(sample) for sample in samples])
        order = pc.sort_indices(sample["document_id"].cast(pa.binary()))
        texts = sample["text"].take(order).to_pylist()
        content = tokenizer.train(texts, self.settings.vocab_size, self.settings.end_of_document)
        files.write_bytes(url, content)
        progress("train tokenizer", 1, 1)


@dataclass(frozen=True, kw_only=True)
class SamplePart:
    """What sampling the surviving texts of one part needs; `share` of them are taken, chosen by id."""

    survivors: Survivors
    share: float
    output: str


def sample_texts(task: SamplePart) -> str:
    """Write a sample of a part's surviving documents: `document_id` and `text` (its first SAMPLE_CHARACTERS).

    Returns the URL of the table.
    """
    if files.whole(task.output):
        return task.output
    entries = surviving_entries(task.survivors, ["document_id", "source"])
    high, low = hashing.id_words(entries["document_id"])
    chosen = splitmix64(high + low) <= np.uint64(min(int(task.share * 2**64), 2**64 - 1))
    entries = entries.filter(pa.array(chosen))
    schema = pa.schema([("document_id", pa.binary(16)), ("text", pa.large_string())])
    tables = [schema.empty_table()]
    for chosen, _, edited in edited_documents(task.survivors, entries):
        alive = pa.array(edited.alive)
        text = pc.utf8_slice_codeunits(edited.texts.filter(alive), 0, SAMPLE_CHARACTERS)
        columns = {"document_id": chosen["document_id"].filter(alive), "text": text}
        tables.append(pa.table(columns, schema=schema))
    files.write_parquet(task.output, pa.concat_tables(tables))
    return task.output
