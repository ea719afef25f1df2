"""A version whose manifest cannot be read, made again from its sources and settings.

The build is repeated beside it. Only if the shards that are there are those that it makes is the manifest
written again, and the damaged one kept beside it; files that are damaged too are made again.
"""

import pyarrow as pa
import xxhash

from base import arrow, files
from base import manifest as manifests
from base.contents import ShardEntry, read_shards
from base.damage import DamagedError
from base.errors import UserError
from base.layout import Layout, name_of, parent_of
from base.manifest import Manifest, Version
from pipelines.corpus.stages.plan import Plan, Run
from pipelines.corpus.versions.build import make


def remake(plan: Plan, name: str, run: Run) -> Version:
    """The version of that name with its manifest made again.

    Raises UserError if it is not what the plan makes; then nothing of it is changed.
    """
    layout = plan.layout
    work = layout.work("remake", name)
    files.remove(work)
    manifest = make(plan, name, run, folder=work, facts=files.join(work, "facts"))
    shards = read_shards(work, manifest.files)
    digests = _digests(manifest, shards)
    lost = [path for path in digests if _digest(files.below(layout.version(name), path)) != digests[path]]
    if not _is_of(layout, manifest, shards, lost):
        files.remove(work)
        raise UserError(
            f"{layout.manifest(name)} is damaged, and {name} is not of these sources and settings; restore "
            "it, or move it away and run the command that made the version again"
        )
    for path in lost:
        run.claim.write(files.below(layout.version(name), path), files.read_bytes(files.join(work, path)))
    files.put_aside(layout.manifest(name))
    run.claim.publish(layout.manifest(name), manifest)
    files.remove(work)
    return manifests.open_version(layout.version(name))


def _digests(manifest: Manifest, shards: list[ShardEntry]) -> dict[str, str]:
    """The digest of every file that a version adds, by path below its folder."""
    found = dict(manifest.files)
    for shard in shards:
        own = shard.path.removeprefix(f"{manifest.version}/")
        found[own] = shard.digest
        found[shard.origins.removeprefix(f"{manifest.version}/")] = str(shard.origins_digest)
    return found


def _digest(url: str) -> str | None:
    try:
        return files.digest(url)
    except FileNotFoundError:
        return None


def _is_of(layout: Layout, manifest: Manifest, shards: list[ShardEntry], lost: list[str]) -> bool:
    """Whether a version that is there may be that of a manifest, from which some files differ.

    A shard that can be read and is another one is another version's, and so is one that it does not name. The
    manifest of a later version says what that of its parent was.
    """
    name = manifest.version
    folder = layout.version(name)
    there = set(files.list_files(files.join(folder, "shards", "*", "*.arrow")))
    named = {files.below(layout.versions, shard.path) for shard in shards}
    changed = {files.below(folder, path) for path in lost}
    if there - named or any(_can_be_read(url) for url in there & changed):
        return False
    made = xxhash.xxh3_128_hexdigest(manifest.content(layout.manifest(name)))
    children = [child for child in _readable(layout) if child.manifest.parent == name]
    return all(child.manifest.parent_manifest_hash == made for child in children)


def _can_be_read(url: str) -> bool:
    try:
        reader = arrow.open_file(url)
        for number in range(reader.num_record_batches):
            reader.get_batch(number).validate(full=True)
    except (DamagedError, pa.ArrowException):
        return False
    return True


def unreadable(storage: str) -> list[str]:
    """The names of versions whose manifests cannot be read, oldest first."""
    layout = Layout(storage)
    readable = {version.manifest_url for version in _readable(layout)}
    urls = [url for url in manifests.manifest_urls(storage) if url not in readable]
    return [name_of(parent_of(url)) for url in urls]


def _readable(layout: Layout) -> list[Version]:
    found = []
    for url in manifests.manifest_urls(layout.storage):
        try:
            version = manifests.open_version(url)
            version.contents  # noqa: B018 - they are part of it
        except UserError:
            continue
        found.append(version)
    return found
