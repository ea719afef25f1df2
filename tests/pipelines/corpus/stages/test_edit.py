"""Edits of the texts that stay: in the ledger to the byte, in the shards, and the same however it is run."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from base import files, manifest
from base.errors import UserError
from dedup import lines
from dedup.config import LinesConfig
from pipelines.config import Config
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.stages.edit import Edits, account, edit, spans_of
from pipelines.corpus.text.decontaminate import load_benchmarks, write_benchmarks
from pipelines.corpus.text.settings import BenchmarkConfig, DecontaminateConfig, RedactConfig
from pipelines.corpus.text.tokenizer import Tokenizer as Tokenizing
from pipelines.corpus.versions import commands
from pipelines.corpus.views import explain
from tests.helpers.builds import refresh, run

BOILERPLATE = "Subscribe to our newsletter today!"
QUESTION = (
    "Mona has seven red boxes and twelve blue ones, how many boxes has Mona got in all when she gives one"
)
WORDS = [
    "the",
    "house",
    "of",
    "many",
    "rivers",
    "and",
    "they",
    "have",
    "been",
    "there",
    "with",
    "that",
    "tree",
]
LINES = LinesConfig(min_documents=2)


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Edits:
    folder = tmp_path_factory.mktemp("edits")
    (folder / "quiz.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    benchmark = BenchmarkConfig(name="quiz", urls=[str(folder / "quiz.jsonl")])
    config = DecontaminateConfig(benchmarks=[benchmark])
    write_benchmarks(load_benchmarks(config), str(folder / "benchmarks.parquet"))
    _, keys = lines.document_keys(pa.array([BOILERPLATE]), lines.salts(pa.array(["web"])), LINES)
    files.write_parquet(str(folder / "lines.parquet"), pa.table({"key": keys}))
    return Edits(
        remove_spans=True,
        lines=LINES,
        line_keys=(str(folder / "lines.parquet"),),
        decontaminate=config,
        benchmarks=str(folder / "benchmarks.parquet"),
        redact=RedactConfig(),
    )


PIECES = st.sampled_from([BOILERPLATE, QUESTION, "mail me@some-host.net", "A line.", "", "Zwölf Zeilen"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(PIECES, min_size=1, max_size=5), st.booleans()), max_size=8), st.randoms())
def test_every_byte_is_accounted_for(
    edits: Edits, documents: list[tuple[list[str], bool]], choose: random.Random
) -> None:
    texts = ["\n".join(pieces) or "x" for pieces, _ in documents]
    names = ["web" if web else "books" for _, web in documents]
    spans = [(row, 0, choose.randrange(1, 3)) for row, text in enumerate(texts) if choose.random() < 0.3]
    rows, starts, ends = (np.array([span[k] for span in spans], np.int64) for k in range(3))
    ends = np.minimum(ends, [len(texts[row].encode()) for row in rows])
    given_ = pa.array(texts, pa.large_string())
    result = edit(given_, pa.array(names, pa.string()), (rows, starts, ends), edits)
    entries = {"row": pa.array(range(len(texts)), pa.uint32()), "source": pa.array(names, pa.string())}
    entries["length"] = pc.binary_length(given_)
    ledger = account(
        pa.table(entries), pa.concat_tables(result.dropped), pa.concat_tables(result.changes), edits
    )
    ledger.check()
    kept = result.texts.filter(pa.array(result.alive)).to_pylist()
    assert all(kept)
    assert not any(QUESTION in text or "me@some-host.net" in text for text in kept)
    for name, stages in ledger.sources.items():
        before = [len(text.encode()) for text, source in zip(texts, names, strict=True) if source == name]
        left = [
            len(text.encode())
            for text, source, alive in zip(result.texts.to_pylist(), names, result.alive, strict=True)
            if source == name and alive
        ]
        took_part = [stage for stage in stages.values() if stage.documents_in]
        assert (took_part[0].documents_in, took_part[0].bytes_in) == (len(before), sum(before))
        assert (took_part[-1].documents_out, took_part[-1].bytes_out) == (len(left), sum(left))
    assert sum(table.num_rows for table in result.dropped) == (~result.alive).sum()


def test_spans_are_found_by_row(tmp_path: Path) -> None:
    refs = np.array([2 << 32 | 3, 2 << 32 | 3, 2 << 32 | 9, 3 << 32 | 1], np.uint64)
    table = {
        "ref": refs,
        "start": np.array([0, 9, 4, 1], np.uint32),
        "end": np.array([5, 12, 8, 2], np.uint32),
    }
    files.write_parquet(str(tmp_path / "spans"), pa.table(table))
    found = spans_of((str(tmp_path / "spans"), 2), np.array([1, 3, 7]))
    assert found is not None
    assert [column.tolist() for column in found] == [[1, 1], [0, 9], [5, 12]]
    assert spans_of(None, np.array([1])) is None


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def article(seed: int) -> str:
    choose = random.Random(seed)
    return " ".join(choose.choices(WORDS, k=60)) + f" {seed}."


def corpus(folder: Path, copy: int = 1, **changes: Any) -> Config:
    return Config.model_validate(
        {
            "name": "edits",
            "storage": str(folder / f"storage-{copy}"),
            "sources": [{"name": "web", "urls": [str(folder / "raw" / "*.jsonl")], "max_loss": 1.0}],
            "dedup": {"lines": {"min_documents": 5}, "span_tokens": 40},
            "language": {"keep": {"prose": ["en"]}, "min_score": 0.3},
            "decontaminate": {"benchmarks": [{"name": "quiz", "urls": [str(folder / "quiz.jsonl")]}]},
            "tokenize": {"vocab_size": 320, "train_bytes": 20000},
            "shard": {"target_tokens": 2048, "heldout_fraction": 0.1},
        }
        | changes
    )


def build(settings: Config) -> manifest.Version:
    return run(settings).version


def texts_of(version: manifest.Version) -> list[str]:
    """The texts of the shards that the version added, decoded."""
    tokenizer = Tokenizer.from_file(f"{version.url}/tokenizer.json")
    found = []
    for shard in sorted(Path(version.url).glob("shards/*/*.arrow")):
        table = pa.ipc.open_file(shard).read_all()
        found += [tokenizer.decode(row) for row in table["input_ids"].to_pylist()]
    return found


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    repeated = article(1)
    first = [f"{article(n)}\n{BOILERPLATE}\nWrite to writer{n}@mail-host.net." for n in range(100, 140)]
    second = [f"{article(n)}\n{repeated}\n{article(n + 500)}" for n in range(200, 203)]
    german = "Der alte Mann und die Frau gingen mit dem Hund durch den Wald, weil es so warm war. " * 3
    write(tmp_path / "raw" / "0.jsonl", first)
    write(tmp_path / "raw" / "1.jsonl", [*second, f"{article(7)} {QUESTION} {article(8)}", german])
    write(tmp_path / "quiz.jsonl", [])
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    return tmp_path


@pytest.mark.parametrize("became", ["text", "tokens"])
def test_special_tokens_that_texts_spell_are_counted(raw: Path, became: str) -> None:
    texts = [
        f"{article(7)} {QUESTION} {article(8)}",  # it is dropped, and the others keep their rows
        f"{article(1)} <|endoftext|> {article(2)}",
        f"<|endoftext|>{article(3)}<|endoftext|>",
        article(4),
    ]
    write(raw / "raw" / "0.jsonl", texts)
    version = build(corpus(raw, tokenize={"vocab_size": 320, "train_bytes": 20000, "special_tokens": became}))
    assert version.manifest.to_json()["special_tokens"] == {"web": {"<|endoftext|>": 3}}
    tables = [
        files.read_parquet(str(path)) for path in raw.glob("storage-1/corpus/work/tokens/*/*/*.changes")
    ]
    changes = [row for table in tables for row in table.to_pylist() if row["stage"] == "special_tokens"]
    assert [(row["row"], row["reason"], row["pieces"]) for row in changes] == [
        (1, "<|endoftext|>", 1),
        (2, "<|endoftext|>", 2),
    ]
    assert f"In the shards they are {became}" in Path(f"{version.url}/report.html").read_text()
    table = pa.concat_tables(
        pa.ipc.open_file(shard).read_all() for shard in Path(version.url).glob("shards/*/*.arrow")
    )
    ends = sum(
        row.count(version.manifest.tokenizer.end_of_document_id) for row in table["input_ids"].to_pylist()
    )
    assert ends == len(table) + (3 if became == "tokens" else 0)


def test_a_build_with_every_edit(raw: Path) -> None:
    version = build(corpus(raw))
    content = version.manifest.to_json()
    ledger = Ledger.from_json(content["ledger"])
    ledger.check()
    web = ledger.sources["web"]
    assert {reason: entry["documents"] for reason, entry in web["quality"].dropped.items()} == {
        "language.keep": 1
    }
    # The repeated article stays where it stands first.
    repeated = len(article(1).encode()) - article(1).count(" ")
    assert web["spans"].bytes_delta["repeated_span"] <= -2 * repeated
    assert web["lines"].bytes_delta == {"repeated_line": -40 * len(BOILERPLATE + "\n")}
    assert web["decontaminate"].dropped["contaminated"]["documents"] == 1
    assert content["contamination"] == {"quiz": {"items": 1, "items_found": 1, "documents": 1}}
    assert content["redacted"] == {"web": {"email": 40}}
    assert content["languages"]["web"]["de"] == 1
    texts = texts_of(version)
    assert len(texts) == 43 == web["tokenize"].documents_out
    assert sum(len(text.encode()) for text in texts) == web["tokenize"].bytes_out
    together = "\n".join(texts)
    assert BOILERPLATE not in together
    assert "mail-host" not in together
    assert QUESTION not in together
    assert together.count(article(1)) == 1
    (gone,) = pq.read_table(f"{version.url}/dropped/edits.parquet").to_pylist()
    assert (gone["stage"], gone["reason"], gone["record"]) == ("decontaminate", "contaminated", 3)
    (hit,) = pq.read_table(f"{version.url}/contamination.parquet").to_pylist()
    assert hit["document_id"] == gone["document_id"]
    told = "\n".join(explain.explain(version, hit["document_id"].hex()))
    assert "stage edits: contaminated, measured" in told
    assert "n-grams of quiz, item 0 (question), at bytes" in told
    report = Path(version.url, "report.html").read_text()
    assert "mail-host" not in report
    assert build(corpus(raw, copy=2)).hash == version.hash


def test_a_refresh_removes_the_lines_that_its_parent_found(raw: Path) -> None:
    settings = corpus(raw)
    build(settings)
    write(raw / "raw" / "2.jsonl", [f"{article(900)}\n{BOILERPLATE}\nThe end."])
    version = refresh(settings).version
    (text,) = texts_of(version)
    assert text == f"{article(900)}\nThe end."


def test_a_changed_threshold_takes_the_tokens_that_are_there(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(corpus(raw, dedup={}))
    tokenizer = {"tokenizer": f"{first.url}/tokenizer.json", "verify_documents": 0}
    other = build(corpus(raw, dedup={}, tokenize=tokenizer))
    strict = corpus(raw, dedup={}, tokenize=tokenizer, quality={"basic": {"min_words": 100}})
    inputs = commands.inputs_of(strict)
    shutil.rmtree(raw / "raw")
    encoded: list[int] = []
    encode = Tokenizing.encode

    def spy(self: Tokenizing, texts: pa.LargeStringArray) -> pa.LargeListArray:
        encoded.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(Tokenizing, "encode", spy)
    version = run(strict, inputs=inputs).version
    assert sum(encoded) == 0
    kept = [text for text in texts_of(other) if len(text.split()) >= 100]
    assert texts_of(version) == kept
    assert 0 < len(kept) < len(texts_of(other))


def test_a_changed_setting_reads_no_source_again(raw: Path) -> None:
    settings = corpus(raw)
    build(settings)
    documents = {path: path.stat() for path in raw.glob("storage-1/corpus/documents/*/*")}
    inputs = commands.inputs_of(settings)
    shutil.rmtree(raw / "raw")
    changed = corpus(raw, language={"keep": {}}, redact={"email": "<EMAIL>"})
    version = run(changed, inputs=inputs).version
    assert version.name == "v0002"
    assert sum("<EMAIL>" in text for text in texts_of(version)) == 40
    assert {path: path.stat() for path in raw.glob("storage-1/corpus/documents/*/*")} == documents


def test_an_unknown_language_is_named(raw: Path) -> None:
    with pytest.raises(UserError, match=r"language.keep.prose = 'klingon': allowed are .*\ben\b"):
        commands.inputs_of(corpus(raw, language={"keep": {"prose": ["klingon"]}}))
