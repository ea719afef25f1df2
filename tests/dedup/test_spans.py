"""Repeated spans over several parts against a search of all windows."""

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from base import files
from dedup import catalog, index, spans
from dedup.config import MinHashConfig
from tests.helpers.duplicates import make_part

TOKENS = 8
CONFIG = MinHashConfig(bands=1, rows=1)


def repeated(texts):
    """For each text, which of its tokens lie in TOKENS tokens that begin earlier too."""
    seen, result = set(), []
    for text in texts:
        words = text.split(" ")
        words = [word for word in words if word]
        gone = [False] * len(words)
        for i in range(len(words) - TOKENS + 1):
            window = tuple(words[i : i + TOKENS])
            if window in seen:
                gone[i : i + TOKENS] = [True] * TOKENS
            seen.add(window)
        result.append([word for word, out in zip(words, gone, strict=True) if not out])
    return result


def find(folder, parts, dropped=(), group_rows=4):
    made = [make_part(folder, f"p{i}", texts, CONFIG) for i, texts in enumerate(parts)]
    documents = {name: url for _, where in made for name, url in where.items()}
    catalogue = catalog.open_catalog(
        [catalog.read_entries(url) for url, _ in made], documents, [], group_rows
    )
    table = pa.table(
        {
            "part": pa.array([f"p{part}" for part, _ in dropped], pa.string()),
            "row": pa.array([row for _, row in dropped], pa.uint32()),
        }
    )
    files.write_parquet(str(folder / "dropped"), table)
    gone = str(folder / "gone")
    index.write_gone(catalogue, [str(folder / "dropped")], gone)
    groups = range(catalogue.groups)
    runs = [str(folder / f"run{group}") for group in groups]
    for group in groups:
        spans.write_run(catalogue, group, [gone], 1, TOKENS, runs[group])
    pairs = [str(folder / f"pairs{prefix}") for prefix in range(2)]
    for prefix, url in enumerate(pairs):
        spans.pair(catalogue, runs, prefix, url)
    result = []
    for group in groups:
        spans.find(catalogue, pairs, group, TOKENS, str(folder / f"spans{group}"))
    for number, texts in enumerate(parts):
        url = str(folder / f"spans{catalogue.group[number]}")
        column = pa.array(texts, pa.large_string())
        cleaned, removed = spans.remove_spans(column, *spans.of_part(url, number))
        cleaned.validate(full=True)
        assert removed.tolist() == [
            len(a.encode()) - len(b.encode()) for a, b in zip(texts, cleaned.to_pylist(), strict=True)
        ]
        result.append(cleaned.to_pylist())
    return result


WORDS = st.lists(st.sampled_from(["a", "b", "é"]), max_size=40)
PIECE = st.sampled_from([" ".join(f"w{j}x{i}" for i in range(12)) for j in range(4)])
TEXT = st.lists(PIECE | WORDS.map(" ".join), max_size=4).flatmap(
    lambda pieces: st.sampled_from([" ", "  "]).map(lambda gap: gap.join(pieces))
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(TEXT, min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_removed_is_every_window_that_stands_earlier(tmp_path, monkeypatch, parts):
    monkeypatch.setattr(spans, "ALL_PAIRS", 10**6)
    folder = tmp_path / uuid.uuid4().hex
    Path(folder).mkdir()
    cleaned = find(folder, parts)
    expected = repeated([text for texts in parts for text in texts])
    assert [text.split() for texts in cleaned for text in texts] == expected


def test_the_limit_of_places_only_leaves_more_standing(tmp_path):
    text = " ".join(f"t{i}" for i in range(30))
    parts = [[f"own{i}-{part} {text} end{i}-{part}" for i in range(60)] for part in range(3)]
    cleaned = find(tmp_path, parts, group_rows=50)
    assert cleaned[0][0] == parts[0][0]
    rest = [text for texts in cleaned for text in texts][1:]
    assert all(len(one.split()) == 2 for one in rest)


def test_dropped_documents_do_not_count(tmp_path):
    text = " ".join(f"t{i}" for i in range(30))
    cleaned = find(tmp_path, [[text, "x " + text + " y"], [text, "z " + text]], dropped=[(0, 0), (1, 0)])
    assert cleaned == [[text, "x " + text + " y"], [text, "z "]]


def test_spans_of_texts_with_other_white_space(tmp_path):
    generator = np.random.default_rng(1)
    pieces = [" ".join(f"w{w}" for w in generator.integers(0, 99, 15)) for _ in range(6)]
    parts = [["\n ".join(generator.choice(pieces, 3)) for _ in range(6)] for _ in range(3)]
    cleaned = find(tmp_path, parts)
    expected = repeated([" ".join(text.split()) for texts in parts for text in texts])
    assert [text.split() for texts in cleaned for text in texts] == expected
