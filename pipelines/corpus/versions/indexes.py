"""The dedup indexes of corpus versions: one for what each version adds, joined when there are many."""

from base.layout import Layout
from base.manifest import Version
from dedup.catalog import Entries
from pipelines.config import Config
from pipelines.corpus.stages.indexes import compact_indexes, write_index
from pipelines.corpus.stages.plan import Run

MAX_INDEXES = 8
"""Dedup indexes of a version; one more, and they become one: a refresh opens every file of each."""


def add_index(
    entries: list[Entries],
    documents: dict[str, str],
    dropped: list[str],
    *,
    config: Config,
    layout: Layout,
    parent: Version | None,
    version: str,
    key: str,
    run: Run,
) -> list[str]:
    """Write the dedup index of the documents that `version` adds to `parent`; many indexes become one.

    entries, documents, dropped: as `write_index` takes them. key: what they depend on. Returns the indexes of
    the version, oldest first, as paths below the corpus.
    """

    def shown(stage: str, *counts: int) -> None:
        run.progress(stage.replace("dedup", "index"), *counts)

    own = f"{version}-{key[:8]}"
    url = layout.index(own)
    write_index(
        entries,
        documents,
        dropped,
        version=version,
        output=url,
        config=config.dedup,
        executor=run.executor,
        progress=shown,
    )
    paths = [*(parent.manifest.indexes if parent else []), f"index/{own}"]
    if len(paths) > MAX_INDEXES:
        urls = [*(parent.indexes if parent else []), url]
        compact_indexes(urls, f"{url}-all", executor=run.executor, progress=shown)
        paths = [f"index/{own}-all"]
    return paths
