"""The stages of a corpus build in order: from the files of the sources to documents, tokens and shards.

Each line runs a stage: a value that holds the settings its tasks get and the results it starts from. Its key,
which names its outputs on storage, is made of just these, so that finished work is found again and a changed
setting never mixes with old outputs.
"""

import logging
from dataclasses import dataclass
from typing import Protocol, TypeVar

from base import files
from base.claims import Claim
from base.contents import WrittenShard
from base.layout import Layout
from base.manifest import Version
from base.mixture import check_names
from dedup.config import DedupConfig
from pipelines.config import Config
from pipelines.corpus.inputs import Input
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.reading.settings import SourceConfig, slug
from pipelines.corpus.stages import losses
from pipelines.corpus.stages.decide import Decide, Decided
from pipelines.corpus.stages.deduplicate import Deduplicate, Deduplicated
from pipelines.corpus.stages.identical import NumberIdentical
from pipelines.corpus.stages.measure import Measure, Measured
from pipelines.corpus.stages.plan_edits import EditPlan, PlanEdits
from pipelines.corpus.stages.repeated import FindRepeated, Repeated
from pipelines.corpus.stages.score import Score, Scored
from pipelines.corpus.stages.shards import WriteShards
from pipelines.corpus.stages.stage import only
from pipelines.corpus.stages.tokenize import Tokenize, Tokenized
from pipelines.corpus.stages.vocabulary import ChooseVocabulary, Vocabulary
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Progress

log = logging.getLogger(__name__)

Result = TypeVar("Result", covariant=True)


class Runs(Protocol[Result]):
    """What can be run: a stage."""

    def run(self, executor: Executor, progress: Progress) -> Result:
        """Do what is not done yet."""
        ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """Runs stages one after the other on an executor, for whoever holds the claim of the corpus."""

    claim: Claim
    executor: Executor
    progress: Progress

    def __call__(self, stage: Runs[Result]) -> Result:
        """The result of a stage."""
        return stage.run(self.executor, self.progress)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a build starts from, and the stages that do not depend on what others found."""

    config: Config
    layout: Layout
    inputs: tuple[Input, ...]
    parent: Version | None
    """The version to add to; None: the build is of all sources."""

    @property
    def sources(self) -> dict[str, SourceConfig]:
        """The configured sources by name."""
        return {source.name: source for source in self.config.sources}

    def measure(self) -> Measure:
        """The one pass over the text of the inputs."""
        return Measure.of(self.config, self.layout, self.inputs)

    def decide(self, measured: Measured, run: Run) -> tuple[Scored, Decided]:
        """Number identical documents, score all, and keep those that are clean enough."""
        config = self.config
        numbered = run(NumberIdentical(measured=measured, parent=self.parent.hash if self.parent else None))
        scored = run(Score.of(config.score, measured, config.storage))
        decided = run(
            Decide(
                measured=measured,
                numbered=numbered,
                scored=scored,
                sources={
                    source.name: only(source, "name", "kind", "kinds", "priority")
                    for source in config.sources
                },
                quality=config.quality,
                language=config.language,
                score=config.score,
                filters=config.plugins.filters,
            )
        )
        return scored, decided

    def deduplicate(self, measured: Measured, decided: Decided, until: str | None = None) -> Deduplicate:
        """Deduplication of what is clean, up to a phase if one is named."""
        return Deduplicate(
            layout=self.layout,
            measured=measured,
            decided=decided,
            indexes=self.parent.indexes if self.parent else [],
            settings=only(self.config.dedup, *DedupConfig.model_fields.keys() - {"lines", "span_tokens"}),
            until=until,
        )


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The documents that stay, and the edits of their texts."""

    measured: Measured
    scored: Scored
    decided: Decided
    deduplicated: Deduplicated
    repeated: Repeated
    edits: EditPlan


def select(plan: Plan, run: Run) -> Selected:
    """From the files of the sources to the documents that stay and the edits of their texts.

    Raises UserError for what a person can mend: a source that loses too much, a mixture of other sources.
    """
    config, layout, sources = plan.config, plan.layout, plan.sources
    measured = run(plan.measure())
    losses.check_reading(measured, sources)
    losses.check_cleaning(measured, sources)
    _check_names(plan, measured)
    scored, decided = plan.decide(measured, run)
    losses.check(decided.ledger, ("quality",), decided.dropped, measured=measured, sources=sources)
    deduplicated = run(plan.deduplicate(measured, decided))
    if plan.parent is None:
        ledger, dropped = deduplicated.ledger, deduplicated.dropped
        losses.check(ledger, ("exact", "fuzzy"), dropped, measured=measured, sources=sources)
    repeated = run(
        FindRepeated(
            layout=layout,
            measured=measured,
            decided=decided,
            deduplicated=deduplicated,
            settings=config.dedup,
        )
    )
    edits = run(
        PlanEdits.of(
            config,
            layout,
            measured=measured,
            decided=decided,
            deduplicated=deduplicated,
            repeated=repeated,
            known_lines=plan.parent.manifest.lines if plan.parent else [],
        )
    )
    return Selected(
        measured=measured,
        scored=scored,
        decided=decided,
        deduplicated=deduplicated,
        repeated=repeated,
        edits=edits,
    )


def tokenize(
    plan: Plan,
    selected: Selected,
    run: Run,
    *,
    tokenizer: str | None = None,
    sources: frozenset[str] | None = None,
) -> tuple[Vocabulary, Tokenized]:
    """The tokens of the documents that stay.

    tokenizer: URL of the tokenizer; absent: that of the parent, the configured one, or one that is trained.
    sources: those of which all documents are needed; absent: all.
    """
    config = plan.config
    if tokenizer is None and plan.parent is not None:
        tokenizer = plan.parent.tokenizer_url
    elif tokenizer is None and config.tokenize.tokenizer:
        tokenizer = files.absolute(config.tokenize.tokenizer)
    left = [stages["fuzzy"].bytes_out for stages in selected.deduplicated.ledger.sources.values()]
    vocabulary = run(
        ChooseVocabulary(
            layout=plan.layout,
            edits=selected.edits,
            settings=only(config.tokenize, "vocab_size", "train_bytes", "end_of_document", "special_tokens"),
            given=tokenizer,
            text_bytes=sum(left),
        )
    )
    tokenized = run(
        Tokenize(
            layout=plan.layout,
            measured=selected.measured,
            edits=selected.edits,
            vocabulary=vocabulary,
            settings=only(config.shard, "seed", "heldout_fraction"),
            only=sources,
        )
    )
    return vocabulary, tokenized


def write_shards(
    plan: Plan,
    vocabulary: Vocabulary,
    tokenized: Tokenized,
    run: Run,
    *,
    folder: str,
    facts: str | None = None,
    paths: frozenset[str] | None = None,
) -> list[WrittenShard]:
    """The shards below the folder of a version, or those of some paths below it."""
    return run(
        WriteShards(
            layout=plan.layout,
            tokenized=tokenized,
            vocabulary=vocabulary,
            settings=only(plan.config.shard, "target_tokens"),
            verify_documents=plan.config.tokenize.verify_documents,
            folder=folder,
            claim=run.claim,
            facts=facts,
            only=paths,
        )
    )


def check_losses_of_edits(plan: Plan, selected: Selected, tokenized: Tokenized) -> None:
    """Raise SourceLossError where the edits drop more of a source than they may."""
    losses.check(
        tokenized.ledger,
        ("spans", "lines", "decontaminate"),
        tokenized.urls("dropped"),
        measured=selected.measured,
        sources=plan.sources,
    )


def ledger_of(selected: Selected, tokenized: Tokenized) -> Ledger:
    """What all stages counted."""
    ledger = Ledger()
    for part in (selected.measured, selected.decided, selected.deduplicated, tokenized):
        ledger.add(part.ledger)
    return ledger


def _check_names(plan: Plan, measured: Measured) -> None:
    """Raise UserError for a source of the mixture that does not exist; warn of kinds that no record has."""
    of_parent = plan.parent.manifest.sources if plan.parent else ()
    check_mixture(plan.config, {*measured.ledger.sources, *of_parent})
    if plan.parent is not None:
        return
    sources_of = measured.sources_of
    for source in plan.config.sources:
        parts = [sources_of[item.part] for item in plan.inputs if item.source == source.name]
        missing = sorted(source.kinds.keys() - {slug(name) for name in set().union(*parts)})
        if missing:
            log.warning("kinds of source %s: no record is named %s", source.name, ", ".join(missing))


def check_mixture(config: Config, known: set[str]) -> None:
    """Raise UserError if the mixture names a source that is not among the `known`."""
    for section in ("mixture", "mixture_epochs"):
        check_names(section, getattr(config, section), known)
