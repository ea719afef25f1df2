"""jobs.prepare, jobs.refresh and jobs.merge below the command line: inputs, build, record in MLflow."""

from dataclasses import dataclass
from typing import Any

from base import files
from base import manifest as manifests
from base.errors import UserError
from base.manifest import Version
from pipelines.config import Config, build_configuration
from pipelines.corpus.inputs import Input, list_inputs
from pipelines.corpus.stages import score
from pipelines.corpus.text import language
from pipelines.corpus.versions import merge as merging
from pipelines.corpus.versions.build import Build, find_build, new_inputs
from pipelines.runtime import tracking
from pipelines.runtime.cluster import Progress


@dataclass(frozen=True)
class Outcome:
    """A corpus version and whether it was made now or found finished."""

    version: Version
    new: bool


def inputs_of(config: Config, found: set[tuple[str, str]] | None = None) -> list[Input]:
    """The files of every source, those `found` by a check before if it is given.

    Raises UserError for a source without files, an unknown language, or a missing model that scores.
    """
    language.check(config.language)
    score.check(config.score, config.storage)
    cache = files.join(manifests.corpus_url(config.storage), "inputs.json")
    return list_inputs(config.sources, cache, config.ingest.split_bytes, found)


def prepare(config: Config, inputs: list[Input], progress: Progress) -> Outcome:
    """Build a corpus version from all sources, or find the version that holds just that."""
    found = find_build(config, inputs)
    if found:
        return Outcome(found, False)
    return _build(config, inputs, None, progress, "prepare")


def refresh_plan(config: Config, inputs: list[Input]) -> tuple[Version, list[Input]]:
    """The version to build on, and the inputs it has not read.

    Raises UserError without a version, or if the configuration differs from that of the version.
    """
    parent = manifests.require(config.storage)
    _check_unchanged(config, parent, "a refresh")
    return parent, new_inputs(parent, inputs)


def _check_unchanged(config: Config, parent: Version, what: str) -> None:
    """Raise UserError if the configuration differs from that of the version in more than its sources."""
    now, then = build_configuration(config), parent.raw["config"]
    free = ("sources", "mixture", "mixture_epochs")
    changed = sorted(name for name in now if now[name] != then.get(name) and name not in free)
    if changed:
        raise UserError(
            f"{what} needs the configuration of {parent.name}, but {', '.join(changed)} changed; "
            "run jobs.prepare for a corpus with the new one"
        )


def refresh(config: Config, inputs: list[Input], progress: Progress) -> Outcome:
    """Make the next corpus version from new and changed files alone."""
    parent, fresh = refresh_plan(config, inputs)
    if not fresh:
        return Outcome(parent, False)
    return _build(config, fresh, parent, progress, "refresh")


def merge_plan(config: Config, storage: str) -> tuple[Version, Version]:
    """The newest version here, and that of the corpus in another storage which is to join it.

    Raises UserError without versions, or if they cannot be merged.
    """
    parent, other = manifests.require(config.storage), manifests.require(files.absolute(storage))
    _check_unchanged(config, parent, "a merge")
    merging.check(config, parent, other)
    return parent, other


def merge(config: Config, parent: Version, other: Version, progress: Progress) -> Outcome:
    """Make the next corpus version from `parent` and the documents of `other` that it does not hold."""
    found = merging.find(parent, other)
    if found:
        return Outcome(found, False)
    work = merging.Merge(config, parent, other, progress)
    key = files.key_of(build_configuration(config), parent.hash, other.hash, work.version)
    tags = {"merged_corpus": other.hash, "merged_url": other.url}
    return _record(config, work, "merge", key, tags)


def _build(
    config: Config, inputs: list[Input], parent: Version | None, progress: Progress, command: str
) -> Outcome:
    work = Build(config, inputs, parent, progress)
    key = files.key_of(build_configuration(config), [item.part for item in inputs], work.version)
    return _record(config, work, command, key, {})


def _record(
    config: Config, work: Build | merging.Merge, command: str, key: str, tags: dict[str, str]
) -> Outcome:
    """Run a build or merge, with an MLflow run of the key and tags around it."""
    place = tracking.Tracking.of(config)
    tags = {"version": work.version, "storage": config.storage, **tags}
    parent = work.parent
    if parent:
        tags |= {"parent_corpus": parent.hash}
        tags |= tracking.upstream(place, parent_command(parent), corpus=parent.hash)
    with tracking.run(place, command, key, tags) as run:
        run.params(build_configuration(config))
        with tracking.ship_progress(run, work.progress) as work.progress:
            version = work.run()
        if version == parent:
            return Outcome(version, False)
        run.tags({"corpus": version.hash})
        run.metrics(build_metrics(version))
        run.artifact(files.join(version.url, "report.html"))
        run.artifact(version.manifest_url)
    return Outcome(version, True)


def parent_command(version: Version) -> str:
    """The command that made a version."""
    if "merged" in version.raw:
        return "merge"
    return "refresh" if version.raw["parent"] else "prepare"


def build_metrics(version: Version) -> dict[str, float]:
    """Totals of a build for MLflow: documents and bytes out of each stage, tokens, shards."""
    metrics: dict[str, float] = {}
    for stages in version.raw["ledger"].values():
        for stage in stages:
            for unit in ("documents", "bytes"):
                name = f"{stage['stage']}/{unit}_out"
                metrics[name] = metrics.get(name, 0) + stage[f"{unit}_out"]
    own = [line for line in version.raw["shards"] if line["version"] == version.name]
    metrics["tokens"] = sum(line["tokens"] for line in own)
    metrics["shards"] = len(own)
    metrics["tokens_total"] = sum(line["tokens"] for line in version.raw["shards"])
    return metrics


def summary(outcome: Outcome) -> list[str]:
    """What a person wants to know of a version, as lines."""
    version = outcome.version
    content: dict[str, Any] = version.raw
    ledger = content["ledger"]
    lines = []
    for name in sorted({*content["sources"], *ledger}):
        facts = content["sources"].get(name, {})
        tokens = facts.get("tokens", 0) + facts.get("heldout_tokens", 0)
        stages = {stage["stage"]: stage for stage in ledger.get(name, [])}
        read = stages["read"]["documents_in"] if "read" in stages else 0
        kept = list(stages.values())[-1]["documents_out"] if stages else 0
        lines.append(f"  {name:<24} {read:>9,} records in {kept:>9,} kept {tokens:>14,} tokens in all")
    total = sum(line["tokens"] for line in content["shards"])
    lines.append(
        f"corpus {version.name} {version.hash[:12]}: {total:,} tokens in {len(content['shards'])} shards"
        + ("" if outcome.new else " (already finished)")
    )
    lines.append(f"manifest {version.manifest_url}")
    lines.append(f"report   {files.join(version.url, 'report.html')}")
    return lines
