"""jobs.prepare, jobs.refresh and jobs.merge below the command line: inputs, build, record in MLflow."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from base import claims, files
from base import manifest as manifests
from base.claims import Claim
from base.errors import UserError
from base.layout import REPORT, Layout
from base.manifest import Version
from pipelines.config import Config, build_configuration
from pipelines.corpus.inputs import Input, list_inputs
from pipelines.corpus.stages import score
from pipelines.corpus.stages.phases import ReachedError
from pipelines.corpus.stages.plan import Plan, Run
from pipelines.corpus.text import language
from pipelines.corpus.versions import merge as merging
from pipelines.corpus.versions.build import build, find_build, new_inputs
from pipelines.corpus.versions.remake import remake, unreadable
from pipelines.runtime import tracking
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Progress, watched

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A corpus version and whether it was made now or found finished."""

    version: Version
    new: bool


@contextlib.contextmanager
def claimed(config: Config, command: str, tell: Callable[[str], None] = log.warning) -> Iterator[Claim]:
    """Claim the corpus of a project while the block lasts; what is in it is looked at within.

    tell: gets a sentence about whom the command waits for. Raises UserError if another command writes it.
    """
    corpus = Layout(config.storage).corpus
    with claims.held(corpus, command, config.claims, fenced=("versions",), tell=tell) as claim:
        yield claim


def inputs_of(config: Config, found: set[tuple[str, str]] | None = None) -> list[Input]:
    """The files of every source, those `found` by a check before if it is given.

    Raises UserError for a source without files, an unknown language, or a missing model that scores.
    """
    language.check(config.language)
    score.check(config.score, config.storage)
    cache = Layout(config.storage).inputs
    return list_inputs(config.sources, cache, config.ingest.split_bytes, found)


def prepare(
    config: Config, inputs: list[Input], *, claim: Claim, executor: Executor, progress: Progress
) -> Outcome:
    """Build a corpus version from all sources, or find the version that holds just that.

    A version whose manifest cannot be read is made again. Raises UserError if it is not that one.
    """
    run = Run(claim=claim, executor=executor, progress=progress)
    again = [_build(config, inputs, None, "prepare", run, again=name) for name in unreadable(config.storage)]
    if again:
        return again[-1]
    version = find_build(config, inputs)
    if version:
        return Outcome(version, False)
    return _build(config, inputs, None, "prepare", run)


def deduplicated(
    config: Config, inputs: list[Input], *, until: str, claim: Claim, executor: Executor, progress: Progress
) -> str:
    """Run what a build of all sources does up to a phase of deduplication; the folder of the phases."""
    run = Run(claim=claim, executor=executor, progress=_watched(progress, claim, config))
    plan = Plan(config=config, layout=Layout(config.storage), inputs=tuple(inputs), parent=None)
    measured = run(plan.measure())
    _, decided = plan.decide(measured, run)
    stage = plan.deduplicate(measured, decided, until)
    with contextlib.suppress(ReachedError):
        run(stage)
    return stage.work


def refresh_plan(config: Config, inputs: list[Input]) -> tuple[Version, list[Input]]:
    """The version to build on, and the inputs it has not read.

    Raises UserError without a version, or if the configuration differs from that of the version.
    """
    parent = manifests.require(config.storage)
    _check_unchanged(config, parent, "a refresh")
    return parent, new_inputs(parent, inputs)


def _check_unchanged(config: Config, parent: Version, what: str) -> None:
    """Raise UserError if the configuration differs from that of the version in more than its sources."""
    now, then = build_configuration(config), parent.manifest.config
    free = ("sources", "mixture", "mixture_epochs")
    changed = sorted(name for name in {*now, *then} if now.get(name) != then.get(name) and name not in free)
    if changed:
        raise UserError(
            f"{what} needs the configuration of {parent.name}, but {', '.join(changed)} changed; "
            "run jobs.prepare for a corpus with the new one"
        )


def refresh(
    config: Config, inputs: list[Input], *, claim: Claim, executor: Executor, progress: Progress
) -> Outcome:
    """Make the next corpus version from new and changed files alone."""
    parent, fresh = refresh_plan(config, inputs)
    if not fresh:
        return Outcome(parent, False)
    return _build(config, fresh, parent, "refresh", Run(claim=claim, executor=executor, progress=progress))


def merge_plan(config: Config, storage: str) -> tuple[Version, Version]:
    """The newest version here, and that of the corpus in another storage which is to join it.

    Raises UserError without versions, or if they cannot be merged.
    """
    parent, other = manifests.require(config.storage), manifests.require(files.absolute(storage))
    _check_unchanged(config, parent, "a merge")
    merging.check(config, parent, other)
    return parent, other


def merge(
    config: Config,
    parent: Version,
    other: Version,
    *,
    claim: Claim,
    executor: Executor,
    progress: Progress,
) -> Outcome:
    """Make the next corpus version from `parent` and the documents of `other` that it does not hold."""
    merged = merging.find(parent, other)
    if merged:
        return Outcome(merged, False)
    layout = Layout(config.storage)
    name = manifests.next_name(config.storage)
    compare = merging.Compare(config=config, layout=layout, parent=parent, other=other)
    key = files.key_of(build_configuration(config), parent.hash, other.hash, name)
    work = _Work(
        config=config,
        name=name,
        parent=parent,
        command="merge",
        key=key,
        tags={"merged_corpus": other.hash, "merged_url": other.url},
    )
    run = Run(claim=claim, executor=executor, progress=progress)
    return _recorded(work, lambda run: merging.merge(compare, name, run), run)


def _build(
    config: Config,
    inputs: list[Input],
    parent: Version | None,
    command: str,
    run: Run,
    again: str | None = None,
) -> Outcome:
    """Make a version with an MLflow run around it; `again`: the one whose manifest cannot be read."""
    name = again or manifests.next_name(config.storage)
    plan = Plan(config=config, layout=Layout(config.storage), inputs=tuple(inputs), parent=parent)
    key = files.key_of(build_configuration(config), [item.part for item in inputs], name)
    work = _Work(config=config, name=name, parent=parent, command=command, key=key, tags={})
    make = remake if again else build
    return _recorded(work, lambda run: make(plan, name, run), run)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What MLflow is told of the making of a version."""

    config: Config
    name: str
    parent: Version | None
    command: str
    key: str
    """Names the work, so that its run is found again."""
    tags: dict[str, str]


def _recorded(work: _Work, make: Callable[[Run], Version], run: Run) -> Outcome:
    """Make a version with an MLflow run around it."""
    place = tracking.Tracking.of(work.config)
    tags = {"version": work.name, "storage": work.config.storage, **work.tags}
    if work.parent:
        tags |= {"parent_corpus": work.parent.hash}
        tags |= tracking.upstream(place, parent_command(work.parent), corpus=work.parent.hash)
    with tracking.run(place, work.command, work.key, tags) as opened:
        opened.params(build_configuration(work.config))
        with tracking.ship_progress(opened, _watched(run.progress, run.claim, work.config)) as shipped:
            version = make(replace(run, progress=shipped))
        if version == work.parent:
            return Outcome(version, False)
        opened.tags({"corpus": version.hash})
        opened.metrics(build_metrics(version))
        opened.artifact(version.file(REPORT))
        opened.artifact(version.manifest_url)
    return Outcome(version, True)


def _watched(progress: Progress, claim: Claim, config: Config) -> Progress:
    """A progress that stops the command soon after another one has taken over."""
    return watched(progress, claim.check, config.claims.stale_seconds / claims.BEATS)


def parent_command(version: Version) -> str:
    """The command that made a version."""
    if version.manifest.merged:
        return "merge"
    return "refresh" if version.manifest.parent else "prepare"


def build_metrics(version: Version) -> dict[str, float]:
    """Totals of a build for MLflow: documents and bytes out of each stage, tokens, shards."""
    metrics: dict[str, float] = {}
    for stages in version.manifest.ledger.values():
        for stage in stages:
            for unit in ("documents", "bytes"):
                name = f"{stage['stage']}/{unit}_out"
                metrics[name] = metrics.get(name, 0) + stage[f"{unit}_out"]
    own = version.own_shards
    metrics["tokens"] = sum(shard.tokens for shard in own)
    metrics["shards"] = len(own)
    metrics["tokens_total"] = version.manifest.tokens
    return metrics


def summary(outcome: Outcome) -> list[str]:
    """What a person wants to know of a version, as lines of text."""
    version = outcome.version
    manifest = version.manifest
    lines = []
    for name in sorted({*manifest.sources, *manifest.ledger}):
        totals = manifest.sources.get(name)
        tokens = totals.tokens + totals.heldout_tokens if totals else 0
        stages = {stage["stage"]: stage for stage in manifest.ledger.get(name, [])}
        read = stages["read"]["documents_in"] if "read" in stages else 0
        kept = list(stages.values())[-1]["documents_out"] if stages else 0
        lines.append(f"  {name:<24} {read:>9,} records in {kept:>9,} kept {tokens:>14,} tokens in all")
    lines.append(
        f"corpus {version.name} {version.hash[:12]}: {manifest.tokens:,} tokens "
        f"in {manifest.shard_count} shards" + ("" if outcome.new else " (already finished)")
    )
    lines.append(f"manifest {version.manifest_url}")
    lines.append(f"report   {version.file(REPORT)}")
    return lines
