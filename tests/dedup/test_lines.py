"""Boilerplate lines: keys and removal against Python, and what is found over several parts."""

import collections
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base import files
from dedup import catalog, index, lines
from dedup.config import LinesConfig, MinHashConfig
from tests.helpers.duplicates import make_part

LINE = st.sampled_from(["ab", " ab\t", "cd", "é", "", " ", "Subscribe now", "x" * 300, "ab cd"])
TEXT = st.lists(LINE, max_size=8).flatmap(
    lambda parts: st.lists(st.sampled_from(["\n", "\n\n", "\n\n\n"]), min_size=8, max_size=8).map(
        lambda ends: "".join(part + end for part, end in zip(parts, ends, strict=False))
    )
) | st.lists(LINE, max_size=5).map("\n".join)
SPACE = "".join(map(chr, range(33)))


def pieces(text, config):
    """(content, with what follows it) of each line or paragraph."""
    pattern = r"(.*?)(\n|\Z)" if config.unit == "line" else r"(.*?)(\n{2,}|\Z)"
    return [m.groups() for m in re.finditer(pattern, text, re.DOTALL) if m.group()]


def held(text, config):
    stripped = (content.strip(SPACE) for content, _ in pieces(text, config))
    return {line for line in stripped if len(line.encode()) >= config.min_bytes}


def removed(text, gone, config):
    kept = [(a, b) for a, b in pieces(text, config) if a.strip(SPACE) not in gone]
    result = "".join(a + b for a, b in kept)
    if len(kept) < len(pieces(text, config)) and not text.endswith("\n"):
        result = result.rstrip("\n")
    return result


def config_of(unit, least, documents=2):
    return LinesConfig(min_documents=documents, unit=unit, min_bytes=least)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(TEXT, max_size=6),
    st.sets(LINE, max_size=3),
    st.sampled_from(["line", "paragraph"]),
    st.integers(1, 3),
)
def test_removal_is_that_of_python(texts, gone, unit, least):
    config = config_of(unit, least)
    gone = {line.strip(SPACE) for line in gone if len(line.strip(SPACE).encode()) >= least}
    column = pa.array(texts, pa.large_string())
    salt = lines.salts(pa.array(["web"] * len(texts), pa.string()))
    lists = pa.array(sorted(gone), pa.large_string())
    keys = np.sort(
        lines.document_keys(lists, lines.salts(pa.array(["web"] * len(lists), pa.string())), config)[1]
    )
    result, sizes = lines.remove_lines(column, salt, keys, config)
    result.validate(full=True)
    assert result.to_pylist() == [removed(text, gone, config) for text in texts]
    assert sizes.tolist() == [
        len(a.encode()) - len(b.encode()) for a, b in zip(texts, result.to_pylist(), strict=True)
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, max_size=6), st.sampled_from(["line", "paragraph"]), st.integers(1, 3))
def test_a_document_has_one_key_for_each_line_it_holds(texts, unit, least):
    config = config_of(unit, least)
    salt = lines.salts(pa.array(["web"] * len(texts), pa.string()))
    counts, keys = lines.document_keys(pa.array(texts, pa.large_string()), salt, config)
    assert counts.tolist() == [len(held(text, config)) for text in texts]
    assert len(np.unique(keys)) == len(set().union(*(held(text, config) for text in texts)))


@pytest.mark.parametrize("unit", ["line", "paragraph"])
def test_lines_of_several_parts_are_counted_by_source_without_dropped_documents(tmp_path, unit):
    config = config_of(unit, 2, documents=4)
    generator = np.random.default_rng(3)
    vocabulary = [f"line {i}" for i in range(20)]
    documents: dict[str, str] = {}
    urls, entries, everything = [], [], []
    for part in range(3):
        texts = ["\n".join(generator.choice(vocabulary, 6)) for _ in range(15)]
        sources = generator.choice(["web", "books"], 15).tolist()
        column = pa.array(sources, pa.string()).dictionary_encode()
        url, where = make_part(tmp_path, f"p{part}", texts, MinHashConfig(bands=1, rows=1), source=column)
        entries.append(catalog.read_entries(url))
        documents |= where
        everything += [(f"p{part}", row, s, t) for row, (s, t) in enumerate(zip(sources, texts, strict=True))]
    catalogue = catalog.open_catalog(entries, documents, [], 20)
    assert catalogue.groups > 1
    dropped = pa.table({"part": ["p1", "p2"], "row": pa.array([3, 7], pa.uint32())})
    files.write_parquet(str(tmp_path / "dropped"), dropped)
    index.write_gone(catalogue, [str(tmp_path / "dropped")], str(tmp_path / "gone"))
    for group in range(catalogue.groups):
        urls.append(str(tmp_path / f"run{group}"))
        lines.write_run(catalogue, group, [str(tmp_path / "gone")], 2, config, urls[-1])
    found = [str(tmp_path / f"found{prefix}") for prefix in range(4)]
    for prefix, url in enumerate(found):
        lines.find(catalogue, urls, prefix, config, url)
    keys = lines.read_keys(found)
    stay = [line for line in everything if (line[0], line[1]) not in {("p1", 3), ("p2", 7)}]
    count = collections.Counter((source, line) for _, _, source, text in stay for line in held(text, config))
    assert len(keys) == sum(number >= 4 for number in count.values())
    texts = pa.array([text for *_, text in stay], pa.large_string())
    salt = lines.salts(pa.array([source for _, _, source, _ in stay], pa.string()))
    expected = [
        removed(text, {line for (s, line), number in count.items() if s == source and number >= 4}, config)
        for _, _, source, text in stay
    ]
    assert lines.remove_lines(texts, salt, keys, config)[0].to_pylist() == expected
