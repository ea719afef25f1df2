"""Damaged files of a corpus version made again.

The build of the version is repeated beside it: stages whose files are there are not run again, only damaged
shards are merged, and a file is replaced only by one with the digest that the manifest names.
"""

from dataclasses import replace
from typing import Any

from base import files
from base import manifest as manifests
from base.claims import Claim
from base.credentials import restored
from base.damage import sound
from base.errors import UserError
from base.layout import INPUTS, MANIFEST, SHARDS, Layout, name_of
from base.manifest import Version
from pipelines.config import Config
from pipelines.corpus.inputs import Input
from pipelines.corpus.stages.plan import Plan, Run, ledger_of, select, tokenize, write_shards
from pipelines.corpus.versions import build, merge
from pipelines.corpus.versions.build import new_inputs
from pipelines.corpus.versions.commands import inputs_of
from pipelines.corpus.versions.commit import common_manifest
from pipelines.corpus.versions.verify import INDEXES, Damage
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Progress


def repair(
    config: Config,
    versions: list[Version],
    damage: list[Damage],
    *,
    claim: Claim,
    executor: Executor,
    progress: Progress,
) -> list[Damage]:
    """Make damaged files of versions of one corpus again; returns those that could not be, with the reason.

    config: the project's, for storage; what the files depend on is in each manifest.

    Raises UserError if a source file is needed and is no longer what it was.
    """
    run = Run(claim=claim, executor=executor, progress=progress)
    indexes = {item.path for item in damage if item.path.startswith(INDEXES)}
    manifests_own = (MANIFEST, SHARDS, INPUTS)
    paths = {item.path for item in damage if name_of(item.path) not in manifests_own} - indexes
    left = [item for item in damage if item.path not in paths | indexes]
    if not versions:
        return sorted(left)
    for name in sorted({path.removeprefix(INDEXES).split("/", 1)[0] for path in indexes}):
        _index_again(config, versions, name, run)
    # A version's tokenizer is that of its parent, so the oldest come first.
    for name in sorted({path.split("/", 1)[0] for path in paths}):
        version = manifests.open_version(versions[0].below_versions(name))
        mine = frozenset(path.removeprefix(f"{name}/") for path in paths if path.startswith(f"{name}/"))
        left += _rebuild(config, version, mine, run)
    return sorted(left)


def _index_again(config: Config, versions: list[Version], name: str, run: Run) -> None:
    """Write a dedup index again, which is the last of the first version that has it."""
    layout = Layout(config.storage)
    version = min(
        (version for version in versions if layout.index(name) in version.indexes),
        key=lambda version: version.manifest.shard_count,
    )
    settings, parent = _settings(config, version), _parent(version)
    files.remove(layout.index(name))
    if parent and version.manifest.merged:
        compare = merge.Compare(config=settings, layout=layout, parent=parent, other=_other(version))
        merge.index_documents(compare, version.name, run(compare), run)
    else:
        plan = _plan(settings, layout, version, parent)
        build.index_documents(plan, version.name, select(plan, run), run)


def _settings(config: Config, version: Version) -> Config:
    """The configuration that a version was made with, and the project's for the rest."""
    now = config.model_dump(mode="json")
    with sound(version.manifest_url):
        unknown = _code(version.manifest.config) - _code(now)
        if unknown:
            raise UserError(
                f"{version.manifest_url} names code that the configuration does not: {sorted(unknown)[0]}; "
                "name it there if it shall be run"
            )
        return Config.model_validate({**now, **restored(version.manifest.config, now)})


def _code(values: dict[str, Any]) -> set[str]:
    """Import paths in a configuration or in what a manifest has of one: of formats, filters and edits."""
    formats = {str(source.get("format", "")) for source in values.get("sources", [])}
    plugins = [item for kind in values.get("plugins", {}).values() for item in kind]
    paths = {str(item["path"] if isinstance(item, dict) else item) for item in plugins}
    return {path for path in formats | paths if ":" in path}


def _parent(version: Version) -> Version | None:
    name = version.manifest.parent
    return manifests.open_version(version.below_versions(name)) if name else None


def _plan(settings: Config, layout: Layout, version: Version, parent: Version | None) -> Plan:
    """What a version was built from; parts whose files are gone will be measured again."""
    inputs = [Input(**item.model_dump()) for item in version.inputs]
    if parent:
        inputs = new_inputs(parent, inputs)
    return _measure_lost(Plan(config=settings, layout=layout, inputs=tuple(inputs), parent=parent), version)


def _other(version: Version) -> Version:
    """The version of another corpus that was merged. Raises UserError if it is no longer there."""
    merged = version.manifest.merged
    assert merged is not None
    there = files.exists(files.join(merged.url, MANIFEST))
    other = manifests.open_version(merged.url) if there else None
    if other is None or other.hash != merged.manifest_hash:
        raise UserError(
            f"{version.name} was merged from {merged.url}, which is gone or has changed: restore it first"
        )
    return other


def _rebuild(config: Config, version: Version, damaged: frozenset[str], run: Run) -> list[Damage]:
    """Make damaged files (paths below the version's folder) again; returns those that were not."""
    manifest = version.manifest
    settings, parent = _settings(config, version), _parent(version)
    layout = Layout(config.storage)
    folder = layout.work("rebuild", version.name)
    files.remove(folder)
    if parent and manifest.merged:
        _merge_again(settings, layout, version, parent, folder, damaged, run)
    else:
        _build_again(settings, layout, version, parent, folder, damaged, run)
    expected: dict[str, str | None] = dict(manifest.files)
    for shard in version.own_shards:
        expected[shard.path.removeprefix(f"{version.name}/")] = shard.digest
        expected[shard.origins.removeprefix(f"{version.name}/")] = shard.origins_digest
    failed = []
    for path in sorted(damaged):
        made = files.below(folder, path)
        digest = files.digest(made) if files.exists(made) else None
        if digest is None or digest != expected.get(path):
            problem = f"the file made again has digest {digest}, the manifest says {expected.get(path)}"
            failed.append(Damage(f"{version.name}/{path}", f"{problem}: it was not replaced"))
        else:
            run.claim.write(version.file(path), files.read_bytes(made))
    files.remove(folder)
    return failed


def _build_again(
    settings: Config,
    layout: Layout,
    version: Version,
    parent: Version | None,
    folder: str,
    damaged: frozenset[str],
    run: Run,
) -> None:
    """Repeat the build of a version below `folder`, as far as its damaged files need it."""
    plan = _plan(settings, layout, version, parent)
    selected = select(plan, run)
    tables = damaged & version.manifest.files.keys()
    if tables:
        vocabulary, tokenized = tokenize(plan, selected, run)
    else:
        own = [(shard, f"{version.name}/") for shard in version.own_shards]
        sources = {
            shard.source
            for shard, prefix in own
            if {shard.path.removeprefix(prefix), shard.origins.removeprefix(prefix)} & damaged
        }
        vocabulary, tokenized = tokenize(
            plan, selected, run, tokenizer=version.tokenizer_url, sources=frozenset(sources)
        )
    facts = files.join(folder, "facts")
    write_shards(plan, vocabulary, tokenized, run, folder=folder, facts=facts, paths=damaged)
    if tables:
        common = common_manifest(
            settings,
            name=version.name,
            parent=parent,
            tokenizer=vocabulary.facts,
            contents=version.contents,
            indexes=build.index_documents(plan, version.name, selected, run),
            ledger=ledger_of(selected, tokenized),
        )
        build.write_files(plan, folder, common, version.contents, selected, vocabulary, tokenized, run)


def _merge_again(
    settings: Config,
    layout: Layout,
    version: Version,
    parent: Version,
    folder: str,
    damaged: frozenset[str],
    run: Run,
) -> None:
    """Repeat the merge of a version below `folder`, as far as its damaged files need it.

    Raises UserError if the corpus version that was merged is no longer there.
    """
    other = _other(version)
    compare = merge.Compare(config=settings, layout=layout, parent=parent, other=other)
    compared = run(compare)
    tables = damaged & version.manifest.files.keys()
    filtered = run(
        merge.FilterShards(
            compared=compared,
            other=other,
            folder=folder,
            claim=run.claim,
            facts=files.join(folder, "facts"),
            only=None if tables else damaged,
        )
    )
    if tables:
        indexes = merge.index_documents(compare, version.name, compared, run)
        merge.write_files(compare, version.name, folder, compared, filtered, indexes, run.claim)


def _measure_lost(plan: Plan, version: Version) -> Plan:
    """Let the plan measure again the parts whose documents, attributes or rejects are gone.

    Raises UserError if a source file that must be read for that is no longer what it was.
    """
    layout, keys = plan.layout, plan.measure().keys
    lost = [
        item
        for item in plan.inputs
        if not all(
            files.exists(layout.part(kind, keys[item.source], item.part, suffix))
            for kind, suffix in (("documents", "arrow"), ("attributes", "parquet"), ("rejects", "parquet"))
        )
    ]
    if not lost:
        return plan
    present = {item.part: item for item in inputs_of(plan.config)}
    for item in lost:
        if item.part not in present:
            raise UserError(
                f"{item.file} is not what {version.name} was made from, and its documents are no longer in "
                f"{files.join(layout.corpus, 'documents')}: restore one of them"
            )
        files.remove(layout.part("parts", keys[item.source], item.part, "json"))
    # The manifest has no credentials.
    return replace(plan, inputs=tuple(present.get(item.part, item) for item in plan.inputs))
