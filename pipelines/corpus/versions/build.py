"""The corpus build: from sources to a visible corpus version, restartable at every task.

Every stage writes below <storage>/corpus under a key made of everything its output depends on, so that
running again finds finished work and a changed setting never mixes with old outputs.
"""

import logging
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from base import files
from base import manifest as manifests
from base.errors import UserError
from base.manifest import Version
from pipelines.config import Config, build_configuration, slug
from pipelines.corpus.inputs import Input
from pipelines.corpus.ledger import STAGES, Ledger, Stage, add_counts
from pipelines.corpus.report import page as report
from pipelines.corpus.stages import score, shard
from pipelines.corpus.stages.decide import Decide, count_dropped, decide_part
from pipelines.corpus.stages.deduplicate import deduplicate, find_repeated_lines, find_repeated_spans
from pipelines.corpus.stages.edit import EDIT_STAGES, EDIT_VERSION, Edits
from pipelines.corpus.stages.identical import number_identical
from pipelines.corpus.stages.measure import Count, Measure, count_part, measure_part, part_url
from pipelines.corpus.text import language, quality, tokenizer
from pipelines.corpus.text.decontaminate import load_benchmarks, write_benchmarks
from pipelines.corpus.versions import commit
from pipelines.inference import models
from pipelines.runtime.cluster import Progress, counter, map_actors, map_files, run_tasks

log = logging.getLogger(__name__)

MEASURE_VERSION = 4
"""Raised when the measuring code changes what it writes."""


class SourceLossError(UserError):
    """One stage dropped more of a source than its configuration allows."""


def find_build(config: Config, inputs: list[Input]) -> Version | None:
    """The version that was made with this configuration of exactly these inputs, if there is one."""
    wanted = (files.key_of(build_configuration(config)), [item.noted() for item in inputs])
    for version in reversed(manifests.versions(config.storage)):
        if (version.raw["config_hash"], version.raw["inputs"]) == wanted and not any(
            "merged" in older.raw for older in manifests.ancestry(version)
        ):
            return version
    return None


def new_inputs(parent: Version, inputs: list[Input]) -> list[Input]:
    """The inputs that the parent version has not read: new files and files whose content changed."""
    known = {(item["source"], item["file"], item["digest"]) for item in parent.raw["inputs"]}
    return [item for item in inputs if (item.source, item.name, item.digest) not in known]


class Build:
    """One build of a corpus version from `inputs`, on top of `parent` if there is one."""

    def __init__(
        self,
        config: Config,
        inputs: list[Input],
        parent: Version | None,
        progress: Progress,
        version: str | None = None,
    ) -> None:
        """Plan the build of `version`, by default the next one; nothing is written before `run`."""
        self.config = config
        self.inputs = inputs
        self.parent = parent
        self.progress = progress
        self.corpus = manifests.corpus_url(config.storage)
        self.sources = {source.name: source for source in config.sources}
        self.ledger = Ledger()
        self.languages: dict[str, dict[str, int]] = {}
        self.benchmark_items: dict[str, int] = {}
        self.version = version or manifests.next_name(config.storage)
        self.folder = files.join(self.corpus, "versions", self.version)

    def run(self) -> Version:
        """Run every stage and commit the version.

        Raises UserError for what a person can mend, LedgerError when counts disagree.
        """
        self.select()
        self.tokenize()
        self.check_losses("spans", "lines", "decontaminate")
        if self.parent is None:
            self._check_documents()
        lines = self.write_shards(self.plan_shards())
        self.ledger.check()
        self.write_index()
        files.write_json(files.join(self.folder, "manifest.json"), self.write_files(lines))
        return manifests.open_version(self.folder)

    def select(self) -> None:
        """Run the stages from the files of the sources to the documents that stay and their edits."""
        self.measure()
        self.check_reading()
        self.check_losses("normalise")
        self.check_mixture()
        if self.parent is None:
            self._check_kinds()
        self.decide()
        self.check_losses("quality")
        self.deduplicate()
        if self.parent is None:
            self.check_losses("exact", "fuzzy")
        self.plan_edits()

    def part(self, kind: str, item: Input, suffix: str) -> str:
        """The file of one part of a measuring output."""
        return part_url(self.corpus, kind, self.measure_key(item.source), item.part, suffix)

    def documents_files(self) -> dict[str, str]:
        """The documents file of every part."""
        return {item.part: self.part("documents", item, "arrow") for item in self.inputs}

    def measure_key(self, source: str) -> str:
        """What documents, attributes, rejects and part counts of a source depend on."""
        settings = self.sources[source]
        return files.key_of(
            MEASURE_VERSION,
            {name: getattr(settings, name) for name in ("name", "format", "text_field", "name_field")},
            self.config.ingest.model_dump(mode="json"),
            self.config.language.model_dump(mode="json", include={"enabled", "max_characters"}),
            self.config.dedup.minhash.model_dump(mode="json"),
            self.config.corpus.model_dump(mode="json"),
        )

    def work(self, stage: str, key: str, *parts: str) -> str:
        """A URL below work/<stage>/<key>."""
        return files.join(self.corpus, "work", stage, key, *parts)

    def measure(self) -> None:
        """Read, clean, identify and measure every part."""
        first_records = self._first_records()
        tasks = [
            Measure(
                self.corpus,
                self.measure_key(item.source),
                item,
                self.sources[item.source],
                self.config.ingest,
                self.config.language,
                self.config.dedup.minhash,
                self.config.corpus,
                first_records.get(item, 0),
            )
            for item in self.inputs
        ]
        count = counter(self.progress, "measure", 0, len(tasks))
        sizes = [item.bytes for item in self.inputs]
        counts = map_files(measure_part, tasks, sizes, self.config.ray.workers, count)
        self.documents = [entry["documents"] for entry in counts]
        self.sources_of = {entry["part"]: set(entry["ledger"]) for entry in counts}
        self.reading: dict[str, Stage] = {}
        for item, entry in zip(self.inputs, counts, strict=True):
            part = Ledger.from_json(entry["ledger"])
            self.ledger.add(part)
            for stages in part.sources.values():
                self.reading.setdefault(item.source, Stage()).add(stages["read"])

    def _first_records(self) -> dict[Input, int]:
        """How many records of its file lie before each range of a file that is read in several."""
        divided = {(item.source, item.file) for item in self.inputs if item.start}
        folders = {files.join(self.corpus, "parts", self.measure_key(source)) for source, _ in divided}
        finished = {url.rsplit("/", 1)[-1] for folder in folders for url in files.list_files(folder)}
        unread = {(item.source, item.file) for item in self.inputs if f"{item.part}.json" not in finished}
        ranges = [item for item in self.inputs if (item.source, item.file) in divided & unread]
        if not ranges:
            return {}
        # No range needs the number of records in the last one of a file.
        counted = [item for item, after in pairwise(ranges) if after.start]
        tasks = [
            Count(
                item,
                self.sources[item.source],
                self.work("records", self.measure_key(item.source), f"{item.part}.json"),
            )
            for item in counted
        ]
        count = counter(self.progress, "count", 0, len(tasks))
        counts = run_tasks(count_part, tasks, self.config.ray.workers, count)
        records = dict(zip(counted, counts, strict=True))
        first: dict[Input, int] = {}
        below = 0
        for item in ranges:
            below = below if item.start else 0
            first[item] = below
            below += records.get(item, 0)
        return first

    def check_mixture(self) -> None:
        """Raise UserError if the mixture names a source that neither this build nor its parent has."""
        of_parent = self.parent.raw["sources"] if self.parent else ()
        commit.check_mixture(self.config, {*self.ledger.sources, *of_parent})

    def _check_kinds(self) -> None:
        """Warn of kinds whose name no record has."""
        for source in self.config.sources:
            parts = [self.sources_of[item.part] for item in self.inputs if item.source == source.name]
            missing = sorted(source.kinds.keys() - {slug(name) for name in set().union(*parts)})
            if missing:
                log.warning("kinds of source %s: no record is named %s", source.name, ", ".join(missing))

    def decide(self) -> None:
        """Number identical documents and apply the quality thresholds to the measured columns."""
        config = self.config
        attributes = [self.part("attributes", item, "parquet") for item in self.inputs]
        base = files.key_of(
            [(item.part, self.measure_key(item.source)) for item in self.inputs],
            self.parent.hash if self.parent else None,
        )
        ordinals = number_identical(
            attributes, self.documents, self.work("ordinals", base), config.ray.workers
        )
        policies = [
            source.model_dump(mode="json", include={"name", "kind", "kinds", "priority"})
            for source in config.sources
        ]
        self.score()
        rules = [
            getattr(config, section).model_dump(mode="json") for section in ("quality", "language", "score")
        ]
        self.decide_key = files.key_of(base, rules, self.score_key, policies)
        tasks = [
            Decide(
                item.part,
                attributes[number],
                number,
                ordinals[number],
                self.sources[item.source],
                config.quality,
                config.language,
                config.score,
                self.scores.get(item.part),
                self.work("decide", self.decide_key, f"{item.part}.entries.parquet"),
                self.work("decide", self.decide_key, f"{item.part}.dropped.parquet"),
                self.work("decide", self.decide_key, f"{item.part}.json"),
            )
            for number, item in enumerate(self.inputs)
        ]
        for counts in run_tasks(
            decide_part, tasks, config.ray.workers, counter(self.progress, "decide", 0, len(tasks))
        ):
            self.ledger.add(Ledger.from_json(counts["ledger"]))
            add_counts(self.languages, counts["languages"])
        self.entries = [task.entries for task in tasks]
        self.quality_dropped = [task.dropped for task in tasks]

    def score(self) -> None:
        """Score the documents of every part by the configured models."""
        settings = self.config.score
        self.scores: dict[str, str] = {}
        self.score_key: str | None = None
        if settings.model is None and settings.fasttext is None:
            return
        model = models.find(self.config.storage, settings.model) if settings.model else None
        self.score_key = files.key_of(
            settings.model_dump(mode="json", exclude=score.RULES),
            models.model_key(model) if model else None,
            files.digest(settings.fasttext) if settings.fasttext else None,
        )
        for item in self.inputs:
            key = files.key_of(self.score_key, self.measure_key(item.source))
            self.scores[item.part] = self.work("scores", key, f"{item.part}.parquet")
        missing = [
            score.Score(self.part("documents", item, "arrow"), self.scores[item.part])
            for item in self.inputs
            if not files.exists(self.scores[item.part])
        ]
        map_actors(
            score.Scorer,
            {"config": settings, "storage": self.config.storage},
            missing,
            self.config.ray.workers,
            counter(self.progress, "score", 0, len(missing)),
        )

    def deduplicate(self) -> None:
        """Drop exact and near duplicates of new documents among themselves and of the parent's."""
        config = self.config
        pairs = config.dedup.model_dump(mode="json", exclude={"lines", "span_tokens"})
        self.dedup_key = files.key_of(self.decide_key, pairs)
        outcome = deduplicate(
            self.entries,
            self.documents_files(),
            self.work("dedup", self.dedup_key),
            config.dedup,
            self.indexes(),
            self.progress,
            config.ray.workers,
        )
        self.dropped, self.dropped_of = outcome.dropped, outcome.dropped_of
        for url in outcome.dropped:
            table = files.read_parquet(url, ["source", "reason", "bytes"])
            reasons = table["reason"].cast(pa.string())
            for stage, reason in (("exact", "exact_duplicate"), ("fuzzy", "near_duplicate")):
                count_dropped(self.ledger, stage, table.filter(pc.equal(reasons, reason)))
        for stages in self.ledger.sources.values():
            for before, stage in (("quality", "exact"), ("exact", "fuzzy")):
                if before in stages:
                    # So far it has let out what it dropped, below zero.
                    documents, size = stages[before].documents_out, stages[before].bytes_out
                    entered = Stage(documents, size, documents_out=documents, bytes_out=size)
                    stages.setdefault(stage, Stage()).add(entered)

    def indexes(self) -> list[str]:
        """Dedup index folders of the ancestors, oldest first."""
        return manifests.indexes(self.parent) if self.parent else []

    def check_reading(self) -> None:
        """Raise SourceLossError if more records of a source were rejected than it may lose.

        A rejected record does not tell its name, so that the share is of all records of the source's files.
        """
        for name, counts in sorted(self.reading.items()):
            self._check_loss(name, "read", counts, self.sources[name].max_loss)

    def check_losses(self, *stages: str) -> None:
        """Raise SourceLossError if one of the stages dropped more of a source than it may."""
        for name, counts in sorted(self.ledger.sources.items()):
            allowed = self.sources[name].max_loss if name in self.sources else self._record_source_loss()
            for stage in stages:
                if stage in counts:
                    self._check_loss(name, stage, counts[stage], allowed)

    def _check_loss(self, name: str, stage: str, counts: Stage, allowed: float) -> None:
        lost = counts.documents_dropped / max(counts.documents_in, 1)
        if lost <= allowed:
            return
        reasons = ", ".join(
            f"{reason} {entry['documents']}" for reason, entry in sorted(counts.dropped.items())
        )
        examples = self._examples(name, stage)
        raise SourceLossError(
            f"source {name} loses {lost:.0%} of its {counts.documents_in} documents in "
            f"stage {stage} ({reasons}), more than max_loss {allowed:.0%}"
            + ("; examples: " + "; ".join(examples) if examples else "")
        )

    def _record_source_loss(self) -> float:
        return min(source.max_loss for source in self.config.sources if source.name_field)

    def _examples(self, source: str, stage: str, count: int = 3) -> list[str]:
        """Where some of the dropped documents came from, with the reason."""
        if stage in ("read", "normalise"):
            return self._rejected(source, stage, count)
        urls = self.quality_dropped if stage == "quality" else self.dropped
        if stage in EDIT_STAGES:
            urls = [task.url("dropped") for task in self.tokenize_tasks]
        by_part = {item.part: item.file for item in self.inputs}
        found: list[str] = []
        for url in urls:
            table = files.read_parquet(url, ["source", "part", "row", "reason"])
            table = table.filter(pc.equal(table["source"].cast(pa.string()), source))
            found += [
                f"document {row['row']} of {by_part[row['part']]} ({row['reason']})"
                for row in table.slice(0, count).to_pylist()
            ]
            if len(found) >= count:
                break
        return found[:count]

    def _rejected(self, source: str, stage: str, count: int) -> list[str]:
        """Some of the records that never became documents, with the reason; none where none are kept."""
        found: list[str] = []
        for item in self.inputs:
            if source not in self.sources_of[item.part]:
                continue
            url = self.part("rejects", item, "parquet")
            table = files.read_parquet(url, ["source", "file", "record", "reason"])
            empty = pc.equal(table["reason"], "empty_text")
            chosen = empty if stage == "normalise" else pc.invert(empty)
            table = table.filter(pc.and_(chosen, pc.equal(table["source"], source)))
            found += [
                f"record {row['record']} of {row['file']} ({row['reason']})"
                for row in table.slice(0, count - len(found)).to_pylist()
            ]
            if len(found) == count:
                break
        return found

    def _check_documents(self) -> None:
        """Raise UserError if no document is left for a corpus."""
        if any(ranges for counts in self.runs for ranges in counts["runs"]):
            return
        lost: dict[str, int] = {}
        for stages in self.ledger.sources.values():
            for stage, counts in stages.items():
                lost[stage] = lost.get(stage, 0) + counts.documents_dropped
        records = sum(counts.documents_in for counts in self.reading.values())
        stages_lost = ", ".join(f"{stage} {lost[stage]}" for stage in STAGES if lost.get(stage))
        raise UserError(
            f"no document is left for a corpus: the files hold {records} records"
            + (f", and these were dropped: {stages_lost}" if stages_lost else "")
        )

    def plan_edits(self) -> None:
        """Find repeated spans and lines, and hash the benchmarks: all that the edits of texts need."""
        config = self.config
        documents = self.documents_files()
        settings = config.dedup.model_dump(mode="json", include={"lines", "span_tokens"})
        repeated = files.key_of(self.dedup_key, settings)
        arguments = (
            self.entries,
            documents,
            self.dropped,
            self.work("repeated", repeated),
            config.dedup,
            self.progress,
            config.ray.workers,
        )
        spans = find_repeated_spans(*arguments)
        self.lines = find_repeated_lines(*arguments)
        known = self.parent.raw["lines"] if self.parent else []
        benchmarks, digest = None, None
        if config.decontaminate.benchmarks:
            loaded = load_benchmarks(config.decontaminate)
            digest = loaded.digest
            benchmarks = self.work("benchmarks", digest, "benchmarks.parquet")
            write_benchmarks(loaded, benchmarks)
            self.benchmark_items = loaded.items
        edits = Edits(
            remove_spans=config.dedup.span_tokens is not None,
            lines=config.dedup.lines,
            line_keys=(*(files.join(self.corpus, path) for path in known), *self.lines),
            decontaminate=config.decontaminate,
            benchmarks=benchmarks,
            redact=config.redact,
        )
        # What the edits of a text depend on besides the text.
        self.edits_key = files.key_of(
            EDIT_VERSION,
            repeated if edits.remove_spans or self.lines else None,
            known,
            digest,
            config.decontaminate.model_dump(mode="json", exclude={"benchmarks"}),
            config.redact.model_dump(mode="json"),
        )
        self.edited_key = files.key_of(self.dedup_key, self.edits_key)
        self.survivors = [
            shard.Survivors(
                item.part,
                item.name,
                documents[item.part],
                entries,
                self.dropped_of.get(item.part),
                spans.get(item.part),
                edits,
            )
            for item, entries in zip(self.inputs, self.entries, strict=True)
        ]

    def tokenizer_url(self) -> str:
        """The tokenizer of this build: the parent's, the configured one, or one trained on the survivors."""
        if self.parent:
            return files.join(self.parent.url, self.parent.raw["tokenizer"]["file"])
        settings = self.config.tokenize
        if settings.tokenizer:
            return files.absolute(settings.tokenizer)
        key = files.key_of(self.edited_key, settings.model_dump(mode="json", exclude={"verify_documents"}))
        url = self.work("tokenizer", key, "tokenizer.json")
        if not files.exists(url):
            self.progress("train tokenizer", 0, 1)
            tasks = [
                shard.Sample(
                    survivors, self.sample_share(), self.work("tokenizer", key, f"{survivors.part}.parquet")
                )
                for survivors in self.survivors
            ]
            samples = run_tasks(shard.sample_texts, tasks, self.config.ray.workers)
            sample = pa.concat_tables([files.read_parquet(sample) for sample in samples])
            order = pc.sort_indices(sample["document_id"].cast(pa.binary()))
            texts = sample["text"].take(order).to_pylist()
            content = tokenizer.train(texts, settings.vocab_size, settings.end_of_document)
            files.write_bytes(url, content)
            self.progress("train tokenizer", 1, 1)
        return url

    def sample_share(self) -> float:
        """Share of the surviving documents that the tokenizer is trained on."""
        survivors = sum(
            stages["fuzzy"].bytes_out for stages in self.ledger.sources.values() if "fuzzy" in stages
        )
        return min(1.0, self.config.tokenize.train_bytes / max(survivors, 1))

    def tokenize(self) -> None:
        """Encode the survivors of every part into sorted runs."""
        config = self.config
        self.tokenizer = self.tokenizer_url()
        facts = tokenizer.facts(self.tokenizer, config.tokenize.end_of_document)
        self.tokenizer_facts = {"file": "tokenizer.json", **facts}
        encoding = files.key_of(self.edits_key, facts["sha256"], config.tokenize.end_of_document)
        self.tokenize_key = files.key_of(
            encoding,
            self.dedup_key,
            config.shard.model_dump(mode="json", include={"seed", "heldout_fraction"}),
        )
        self.tokenize_tasks = [
            shard.Tokenize(
                survivors,
                self.part("attributes", item, "parquet"),
                self.tokenizer,
                config.tokenize.end_of_document,
                config.shard.seed,
                config.shard.heldout_fraction,
                self.work("tokens", files.key_of(encoding, self.measure_key(item.source))),
                self.tokenize_key,
            )
            for item, survivors in zip(self.inputs, self.survivors, strict=True)
        ]
        count = counter(self.progress, "tokenize", 0, len(self.tokenize_tasks))
        sizes = [item.bytes for item in self.inputs]
        self.runs = map_files(shard.tokenize_part, self.tokenize_tasks, sizes, config.ray.workers, count)
        for counts in self.runs:
            self.ledger.add(Ledger.from_json(counts["ledger"]))

    def plan_shards(self) -> list[shard.Shard]:
        """The shards that the runs become."""
        return shard.plan_shards(
            self.runs,
            self.tokenize_tasks,
            self.config.shard.target_tokens,
            folder=self.folder,
            facts=self.work("shards", files.key_of(self.tokenize_key, self.config.shard.target_tokens)),
            tokenizer=self.tokenizer,
            end_of_document=self.config.tokenize.end_of_document,
            verify_documents=self.config.tokenize.verify_documents,
        )

    def write_shards(self, tasks: list[shard.Shard]) -> list[dict[str, Any]]:
        """Merge runs into shards; returns their lines of the manifest, paths below versions/."""
        facts = run_tasks(
            shard.write_shard, tasks, self.config.ray.workers, counter(self.progress, "shard", 0, len(tasks))
        )
        return [{**line, "path": f"{self.version}/{line['path']}", "version": self.version} for line in facts]

    def write_index(self) -> None:
        """Write the dedup index of the documents that this version adds."""
        self.index_paths = commit.add_index(
            self.config,
            self.parent,
            self.version,
            self.dedup_key,
            self.entries,
            self.documents_files(),
            self.dropped,
            self.progress,
        )

    def write_files(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Write the version's files besides shards and manifest; returns the manifest."""
        files.write_bytes(files.join(self.folder, "tokenizer.json"), files.read_bytes(self.tokenizer))
        tables = self._join_tables()
        manifest = {
            **commit.manifest(
                self.config,
                self.version,
                self.parent,
                self.tokenizer_facts,
                lines,
                self.index_paths,
                [item.noted() for item in self.inputs],
                self.ledger,
            ),
            "lines": [
                *(self.parent.raw["lines"] if self.parent else []),
                *([f"versions/{self.version}/lines.parquet"] if self.lines else []),
            ],
            "languages": self.languages,
            "contamination": self._contamination(tables["contamination"]),
            "redacted": self._redacted(),
        }
        report.write_report(
            manifest,
            report.Tables(
                {name: [tables[f"dropped/{name}"]] for name in ("quality", "duplicates", "edits")},
                [self.part("attributes", item, "parquet") for item in self.inputs],
                [tables["rejects"]],
                tables["contamination"],
                self.documents_files(),
                list(self.scores.values()),
            ),
            files.join(self.folder, "report.html"),
            quality.thresholds(self.kinds(), self.config.quality)
            | language.thresholds(self.config.language)
            | score.thresholds(self.config.score),
        )
        written = ("tokenizer.json", *(f"{name}.parquet" for name in tables), "report.html")
        manifest["files"] = {path: files.digest(files.join(self.folder, path)) for path in written}
        return manifest

    def _join_tables(self) -> dict[str, str]:
        """Write the version's tables from those of its parts; their URLs by name."""
        parts = {
            "rejects": [self.part("rejects", item, "parquet") for item in self.inputs],
            "dropped/quality": self.quality_dropped,
            "dropped/duplicates": self.dropped,
            "dropped/edits": [task.url("dropped") for task in self.tokenize_tasks],
            "contamination": [task.url("hits") for task in self.tokenize_tasks],
            "lines": self.lines,
        }
        tasks = [
            commit.Join(files.join(self.folder, f"{name}.parquet"), urls) for name, urls in parts.items()
        ]
        count = counter(self.progress, "tables", 0, len(tasks))
        urls = run_tasks(commit.join_tables, tasks, self.config.ray.workers, count)
        return dict(zip(parts, urls, strict=True))

    def _contamination(self, url: str) -> dict[str, dict[str, int]]:
        """By benchmark: items looked for, items found, and documents dropped or cut for them."""
        hits = files.read_parquet(url, ["benchmark", "item", "document_id", "removed"])
        found = {}
        for name, items in sorted(self.benchmark_items.items()):
            mine = hits.filter(pc.equal(hits["benchmark"], name))
            documents = mine.filter(mine["removed"])["document_id"]
            found[name] = {
                "items": items,
                "items_found": len(pc.unique(mine["item"])),
                "documents": len(pc.unique(documents)),
            }
        return found

    def _redacted(self) -> dict[str, dict[str, int]]:
        """Replaced spans of personal data by source and kind."""
        totals: dict[str, dict[str, int]] = {}
        for counts in self.runs:
            add_counts(totals, counts["redacted"])
        return {name: dict(sorted(kinds.items())) for name, kinds in sorted(totals.items())}

    def kinds(self) -> list[str]:
        """Every kind of text that the configuration names, in its order."""
        return list(
            dict.fromkeys(
                kind for source in self.config.sources for kind in (source.kind, *source.kinds.values())
            )
        )
