"""Queries of the report's sections, one by one, over tables and ledgers of a few rows."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from base import files
from base.manifest import SourceTotals
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.report import bysource, excerpts, parquet
from pipelines.corpus.report.numbers import percentage, short_bytes, short_count
from pipelines.corpus.text.settings import RedactConfig
from tests.helpers.late import RUNNING
from tests.helpers.values import known

if RUNNING:
    from pipelines.corpus.report.sections import (
        clusters,
        contamination,
        drops,
        examples,
        languages,
        measurements,
        redaction,
        sources,
    )


@pytest.fixture
def two_sources(monkeypatch):
    """Tables show two sources and sum the others."""
    monkeypatch.setattr(bysource, "MAX_SOURCES", 2)


def ledger_of(sizes):
    """A ledger of sources that read so many bytes in as many documents, and dropped one for quality."""
    ledger = Ledger()
    for name, size in sizes.items():
        read, quality = ledger.stage(name, "read"), ledger.stage(name, "quality")
        read.documents_in = read.bytes_in = read.documents_out = read.bytes_out = size
        quality.documents_in = quality.bytes_in = size
        quality.drop("too_short", 1, 1)
        quality.change("whitespace", -2)
        quality.documents_out = quality.bytes_out = size - 1
    return ledger


def no_documents():
    return excerpts.Documents(urls={}, origins={}, redaction=RedactConfig())


def test_numbers_are_short():
    shown = [short_count(value) for value in (0, 999, 1234, 12_345, 2_000_000)]
    assert shown == ["0", "999", "1.23 k", "12.3 k", "2 M"]
    assert short_bytes(1_500_000) == "1.50 MB"
    assert percentage(1, 4) == 25.0
    assert percentage(1, 0) == 0.0


def test_rows_by_source_begin_with_the_largest_and_end_with_the_others(two_sources):
    ledger = ledger_of({"a": 5, "b": 9, "c": 7, "d": 7})
    names = bysource.by_size(ledger)
    assert names == ["b", "c", "d", "a"]
    assert bysource.rows(names) == {"b": ["b"], "c": ["c"], "and 2 more": ["d", "a"]}
    assert bysource.rows(["b"]) == {"b": ["b"]}
    assert bysource.summed(ledger, ["d", "a"])["read"].bytes_in == 12


def test_the_largest_counts_stand_by_name_before_the_others(two_sources):
    counts = {"a": {"x": 1}, "b": {"x": 1, "y": 5}, "c": {"y": 4}, "d": {"x": 2}}
    assert bysource.largest(counts) == {
        "b": {"x": 1, "y": 5},
        "c": {"y": 4},
        "and 2 more": {"x": 3},
    }
    assert list(bysource.largest(counts)) == ["b", "c", "and 2 more"]


def test_what_was_dropped_is_summed_over_all_sources_and_over_the_others(two_sources):
    unjudged = {"a": {"gopher_quality.min_stop_words": 2}, "b": {"gopher_quality.min_stop_words": 3}}
    section = drops.section(ledger_of({"a": 5, "b": 9, "c": 7, "d": 5}), unjudged)
    assert section.unjudged == {"gopher_quality.min_stop_words": 5}
    (all_sources,) = section.reasons
    assert (all_sources.source, all_sources.documents) == ("all sources", 4)
    assert all_sources.share == pytest.approx(100 * 4 / 26)
    assert [(row.source, row.documents) for row in section.by_source] == [
        ("b", 1),
        ("c", 1),
        ("and 2 more", 2),
    ]
    assert [(row.source, row.bytes) for row in section.changes] == [
        ("b", -2),
        ("c", -2),
        ("and 2 more", -4),
    ]


def test_every_reason_gets_a_group_before_one_gets_two(monkeypatch):
    monkeypatch.setattr(examples, "MAX_GROUPS", 3)
    found: dict[examples.Key, list[Any]] = {
        examples.Key("quality", "a", "short"): [],
        examples.Key("quality", "b", "short"): [],
        examples.Key("quality", "c", "short"): [],
        examples.Key("read", "a", "broken"): [],
    }
    assert list(examples.some_of_each(found)) == [
        ("read", "a", "broken"),
        ("quality", "a", "short"),
        ("quality", "b", "short"),
    ]


def test_examples_say_where_a_document_is_whose_text_is_not_at_hand(tmp_path):
    url = files.join(str(tmp_path), "quality.parquet")
    dropped = {"part": ["p"], "row": [4], "source": ["a"], "reason": ["too_short"], "value": [0.123456]}
    files.write_parquet(url, pa.table(dropped))
    (group,) = examples.section(ledger_of({"a": 5}), [], {"quality": [url]}, no_documents())
    (example,) = group.examples
    assert (group.stage, group.source, group.reason) == ("quality rules", "a", "too_short")
    assert (example.place, example.detail, example.text) == ("p, document 4", "measured 0.1235", "")


def test_an_item_is_where_most_of_it_is_and_its_documents_count_once():
    rows = [
        ("quiz", 9, "a", "p", 3, 1, 10, False),
        ("quiz", 7, "a", "p", 5, 2, 10, False),
        ("quiz", 7, "b", "q", 6, 9, 10, True),
        ("quiz", 7, "a", "p", 5, 1, 10, False),
        ("exam", 9, "a", "p", 3, 10, 10, True),
    ]
    names = ["benchmark", "item", "source", "part", "row", "ngrams", "passage_ngrams", "removed"]
    hits = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    found = contamination.by_item(hits).select(
        ["benchmark", "item", "documents", "share_first", "part_first", "row_first", "removed_any"]
    )
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        ("exam", 9, 1, 100.0, "p", 3, True),
        ("quiz", 7, 2, 90.0, "q", 6, True),
        ("quiz", 9, 1, 10.0, "p", 3, False),
    ]


def test_without_benchmarks_or_hits_there_is_no_contamination():
    assert contamination.section({}, "nowhere.parquet", no_documents()) is None
    assert contamination.section({"quiz": {}}, None, no_documents()) is None


def test_languages_are_ranked_over_all_sources():
    section = known(languages.section({"a": {"en": 3, "de": 1}, "b": {"de": 4}}))
    assert [(row.language, row.documents, row.share) for row in section.rows] == [
        ("de", 5, 62.5),
        ("en", 3, 37.5),
    ]
    assert [row.language for row in section.sources["a"]] == ["en", "de"]
    assert section.count == 2
    assert languages.section({"a": {}}) is None


def test_only_kinds_of_personal_data_that_were_found_are_shown():
    section = known(redaction.section({"b": {"phone": 2}, "a": {"email": 3, "phone": 1}}))
    assert section.kinds == ["email", "phone"]
    assert section.rows == {"a": [3, 1], "b": [0, 2]}
    assert redaction.section({}) is None


def test_the_mixture_is_by_weight_or_by_tokens(two_sources):
    def totals(tokens, weight):
        return SourceTotals(weight=weight, documents=1, tokens=tokens, text_bytes=4 * tokens)

    by_tokens = sources.section({"a": totals(1, None), "b": totals(6, None), "c": totals(3, None)})
    assert not by_tokens.weighted
    assert by_tokens.picture is None
    assert [(row.source, row.weight) for row in by_tokens.rows] == [
        ("b", 60.0),
        ("c", 30.0),
        ("and 1 more", 10.0),
    ]
    weighted = sources.section({"a": totals(0, 0.25), "b": totals(6, 0.75)})
    assert weighted.picture is not None and weighted.picture.startswith("<svg")
    assert [(row.share, row.weight, row.bytes_per_token) for row in weighted.rows] == [
        (100.0, 75.0, 4.0),
        (0.0, 25.0, None),
    ]


def test_measured_columns_are_numbers_that_are_finite():
    sample = pa.table(
        {
            "bytes": [1, 2],
            "q_words": [3.0, np.inf],
            "q_nothing": pa.array([None, None], pa.float64()),
            "q_name": ["a", "b"],
            "language_score": pa.array([None, 0.5], pa.float32()),
        }
    )
    columns = measurements.measured(sample)
    assert {name: values.tolist() for name, values in columns.items()} == {
        "q_words": [3.0],
        "language_score": [0.5],
    }
    assert measurements.section(sample.select(["bytes"]), {}) is None
    assert measurements.section(None, {}) is None


def test_keys_of_clusters_are_their_numbers_or_last_eight_bytes():
    assert clusters.cluster_keys(pa.array([5, 7])).tolist() == [5, 7]
    ids = pa.array([b"x" * 8 + bytes([number]) + bytes(7) for number in range(3)], pa.binary(16))
    assert clusters.cluster_keys(ids.slice(1)).tolist() == [1, 2]


def test_a_sample_takes_rows_at_even_distances_across_files(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "SAMPLE_ROWS", 4)
    urls = [files.join(str(tmp_path), f"{number}.parquet") for number in range(2)]
    for url, values in zip(urls, (range(5), range(5, 12)), strict=True):
        files.write_parquet(url, pa.table({"bytes": list(values)}), row_group_size=2)
    assert known(parquet.even_sample(urls))["bytes"].to_pylist() == [0, 3, 6, 9]
    assert parquet.even_sample([]) is None
