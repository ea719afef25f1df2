"""The corpus build: from sources to a visible corpus version, restartable at every task."""

import pyarrow.compute as pc

from base import files, layout
from base import manifest as manifests
from base.contents import Contents
from base.layout import REPORT, TOKENIZER
from base.manifest import Manifest, Version
from pipelines.config import Config, build_configuration
from pipelines.corpus.inputs import Input
from pipelines.corpus.stages import losses, score
from pipelines.corpus.stages.plan import (
    Plan,
    Run,
    Selected,
    check_losses_of_edits,
    ledger_of,
    select,
    tokenize,
    write_shards,
)
from pipelines.corpus.stages.tokenize import Tokenized
from pipelines.corpus.stages.vocabulary import Vocabulary
from pipelines.corpus.text import language, quality
from pipelines.corpus.versions.commit import (
    Join,
    all_contents,
    check_shards,
    common_manifest,
    digests,
    join_tables,
    write_contents,
)
from pipelines.corpus.versions.indexes import add_index
from pipelines.runtime.progress import Counter


def find_build(config: Config, inputs: list[Input]) -> Version | None:
    """The version that was made with this configuration of exactly these inputs, if there is one."""
    key, wanted = files.key_of(build_configuration(config)), [item.entry for item in inputs]
    for version in reversed(manifests.versions(config.storage)):
        if (version.manifest.config_hash, version.manifest.input_count) != (key, len(wanted)):
            continue
        if version.inputs == wanted and not any(
            older.manifest.merged for older in manifests.ancestry(version)
        ):
            return version
    return None


def new_inputs(parent: Version, inputs: list[Input]) -> list[Input]:
    """The inputs that the parent version has not read: new files and files whose content changed."""
    known = {(item.source, item.file, item.digest) for item in parent.inputs}
    return [item for item in inputs if (item.source, item.name, item.digest) not in known]


def build(plan: Plan, name: str, run: Run) -> Version:
    """Run every stage and commit the version of that name.

    Raises UserError for what a person can mend, LedgerError when counts disagree.
    """
    folder = plan.layout.version(name)
    manifest = make(plan, name, run, folder=folder)
    run.claim.publish(plan.layout.manifest(name), manifest)
    return manifests.open_version(folder)


def make(plan: Plan, name: str, run: Run, *, folder: str, facts: str | None = None) -> Manifest:
    """Write all files of the version of that name but the manifest into `folder`; returns the manifest.

    facts: as WriteShards has it.
    """
    selected = select(plan, run)
    vocabulary, tokenized = tokenize(plan, selected, run)
    check_losses_of_edits(plan, selected, tokenized)
    ledger = ledger_of(selected, tokenized)
    if plan.parent is None:
        losses.check_documents(ledger, selected.measured)
    shards = write_shards(plan, vocabulary, tokenized, run, folder=folder, facts=facts)
    ledger.check()
    contents = all_contents(plan.parent, name, shards, [item.entry for item in plan.inputs])
    common = common_manifest(
        plan.config,
        name=name,
        parent=plan.parent,
        tokenizer=vocabulary.facts,
        contents=contents,
        indexes=index_documents(plan, name, selected, run),
        ledger=ledger,
    )
    manifest = write_files(plan, folder, common, contents, selected, vocabulary, tokenized, run)
    check_shards(folder, shards)
    return manifest


def index_documents(plan: Plan, name: str, selected: Selected, run: Run) -> list[str]:
    """Write the dedup index of the documents that a version adds; the indexes of the version."""
    return add_index(
        selected.decided.entries,
        selected.measured.documents,
        selected.deduplicated.dropped,
        config=plan.config,
        layout=plan.layout,
        parent=plan.parent,
        version=name,
        key=selected.deduplicated.key,
        run=run,
    )


def write_files(
    plan: Plan,
    folder: str,
    common: Manifest,
    contents: Contents,
    selected: Selected,
    vocabulary: Vocabulary,
    tokenized: Tokenized,
    run: Run,
) -> Manifest:
    """Write the version's other files than shards, origins and manifest into `folder`; the whole manifest."""
    from pipelines.corpus.report import page  # matplotlib takes half a second

    run.claim.write(files.join(folder, TOKENIZER), files.read_bytes(vocabulary.url))
    tables = _join_tables(folder, selected, tokenized, run)
    own_lines = [f"versions/{common.version}/{layout.LINES}"] if selected.repeated.lines else []
    manifest = common.model_copy(
        update={
            "lines": [*(plan.parent.manifest.lines if plan.parent else []), *own_lines],
            "languages": selected.decided.languages,
            "unjudged": selected.decided.unjudged,
            "contamination": _contamination(tables[layout.CONTAMINATION], selected.edits.benchmark_items),
            "redacted": tokenized.redacted,
            "special_tokens": tokenized.special_tokens,
        }
    )
    config = plan.config
    page.write_report(
        manifest,
        contents,
        page.Tables(
            dropped={stage: [tables[layout.dropped(stage)]] for stage in ("quality", "duplicates", "edits")},
            attributes=selected.measured.attributes,
            rejects=[tables[layout.REJECTS]],
            contamination=tables[layout.CONTAMINATION],
            documents=selected.measured.documents,
            scores=list(selected.scored.tables.values()),
        ),
        files.join(folder, REPORT),
        quality.thresholds(_kinds(config), config.quality)
        | language.thresholds(config.language)
        | score.thresholds(config.score),
        run.claim.write,
    )
    made = digests(folder, [TOKENIZER, *tables, REPORT]) | write_contents(folder, contents, run.claim)
    return manifest.model_copy(update={"files": made})


def _join_tables(folder: str, selected: Selected, tokenized: Tokenized, run: Run) -> dict[str, str]:
    """Write the version's tables from those of its parts; their URLs by path below the folder."""
    parts = {
        layout.REJECTS: selected.measured.rejects,
        layout.dropped("quality"): selected.decided.dropped,
        layout.dropped("duplicates"): selected.deduplicated.dropped,
        layout.dropped("edits"): tokenized.urls("dropped"),
        layout.CONTAMINATION: tokenized.urls("hits"),
        layout.LINES: selected.repeated.lines,
    }
    tasks = [Join(files.join(folder, path), urls, run.claim) for path, urls in parts.items()]
    urls = run.executor.run_tasks(join_tables, tasks, Counter(run.progress, "tables", 0, len(tasks)))
    return dict(zip(parts, urls, strict=True))


def _contamination(url: str, items: dict[str, int]) -> dict[str, dict[str, int]]:
    """By benchmark: items looked for, items found, and documents dropped or cut for them."""
    hits = files.read_parquet(url, ["benchmark", "item", "document_id", "removed"])
    counts = {}
    for name, looked_for in sorted(items.items()):
        mine = hits.filter(pc.equal(hits["benchmark"], name))
        documents = mine.filter(mine["removed"])["document_id"]
        counts[name] = {
            "items": looked_for,
            "items_found": len(pc.unique(mine["item"])),
            "documents": len(pc.unique(documents)),
        }
    return counts


def _kinds(config: Config) -> list[str]:
    """Every kind of text that the configuration names, in its order."""
    return list(
        dict.fromkeys(kind for source in config.sources for kind in (source.kind, *source.kinds.values()))
    )
