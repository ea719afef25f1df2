"""Which edits the texts that stay will get, and what these need: all but the edits themselves (edit.py)."""

from dataclasses import dataclass
from typing import ClassVar

from base import files
from base.layout import Layout
from dedup.config import DedupConfig
from pipelines.corpus.stages.decide import Decided
from pipelines.corpus.stages.deduplicate import Deduplicated
from pipelines.corpus.stages.edit import Edits
from pipelines.corpus.stages.measure import Measured
from pipelines.corpus.stages.repeated import Repeated
from pipelines.corpus.stages.survivors import Survivors
from pipelines.corpus.text.decontaminate import load_benchmarks, write_benchmarks
from pipelines.corpus.text.settings import DecontaminateConfig, RedactConfig
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Progress


@dataclass(frozen=True, kw_only=True)
class EditPlan:
    """The survivors of every part with the edits of their texts."""

    edits_key: str
    """What the edits of a text depend on besides the text."""
    deduplicated: str
    """What decided which texts there are."""
    survivors: tuple[Survivors, ...]
    """By part, in the order of the inputs."""
    benchmark_items: dict[str, int]
    """Items by benchmark."""

    @property
    def key(self) -> str:
        """What the edited texts depend on."""
        return files.key_of(self.deduplicated, self.edits_key)


@dataclass(frozen=True, kw_only=True)
class PlanEdits:
    """Put together what is cut out of texts and replaced in them."""

    name: ClassVar[str] = "edits"
    version: ClassVar[int] = 1
    """Raised when the code changes what edited texts look like."""
    layout: Layout
    measured: Measured
    decided: Decided
    deduplicated: Deduplicated
    repeated: Repeated
    known_lines: list[str]
    """Tables of repeated lines of earlier versions, as paths below the corpus."""
    dedup: DedupConfig
    decontaminate: DecontaminateConfig
    redact: RedactConfig

    def run(self, executor: Executor, progress: Progress) -> EditPlan:
        """Hash the benchmarks, if there are some, and compose the edits of every part."""
        benchmarks, digest, items = None, None, dict[str, int]()
        if self.decontaminate.benchmarks:
            loaded = load_benchmarks(self.decontaminate)
            digest, items = loaded.digest, loaded.items
            benchmarks = self.layout.work("benchmarks", digest, "benchmarks.parquet")
            write_benchmarks(loaded, benchmarks)
        edits = Edits(
            remove_spans=self.dedup.span_tokens is not None,
            lines=self.dedup.lines,
            line_keys=(
                *(files.below(self.layout.corpus, path) for path in self.known_lines),
                *self.repeated.lines,
            ),
            decontaminate=self.decontaminate,
            benchmarks=benchmarks,
            redact=self.redact,
        )
        documents = self.measured.documents
        survivors = tuple(
            Survivors(
                part=item.part,
                file=item.name,
                documents=documents[item.part],
                entries=entries,
                dropped=self.deduplicated.dropped_of.get(item.part),
                spans=self.repeated.spans.get(item.part),
                edits=edits,
            )
            for item, entries in zip(self.measured.inputs, self.decided.entries, strict=True)
        )
        return EditPlan(
            edits_key=self._edits_key(edits, digest),
            deduplicated=self.deduplicated.key,
            survivors=survivors,
            benchmark_items=items,
        )

    def _edits_key(self, edits: Edits, digest: str | None) -> str:
        return files.key_of(
            self.version,
            self.repeated.key if edits.remove_spans or self.repeated.lines else None,
            self.known_lines,
            digest,
            self.decontaminate.model_dump(mode="json", exclude={"benchmarks"}),
            self.redact.model_dump(mode="json"),
        )
