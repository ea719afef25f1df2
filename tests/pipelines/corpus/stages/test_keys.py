"""Which stages run again when one field of the configuration changes, told from their keys alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from base.layout import Layout
from base.manifest import TokenizerFacts
from base.settings import Section
from dedup.catalog import Entries
from pipelines.config import BUILD_SECTIONS, Config, load
from pipelines.corpus.inputs import Input
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.stages.decide import Decide, Decided
from pipelines.corpus.stages.deduplicate import Deduplicate, Deduplicated
from pipelines.corpus.stages.identical import Numbered, NumberIdentical
from pipelines.corpus.stages.measure import Measure, Measured, PartCounts
from pipelines.corpus.stages.plan import Plan, select, tokenize, write_shards
from pipelines.corpus.stages.plan_edits import PlanEdits
from pipelines.corpus.stages.repeated import FindRepeated, Repeated
from pipelines.corpus.stages.score import Score, Scored
from pipelines.corpus.stages.shards import WriteShards
from pipelines.corpus.stages.tokenize import Tokenize, Tokenized
from pipelines.corpus.stages.vocabulary import ChooseVocabulary, Vocabulary
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent

AFTER_DECISION = {"dedup", "repeated", "edits", "tokenizer", "tokenize", "shards"}
FROM_DECISION = {"decide", *AFTER_DECISION}
ALL = {"measure books", "measure web", "ordinals", "scores", *FROM_DECISION}
ONE_SOURCE = ALL - {"measure web"}
EDITS = {"edits", "tokenizer", "tokenize", "shards"}
CHANGES: list[tuple[str, str, set[str]]] = [
    ("sources.0.name", "novels", ONE_SOURCE),
    ("sources.0.urls", "[/data/other/*]", set()),
    ("sources.0.format", "text", ONE_SOURCE),
    ("sources.0.text_field", "content", ONE_SOURCE),
    ("sources.0.name_field", "meta.name", ONE_SOURCE),
    ("sources.0.csv_quotes", "false", ONE_SOURCE),
    ("sources.0.kind", "code", FROM_DECISION),
    ("sources.0.kinds", "{novels: code}", FROM_DECISION),
    ("sources.0.priority", "7", FROM_DECISION),
    ("sources.0.max_loss", "0.5", set()),
    ("ingest.batch_bytes", "1000000", ALL),
    ("ingest.max_document_bytes", "5000", ALL),
    ("ingest.split_bytes", "5000", ALL),
    ("ingest.invalid_utf8", "cp1252", ALL),
    ("ingest.on_damaged_file", "stop", ALL),
    ("language.enabled", "false", ALL),
    ("language.max_characters", "10", ALL),
    ("language.keep", "{prose: [en]}", FROM_DECISION),
    ("language.min_score", "0.7", FROM_DECISION),
    ("score.fasttext", "{folder}/other.bin", {"scores", *FROM_DECISION}),
    ("score.fasttext_label", "__label__x", {"scores", *FROM_DECISION}),
    ("score.max_characters", "10", {"scores", *FROM_DECISION}),
    ("score.min_fasttext", "{prose: 0.5}", FROM_DECISION),
    ("score.pareto_alpha", "{prose: 3.0}", FROM_DECISION),
    ("quality.enabled", "false", FROM_DECISION),
    ("quality.rule_sets", "{prose: [c4]}", FROM_DECISION),
    ("quality.basic.min_words", "9", FROM_DECISION),
    ("quality.gopher_quality.min_words", "9", FROM_DECISION),
    ("quality.gopher_repetition.max_duplicate_line_fraction", "0.9", FROM_DECISION),
    ("quality.c4.min_sentences", "9", FROM_DECISION),
    ("quality.fineweb.max_short_line_fraction", "0.9", FROM_DECISION),
    ("dedup.minhash.shingle", "character", ALL),
    ("dedup.minhash.ngram", "7", ALL),
    ("dedup.minhash.bands", "7", ALL),
    ("dedup.minhash.rows", "7", ALL),
    ("dedup.minhash.seed", "7", ALL),
    ("dedup.exact", "false", AFTER_DECISION),
    ("dedup.fuzzy", "false", AFTER_DECISION),
    ("dedup.threshold", "0.9", AFTER_DECISION),
    ("dedup.similarity", "containment", AFTER_DECISION),
    ("dedup.partitions", "2", AFTER_DECISION),
    ("dedup.lines.min_documents", "9", {"repeated", *EDITS}),
    ("dedup.lines.unit", "paragraph", {"repeated", *EDITS}),
    ("dedup.lines.min_bytes", "9", {"repeated", *EDITS}),
    ("dedup.span_tokens", "80", {"repeated", *EDITS}),
    ("decontaminate.benchmarks", "[{name: quiz, urls: [{folder}/other.txt]}]", EDITS),
    ("decontaminate.ngram", "9", EDITS),
    ("decontaminate.min_words", "9", EDITS),
    ("decontaminate.max_items", "9", EDITS),
    ("decontaminate.action", "span", EDITS),
    ("decontaminate.min_ngrams", "9", EDITS),
    ("decontaminate.min_share", "0.9", EDITS),
    ("redact.email", "null", EDITS),
    ("redact.ipv4", "null", EDITS),
    ("redact.ipv6", "null", EDITS),
    ("redact.phone", "null", EDITS),
    ("redact.secret", "null", EDITS),
    ("tokenize.vocab_size", "300", {"tokenizer", "tokenize", "shards"}),
    ("tokenize.train_bytes", "5000", {"tokenizer", "tokenize", "shards"}),
    ("tokenize.end_of_document", "<end>", {"tokenizer", "tokenize", "shards"}),
    ("tokenize.special_tokens", "tokens", {"tokenizer", "tokenize", "shards"}),
    ("tokenize.verify_documents", "9", set()),
    ("shard.target_tokens", "5000", {"shards"}),
    ("shard.seed", "7", {"tokenize", "shards"}),
    ("shard.heldout_fraction", "0.5", {"tokenize", "shards"}),
    ("mixture", "{books: 1.0}", set()),
    ("mixture_epochs", "{books: 1.0}", set()),
    ("corpus.keep_rejects", "9", ALL),
    ("corpus.reject_sample_characters", "9", ALL),
    ("plugins.filters", "[{plugins}:short]", ALL),
    ("plugins.edits", "[{plugins}:lower]", EDITS),
]
"""(field, its new value, the stages that run again)."""
ELSEWHERE = {"score.model", "score.max_perplexity", "tokenize.tokenizer", "dedup.preset"}
"""Fields that need a model or a file (tests/…/test_score.py, test_edit.py), or set others."""


def short(texts: Any) -> Any:
    """A filter that drops nothing."""


short.name, short.version = "short", 1  # type: ignore[attr-defined]


def lower(texts: Any) -> Any:
    """An edit that is never run here."""


lower.name, lower.version = "lower", 1  # type: ignore[attr-defined]


class Promises:
    """Gives results with the keys of stages, without running them, and keeps the keys."""

    claim = None

    def __init__(self) -> None:
        self.keys: dict[str, str | None] = {}

    def __call__(self, stage: Any) -> Any:
        if isinstance(stage, Measure):
            self.keys |= {f"measure {name}": key for name, key in stage.keys.items()}
            counts = tuple(
                PartCounts(part=item.part, documents=0, bytes=0, ledger={}) for item in stage.inputs
            )
            ledger = Ledger()
            for item in stage.inputs:
                ledger.stage(item.source, "read")
            return Measured(
                layout=stage.layout,
                inputs=stage.inputs,
                keys=stage.keys,
                counts=counts,
                ledger=ledger,
                read={},
            )
        key = self.keys[stage.name] = stage.key
        if isinstance(stage, Score):
            self.keys[stage.name] = f"{key} {stage.measured.key}"
            return Scored(key=key, tables={})
        results = {
            NumberIdentical: lambda: Numbered(key=key, ordinals=[]),
            Decide: lambda: Decided(
                key=key,
                entries=2 * [Entries("", "", 0)],
                dropped=[],
                ledger=Ledger(),
                languages={},
                unjudged={},
            ),
            Deduplicate: lambda: Deduplicated(key=key, dropped=[], dropped_of={}, ledger=Ledger()),
            ChooseVocabulary: lambda: Vocabulary(url="tokenizer.json", facts=_facts(key)),
            Tokenize: lambda: Tokenized(key=key, tasks=(), counts=(), ledger=Ledger()),
            WriteShards: lambda: [],
        }
        if isinstance(stage, PlanEdits):  # reads no documents
            return stage.run(InProcess(), silent)
        if isinstance(stage, FindRepeated):
            return Repeated(key=key if stage.is_on else None, spans={}, lines=[])
        return results[type(stage)]()


def _facts(key: str) -> TokenizerFacts:
    return TokenizerFacts(
        file="tokenizer.json",
        sha256=key,
        vocab_size=300,
        end_of_document="</s>",
        end_of_document_id=0,
        dtype="uint16",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "quiz.txt").write_text("how many words has a question that somebody asks of a model")
    (tmp_path / "other.txt").write_text("how few words has an answer that a model gives to somebody")
    (tmp_path / "model.bin").write_bytes(b"one")
    (tmp_path / "other.bin").write_bytes(b"two")
    (tmp_path / "config.yaml").write_text(
        json.dumps(
            {
                "name": "keys",
                "storage": str(tmp_path / "storage"),
                "sources": [
                    {"name": "books", "urls": ["/data/books/*"]},
                    {"name": "web", "urls": ["/data/web/*"]},
                ],
                "score": {"fasttext": str(tmp_path / "model.bin")},
                "dedup": {"lines": {"min_documents": 3}},
                "decontaminate": {"benchmarks": [{"name": "quiz", "urls": [str(tmp_path / "quiz.txt")]}]},
            }
        )
    )
    return tmp_path


def keys_of(folder: Path, *overrides: str) -> dict[str, str | None]:
    config = load(str(folder / "config.yaml"), list(overrides))
    inputs = [
        Input(
            source=source.name,
            file=f"/data/{source.name}/0",
            start=0,
            bytes=9,
            digest="0",
            part=source.name,
        )
        for source in config.sources
    ]
    plan = Plan(config=config, layout=Layout(config.storage), inputs=tuple(inputs), parent=None)
    run: Any = Promises()
    selected = select(plan, run)
    vocabulary, tokenized = tokenize(plan, selected, run)
    write_shards(plan, vocabulary, tokenized, run, folder=plan.layout.version("v0001"))
    found: dict[str, str | None] = run.keys
    return found


@pytest.mark.parametrize(("field", "value", "again"), CHANGES, ids=[change[0] for change in CHANGES])
def test_a_changed_field_runs_these_stages_again(
    field: str, value: str, again: set[str], folder: Path
) -> None:
    before = keys_of(folder)
    assert before.keys() == ALL
    value = value.replace("{folder}", str(folder)).replace("{plugins}", __name__)
    after = keys_of(folder, f"{field}={value}")
    if field == "sources.0.name":
        after["measure books"] = after.pop(f"measure {value}")
    assert {name for name in before if before[name] != after[name]} == again


def _fields(section: type[Section], path: str) -> Iterator[str]:
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _fields(kind, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def test_no_field_that_decides_what_a_corpus_holds_is_left_out() -> None:
    fields = {field for field in _fields(Config, "") if field.split(".")[0] in BUILD_SECTIONS}
    fields |= set(_fields(SourceConfig, "sources.0."))
    tried = {field for field, *_ in CHANGES} | ELSEWHERE | {"sources"}
    # Thresholds of a rule set go into one key together: one of each is tried.
    tried |= {field for field in fields if field.startswith("quality.") and field.count(".") == 2}
    assert fields - tried == set()


def test_a_plugin_of_another_version_runs_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    override = f"plugins.filters=[{__name__}:short]"
    before = keys_of(folder, override)
    monkeypatch.setattr(short, "version", 2)
    after = keys_of(folder, override)
    assert {name for name in before if before[name] != after[name]} == ALL


def test_code_of_another_version_runs_again_with_what_follows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys_of(folder)
    stages = ((Measure, ALL), (Decide, FROM_DECISION), (Deduplicate, AFTER_DECISION), (PlanEdits, EDITS))
    for stage, again in stages:
        with monkeypatch.context() as patch:
            patch.setattr(stage, "version", 99)
            after = keys_of(folder)
        assert {name for name in before if before[name] != after[name]} == again
