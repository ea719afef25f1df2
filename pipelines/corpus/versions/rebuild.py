"""Damaged files of a corpus version made again.

The build of the version is repeated beside it: stages whose files are there are not run again, only damaged
shards are merged, and a file is replaced only by one with the digest that the manifest names.
"""

from dataclasses import replace
from typing import Any

from base import files
from base import manifest as manifests
from base.credentials import restored
from base.errors import UserError
from base.manifest import Version
from pipelines.config import Config
from pipelines.corpus.inputs import Input
from pipelines.corpus.versions.build import Build, new_inputs
from pipelines.corpus.versions.commands import inputs_of
from pipelines.corpus.versions.merge import Merge
from pipelines.corpus.versions.verify import Damage, origins_path, sibling
from pipelines.runtime.cluster import Progress


def repair(config: Config, versions: list[Version], damage: list[Damage], progress: Progress) -> list[Damage]:
    """Make damaged files of versions of one corpus again; returns those that could not be, with the reason.

    config: the project's, for storage and cluster; what the files depend on is in each manifest. Ray must be
    initialised.

    Raises UserError if a source file is needed and is no longer what it was.
    """
    paths = {item.path for item in damage if not item.path.endswith("/manifest.json")}
    left = [item for item in damage if item.path not in paths]
    # A version's tokenizer is that of its parent, so the oldest come first.
    for name in sorted({path.split("/", 1)[0] for path in paths}):
        version = manifests.open_version(sibling(versions[0], name))
        mine = {path for path in paths if path.startswith(f"{name}/")}
        left += _rebuild(config, version, mine, progress)
    return sorted(left)


def _rebuild(config: Config, version: Version, damaged: set[str], progress: Progress) -> list[Damage]:
    """Make damaged files of one version again (paths start with its name); returns those that were not."""
    content = version.raw
    now = config.model_dump(mode="json")
    settings = Config.model_validate({**now, **restored(content["config"], now)})
    parent = manifests.open_version(sibling(version, content["parent"])) if content["parent"] else None
    others = {path for path in damaged if path.split("/", 1)[1] in content.get("files", {})}
    own = [line for line in content["shards"] if line["version"] == version.name]
    if parent and "merged" in content:
        work: Build | Merge = _merge_again(settings, version, parent, damaged, bool(others), progress)
    else:
        work = _build_again(settings, version, parent, damaged, bool(others), progress)
    if others:
        work.write_index()
        work.write_files(own)
    expected: dict[str, str | None] = {
        f"{version.name}/{name}": digest for name, digest in content.get("files", {}).items()
    }
    for line in own:
        expected[line["path"]] = line["digest"]
        expected[origins_path(line["path"])] = line.get("origins_digest")
    failed = []
    for path in sorted(damaged):
        made = files.join(work.folder, path.split("/", 1)[1])
        found = files.digest(made) if files.exists(made) else None
        if found is None or found != expected.get(path):
            failed.append(
                Damage(
                    path,
                    f"the file made again has digest {found}, the manifest says {expected.get(path)}: "
                    "it was not replaced",
                )
            )
        else:
            files.write_bytes(sibling(version, path), files.read_bytes(made))
    files.remove(work.folder)
    return failed


def _build_again(
    settings: Config,
    version: Version,
    parent: Version | None,
    damaged: set[str],
    all_parts: bool,
    progress: Progress,
) -> Build:
    """Repeat the build of a version beside it up to its damaged shards; `all_parts`: all is tokenized."""
    content = version.raw
    inputs = [Input(**item) for item in content["inputs"]]
    if parent:
        inputs = new_inputs(parent, inputs)
    own = [line for line in content["shards"] if line["version"] == version.name]
    build = Build(settings, inputs, parent, progress, version.name)
    build.folder = build.work("rebuild", version.name)
    files.remove(build.folder)
    _measure_lost(build, version)
    build.select()
    if all_parts:
        build.tokenize()
    else:
        _tokenize_only(build, version, {line["source"] for line in own if _paths(line) & damaged})
    build.write_shards(
        [
            replace(task, facts=files.join(build.folder, "facts"))
            for task in build.plan_shards()
            if damaged & {f"{version.name}/{task.path}", f"{version.name}/{task.origins}"}
        ]
    )
    return build


def _merge_again(
    settings: Config,
    version: Version,
    parent: Version,
    damaged: set[str],
    all_shards: bool,
    progress: Progress,
) -> Merge:
    """Repeat the merge of a version beside it up to its damaged shards, or to all.

    Raises UserError if the corpus version that was merged is no longer there.
    """
    facts = version.raw["merged"]
    there = files.exists(files.join(facts["url"], "manifest.json"))
    other = manifests.open_version(facts["url"]) if there else None
    if other is None or other.hash != facts["manifest_hash"]:
        raise UserError(
            f"{version.name} was merged from {facts['url']}, which is gone or has changed: restore it first"
        )
    merge = Merge(settings, parent, other, progress, version.name)
    merge.folder = merge.work("rebuild", version.name)
    files.remove(merge.folder)
    merge.select()
    merge.write_shards(
        [
            replace(task, facts=files.join(merge.folder, "facts"))
            for task in merge.plan_shards()
            if all_shards or damaged & {f"{version.name}/{task.path}", f"{version.name}/{task.origins}"}
        ]
    )
    return merge


def _paths(line: dict[str, Any]) -> set[str]:
    return {line["path"], origins_path(line["path"])}


def _tokenize_only(build: Build, version: Version, sources: set[str]) -> None:
    """Tokenize the parts that hold documents of some sources, with the version's own tokenizer."""
    build.inputs = [item for item in build.inputs if build.sources_of[item.part] & sources]
    parts = {item.part for item in build.inputs}
    build.survivors = [survivors for survivors in build.survivors if survivors.part in parts]
    url = files.join(version.url, version.raw["tokenizer"]["file"])
    tokenize = build.config.tokenize.model_copy(update={"tokenizer": url})
    build.config = build.config.model_copy(update={"tokenize": tokenize})
    build.tokenize()


def _measure_lost(build: Build, version: Version) -> None:
    """Let the build measure again the parts whose documents or attributes are gone.

    Raises UserError if a source file that must be read for that is no longer what it was.
    """
    lost = [
        item
        for item in build.inputs
        if not all(
            files.exists(build.part(kind, item, suffix))
            for kind, suffix in (("documents", "arrow"), ("attributes", "parquet"), ("rejects", "parquet"))
        )
    ]
    if not lost:
        return
    present = {item.part: item for item in inputs_of(build.config)}
    # The manifest has no credentials.
    build.inputs = [present.get(item.part, item) for item in build.inputs]
    for item in lost:
        if item.part not in present:
            raise UserError(
                f"{item.file} is not what {version.name} was made from, and its documents are no longer in "
                f"{build.corpus}/documents: restore one of them"
            )
        files.remove(build.part("parts", item, "json"))
