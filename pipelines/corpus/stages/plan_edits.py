"""Which edits the texts that stay will get, and what these need: all but the edits themselves (edit.py)."""

from dataclasses import dataclass
from typing import ClassVar

from base import files
from base.layout import Layout
from dedup.config import DedupConfig
from pipelines.config import Config
from pipelines.corpus.stages.decide import Decided
from pipelines.corpus.stages.deduplicate import Deduplicated
from pipelines.corpus.stages.edit import Edits
from pipelines.corpus.stages.measure import Measured
from pipelines.corpus.stages.repeated import Repeated
from pipelines.corpus.stages.stage import Stage, only, unkeyed
from pipelines.corpus.stages.survivors import Survivors
from pipelines.corpus.text import plugins
from pipelines.corpus.text.decontaminate import Benchmarks, load_benchmarks, write_benchmarks
from pipelines.corpus.text.plugins import Plugin
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
class PlanEdits(Stage):
    """Put together what is cut out of texts and replaced in them."""

    name: ClassVar[str] = "edits"
    version: ClassVar[int] = 3
    layout: Layout = unkeyed()
    measured: Measured = unkeyed()
    decided: Decided = unkeyed()
    deduplicated: Deduplicated = unkeyed()
    """An edit depends on its text and on what follows, not on which other texts stay."""
    repeated: Repeated
    known_lines: list[str]
    """Tables of repeated lines of earlier versions, as paths below the corpus."""
    dedup: DedupConfig
    """Lines and spans alone."""
    benchmarks: Benchmarks | None = unkeyed()
    """What is looked for; None: nothing is."""
    digest: str | None
    """Of the benchmarks' content."""
    decontaminate: DecontaminateConfig
    """Without the names of the benchmarks."""
    redact: RedactConfig
    own: list[Plugin]
    """Edits of somebody else."""

    @classmethod
    def of(
        cls,
        config: Config,
        layout: Layout,
        *,
        measured: Measured,
        decided: Decided,
        deduplicated: Deduplicated,
        repeated: Repeated,
        known_lines: list[str],
    ) -> "PlanEdits":
        """The stage of a configuration, with the content of the benchmarks that it names."""
        settings = config.decontaminate
        benchmarks = load_benchmarks(settings) if settings.benchmarks else None
        rules = DecontaminateConfig.model_fields.keys() - {"benchmarks"}
        return cls(
            layout=layout,
            measured=measured,
            decided=decided,
            deduplicated=deduplicated,
            repeated=repeated,
            known_lines=known_lines,
            dedup=only(config.dedup, "lines", "span_tokens"),
            benchmarks=benchmarks,
            digest=benchmarks.digest if benchmarks else None,
            decontaminate=only(settings, *rules),
            redact=config.redact,
            own=[plugins.find(path) for path in config.plugins.edits],
        )

    def run(self, executor: Executor, progress: Progress) -> EditPlan:
        """Hash the benchmarks, if there are some, and compose the edits of every part."""
        url = None
        if self.benchmarks is not None:
            url = self.layout.work("benchmarks", self.benchmarks.digest, "benchmarks.parquet")
            write_benchmarks(self.benchmarks, url)
        edits = Edits(
            remove_spans=self.dedup.span_tokens is not None,
            lines=self.dedup.lines,
            line_keys=(
                *(files.below(self.layout.corpus, path) for path in self.known_lines),
                *self.repeated.lines,
            ),
            decontaminate=self.decontaminate,
            benchmarks=url,
            redact=self.redact,
            own=tuple(plugin.path for plugin in self.own),
        )
        documents = self.measured.documents
        survivors = tuple(
            Survivors(
                part=item.part,
                file=item.name,
                documents=documents[item.part],
                entries=entries.url,
                dropped=self.deduplicated.dropped_of.get(item.part),
                spans=self.repeated.spans.get(item.part),
                edits=edits,
            )
            for item, entries in zip(self.measured.inputs, self.decided.entries, strict=True)
        )
        return EditPlan(
            edits_key=self.key,
            deduplicated=self.deduplicated.key,
            survivors=survivors,
            benchmark_items=self.benchmarks.items if self.benchmarks else {},
        )
