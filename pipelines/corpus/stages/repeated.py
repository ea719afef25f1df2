"""Lines and spans that texts of a build repeat, which its edits may cut out."""

from dataclasses import dataclass
from typing import ClassVar

from base.layout import Layout
from dedup import lines, spans
from dedup.catalog import Entries
from dedup.config import DedupConfig
from pipelines.corpus.stages.decide import Decided
from pipelines.corpus.stages.deduplicate import Deduplicated
from pipelines.corpus.stages.edit import SpanTable
from pipelines.corpus.stages.measure import Measured
from pipelines.corpus.stages.phases import Phases, catalog_of, gone, prefix_bits, total_rows
from pipelines.corpus.stages.stage import Stage, unkeyed
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Progress

FINGERPRINTS = 32
"""Fingerprints of a document, about, at 50 tokens (dedup/spans.py)."""


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """What texts repeat; nothing of what is switched off."""

    key: str | None
    """None where all is switched off: then texts do not depend on which others stay."""
    spans: dict[str, SpanTable]
    """(table of repeated spans, number of the part in it) of each part."""
    lines: list[str]
    """Tables of the keys of boilerplate lines."""


@dataclass(frozen=True, kw_only=True)
class FindRepeated(Stage):
    """Find the spans and lines that the documents which stay repeat."""

    name: ClassVar[str] = "repeated"
    version: ClassVar[int] = 1
    layout: Layout = unkeyed()
    measured: Measured
    decided: Decided
    deduplicated: Deduplicated
    settings: DedupConfig

    @property
    def is_on(self) -> bool:
        """Whether anything is looked for."""
        return self.settings.span_tokens is not None or self.settings.lines.min_documents is not None

    def run(self, executor: Executor, progress: Progress) -> Repeated:
        """Run the phases of what is switched on."""
        tables = self.decided.entries, self.measured.documents, self.deduplicated.dropped
        work = self.layout.work(self.name, self.key)
        spans_of = find_repeated_spans(
            *tables, work=work, config=self.settings, executor=executor, progress=progress
        )
        line_tables = find_repeated_lines(
            *tables, work=work, config=self.settings, executor=executor, progress=progress
        )
        return Repeated(key=self.key if self.is_on else None, spans=dict(spans_of), lines=line_tables)


def find_repeated_lines(
    entries: list[Entries],
    documents: dict[str, str],
    dropped: list[str],
    *,
    work: str,
    config: DedupConfig,
    executor: Executor,
    progress: Progress,
) -> list[str]:
    """Tables of the boilerplate lines of each source (`config.lines`); none if it is switched off.

    Lines of the documents in the `dropped` tables (columns part and row) do not count. Columns: key (what
    `dedup.lines.remove_lines` takes, after `dedup.lines.read_keys`), documents with the line, ref of one.
    """
    if config.lines.min_documents is None:
        return []
    catalog = catalog_of(entries, documents, [])
    bits = prefix_bits(total_rows(catalog), config)
    phases = Phases.of(catalog, work, executor=executor, progress=progress)
    left_out = gone(phases, dropped)
    arguments = [(group, left_out, bits, config.lines) for group in range(catalog.groups)]
    routed = phases.phase("line-runs", lines.write_run, arguments)
    if not routed:
        return []
    return phases.phase("lines", lines.find, [(routed, prefix, config.lines) for prefix in range(1 << bits)])


def find_repeated_spans(
    entries: list[Entries],
    documents: dict[str, str],
    dropped: list[str],
    *,
    work: str,
    config: DedupConfig,
    executor: Executor,
    progress: Progress,
) -> dict[str, tuple[str, int]]:
    """(table of repeated spans, number) of each part, for `dedup.spans.of_part`; none if it is switched off.

    Documents in the `dropped` tables (columns part and row) neither lose spans nor count. Columns, sorted:
    ref (number of the part << 32 | row in its documents file), start, end (bytes of the text).
    """
    if config.span_tokens is None:
        return {}
    catalog = catalog_of(entries, documents, [])
    bits = prefix_bits(total_rows(catalog) * FINGERPRINTS, config)
    groups = range(catalog.groups)
    phases = Phases.of(catalog, work, executor=executor, progress=progress)
    left_out = gone(phases, dropped)
    tokens = config.span_tokens
    routed = phases.phase("span-runs", spans.write_run, [(group, left_out, bits, tokens) for group in groups])
    if not routed:
        return {}
    pairs = phases.phase("span-pairs", spans.pair, [(routed, prefix) for prefix in range(1 << bits)])
    found = phases.phase("spans", spans.find, [(pairs, group, tokens) for group in groups])
    return {part.name: (found[catalog.group[number]], number) for number, part in enumerate(catalog.parts)}
