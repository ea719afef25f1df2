"""The decision about a part: what stays with what deduplication needs, and what goes with its reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from base import files
from dedup import hashing
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.settings import ScoreConfig
from pipelines.corpus.stages.decide import DecidePart, decide_language, decide_part
from pipelines.corpus.stages.identical import number_identical
from pipelines.corpus.text.settings import LanguageConfig, QualityConfig
from pipelines.runtime.executor import InProcess

ROWS = [  # language, its score, perplexity, characters, source name, bytes
    ("en", 0.9, 5.0, 100, "web", 100),
    ("de", 0.9, 5.0, 100, "web", 110),
    ("en", 0.64, 5.0, 100, "web", 120),
    ("en", 0.65, 10.0, 100, "web", 130),
    ("en", 0.9, 10.5, 3, "web", 140),
    ("en", 0.9, 5.0, 3, "web", 150),
    ("de", 0.1, 99.0, 3, "web", 160),
    ("de", 0.1, 99.0, 3, "code", 170),
    ("en", 0.9, 5.0, 100, "web", 100),
]
REASONS = [
    (None, None),
    ("language.keep", 0.9),
    ("language.min_score", 0.64),
    (None, None),
    ("score.max_perplexity", 10.5),
    ("basic.min_characters", 3),
    ("language.keep", 0.1),
    (None, None),
    (None, None),
]


def decided(folder: Path, **changes: Any) -> tuple[dict[str, Any], pa.Table, pa.Table]:
    """The counts, entries and dropped documents of a part of ROWS; the last document is the first again."""
    languages, scores, perplexities, characters, names, sizes = zip(*ROWS, strict=True)
    count = len(ROWS)
    ids = [bytes([number % 8] * 16) for number in range(count)]
    measured = {name: np.ones(count, np.float32) for name in ("q_words", "q_tokens")}
    zero = [rule.column for rule in QualityConfig().rules_of("prose") if rule.limit == "max"]
    table = pa.table(
        {
            "document_id": pa.array(ids, pa.binary(16)),
            "record": pa.array(range(10, 10 + count), pa.int64()),
            "source": pa.array(names).dictionary_encode(),
            "bytes": pa.array(sizes, pa.int64()),
            "text_hash": pa.array(ids, pa.binary(16)),
            "bands": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2 * count, dtype=np.uint64)), 2),
            "shingles": pa.array(range(count), pa.int32()),
            "language": pa.array(languages).dictionary_encode(),
            "language_score": pa.array(scores, pa.float32()),
            "q_characters": pa.array(characters, pa.int64()),
            "n_control": pa.array([0] * count, pa.int64()),
            **{name: np.zeros(count, np.float32) for name in zero if name != "q_control_fraction"},
            **{name: 9 * column for name, column in measured.items()},
        }
    )
    files.write_parquet(str(folder / "attributes.parquet"), table)
    files.write_parquet(
        str(folder / "scores.parquet"), pa.table({"q_perplexity": pa.array(perplexities, pa.float32())})
    )
    [ordinals] = number_identical(
        [str(folder / "attributes.parquet")], [count], str(folder / "work"), InProcess()
    )
    kinds: dict[str, Any] = {"code": "code"}
    given: dict[str, Any] = {
        "source": SourceConfig(name="web", urls=["x"], priority=7, kinds=kinds, name_field="set"),
        "quality": QualityConfig(rule_sets={"code": []}),
        "language": LanguageConfig(keep={"prose": ["en"]}),
        "score": ScoreConfig(model="m", max_perplexity={"prose": 10.0}),
    } | changes
    task = DecidePart(
        part="part",
        attributes=str(folder / "attributes.parquet"),
        number=0,
        ordinals=ordinals,
        filters=[],
        scores=str(folder / "scores.parquet"),
        entries=str(folder / "entries.parquet"),
        dropped=str(folder / "dropped.parquet"),
        counts=str(folder / "counts.json"),
        **given,
    )
    counts = decide_part(task)
    assert decide_part(task) == counts
    return counts, files.read_parquet(task.entries), files.read_parquet(task.dropped)


def test_what_stays_and_what_goes_and_why(tmp_path: Path) -> None:
    counts, entries, dropped = decided(tmp_path)
    stay = [row for row, (reason, _) in enumerate(REASONS) if reason is None]
    gone = [row for row, (reason, _) in enumerate(REASONS) if reason is not None]
    assert entries["row"].to_pylist() == stay and dropped["row"].to_pylist() == gone
    assert dropped["reason"].to_pylist() == [REASONS[row][0] for row in gone]
    assert dropped["value"].to_pylist() == pytest.approx([REASONS[row][1] for row in gone])
    assert dropped["record"].to_pylist() == [10 + row for row in gone]
    assert dropped["bytes"].to_pylist() == [ROWS[row][-1] for row in gone]
    assert entries["length"].to_pylist() == [ROWS[row][-1] for row in stay]
    assert entries["source"].to_pylist() == [ROWS[row][4] for row in stay]
    assert set(entries["part"].to_pylist()) == {"part"} and set(entries["rank"].to_pylist()) == {7}
    assert entries["shingles"].to_pylist() == stay
    assert entries["bands"].to_pylist() == [[2 * row, 2 * row + 1] for row in stay]
    # The last is the first one again: its id is the next one.
    first, last = (hashing.id_words(entries["document_id"].slice(at, 1)) for at in (0, len(stay) - 1))
    assert (int(last[0][0]) << 64 | int(last[1][0])) == (int(first[0][0]) << 64 | int(first[1][0])) + 1
    assert entries["text_hash"][0] == entries["text_hash"][len(stay) - 1]


def test_a_decision_is_accounted_for(tmp_path: Path) -> None:
    counts, _, dropped = decided(tmp_path)
    assert counts["languages"] == {"code": {"de": 1}, "web": {"de": 2, "en": 6}}
    ledger = Ledger.from_json(counts["ledger"])
    ledger.check()
    for name in ("web", "code"):
        mine = [(row[-1], reason) for row, (reason, _) in zip(ROWS, REASONS, strict=True) if row[4] == name]
        stage = ledger.stage(name, "quality")
        assert (stage.documents_in, stage.bytes_in) == (len(mine), sum(size for size, _ in mine))
        kept = [size for size, reason in mine if reason is None]
        assert (stage.documents_out, stage.bytes_out) == (len(kept), sum(kept))
        assert {reason: entry["documents"] for reason, entry in stage.dropped.items()} == {
            reason: sum(one == reason for _, one in mine) for reason in {one for _, one in mine} - {None}
        }


def test_what_is_switched_off_drops_nothing(tmp_path: Path) -> None:
    off = {"quality": QualityConfig(enabled=False), "language": LanguageConfig(), "score": ScoreConfig()}
    _, entries, dropped = decided(tmp_path, **off)
    assert entries.num_rows == len(ROWS) and dropped.num_rows == 0


def test_a_language_is_kept_at_the_least_score() -> None:
    scores = np.array([0.65, np.nextafter(np.float32(0.65), np.float32(0)), 0.65], np.float32)
    table = pa.table({"language": pa.array(["en", "en", "fr"]).dictionary_encode(), "language_score": scores})
    config = LanguageConfig(keep={"prose": ["en", "de"]}, min_score=0.65)
    reasons, values = decide_language(table, "prose", config)
    assert reasons.to_pylist() == [None, "language.min_score", "language.keep"]
    assert values.tolist() == scores.astype(np.float64).tolist()
    assert decide_language(table, "code", config)[0].to_pylist() == [None] * 3
