"""Runs, candidate pairs, verification, components and the decision, each against an obvious reference."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base import files
from base.errors import UserError
from dedup import candidates, catalog, components, minhash, runs, verify
from dedup.config import DedupConfig, MinHashConfig
from tests.helpers.duplicates import make_part


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=30), min_size=1, max_size=3))
def test_a_partition_is_read_from_all_runs_in_order(partitions):
    urls = [f"memory://runs/{i}.parquet" for i in range(len(partitions))]
    for number, (url, run) in enumerate(zip(urls, partitions, strict=True)):
        values = np.arange(len(run), dtype=np.int64) + 100 * number
        runs.write_run(url, [(pa.table({"value": values}), np.array(run, np.int64))])
    for partition in range(6):
        expected = [
            100 * number + i
            for number, run in enumerate(partitions)
            for i, p in enumerate(run)
            if p == partition
        ]
        assert runs.read_partitions(urls, [partition])["value"].to_pylist() == expected


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 60), max_size=80).map(sorted),
    st.sets(st.integers(0, 70), max_size=30).map(sorted),
    st.integers(1, 20),
)
def test_matching_rows_are_all_rows_with_a_wanted_value(there, wanted, row_group):
    url = "memory://matching/sorted.parquet"
    table = pa.table({"value": np.array(there, np.uint64), "other": np.arange(len(there))})
    runs.write_sorted(url, table, row_group)
    result = runs.read_matching(url, table.schema, np.array(wanted, np.uint64))
    expected = [(value, i) for i, value in enumerate(there) if value in wanted]
    assert list(zip(result["value"].to_pylist(), result["other"].to_pylist(), strict=True)) == expected


def test_candidates_are_the_pairs_that_agree_in_a_band(tmp_path):
    config = MinHashConfig(ngram=1, bands=6, rows=1)
    generator = np.random.default_rng(4)
    parts = [[" ".join(map(str, generator.integers(0, 30, 8))) for _ in range(25)] + [""] for _ in range(2)]
    made = [make_part(tmp_path, f"p{i}", texts, config) for i, texts in enumerate(parts)]
    catalogue = catalog.open_catalog(
        [catalog.read_entries(url) for url, _ in made], made[0][1] | made[1][1], []
    )
    bits = 1
    run, output = str(tmp_path / "run.parquet"), str(tmp_path / "pairs.parquet")
    candidates.write_run(catalogue, 0, [], bits, run)
    candidates.find(catalogue, [run], list(range(12)), bits, output)
    table = runs.read_partitions([output], [0])
    pairs = set(zip(table["left"].to_pylist(), table["right"].to_pylist(), strict=True))
    bands = np.concatenate([minhash.signatures(pa.array(texts), config)[0] for texts in parts])
    refs = [(part << 32) | row for part in range(2) for row in range(26)]
    real = [i for i in range(52) if i not in (25, 51)]
    expected = {
        (refs[i], refs[j]) for i, j in itertools.combinations(real, 2) if (bands[i] == bands[j]).any()
    }
    assert pairs == expected and len(table) == len(expected) > 20


@pytest.mark.parametrize("measure", ["jaccard", "containment"])
def test_similarities_are_those_of_the_sets(tmp_path, measure):
    config = DedupConfig(minhash=MinHashConfig(ngram=1), similarity=measure)
    generator = np.random.default_rng(5)
    texts = [" ".join(map(str, generator.integers(0, 12, generator.integers(1, 9)))) for _ in range(20)]
    url, documents = make_part(tmp_path, "p", texts, config.minhash)
    catalogue = catalog.open_catalog([catalog.read_entries(url)], documents, [])
    pairs = np.random.default_rng(6).permutation(list(itertools.combinations(range(20), 2))).tolist()
    left, right = (np.array(side, np.uint64) for side in zip(*pairs, strict=True))
    result = verify.similarities(catalogue, left, right, config)
    sets = [set(text.split()) for text in texts]
    total = {
        "jaccard": lambda one, other: len(one | other),
        "containment": lambda one, other: min(len(one), len(other)),
    }[measure]
    expected = [np.float32(len(sets[a] & sets[b]) / total(sets[a], sets[b])) for a, b in pairs]
    assert result.tolist() == expected


@pytest.mark.parametrize("chunk", [64, 2**20])
def test_routed_sets_give_the_edges_of_brute_force(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(verify, "CHUNK_BYTES", chunk)
    config = DedupConfig(minhash=MinHashConfig(ngram=1), threshold=0.3)
    generator = np.random.default_rng(8)
    texts = [" ".join(map(str, generator.integers(0, 12, generator.integers(0, 9)))) for _ in range(30)]
    made = [make_part(tmp_path, f"p{i}", texts[10 * i : 10 * i + 10], config.minhash) for i in range(3)]
    documents = {name: url for _, part in made for name, url in part.items()}
    opened = catalog.open_catalog([catalog.read_entries(url) for url, _ in made], documents, [])
    # A group a part, and the last as if it were of an earlier version.
    catalogue = catalog.Catalog(parts=opened.parts, new=2, group=np.array([0, 1, 1]), groups=2, indexes=[])
    refs = np.array([(i // 10) << 32 | i % 10 for i in range(30)], np.uint64)
    pairs = generator.permutation(list(itertools.combinations(range(30), 2)))[:200].tolist()
    pairs = [(a, b) for a, b in pairs if a < 20]
    left, right = (refs[list(side)] for side in zip(*(pairs + pairs[:20]), strict=True))
    run = str(tmp_path / "pairs")
    runs.write_run(run, [(pa.table({"left": left, "right": right}), catalogue.group_of(left))])
    url = lambda name, group: str(tmp_path / f"{name}{group}")  # noqa: E731
    for group in (0, 1):
        verify.write_wanted(catalogue, [run], group, url("wanted", group))
    wanted = [url("wanted", group) for group in (0, 1)]
    for group in (0, 1):
        verify.write_sets(catalogue, wanted, group, config, url("sets", group))
    sets = [url("sets", group) for group in (0, 1)]
    for group in (0, 1):
        verify.verify(catalogue, [run], sets, group, config, url("edges", group))
    tables = [files.read_parquet(url("edges", group)) for group in (0, 1)]
    found = {(row["left"], row["right"]): row["similarity"] for table in tables for row in table.to_pylist()}
    words = [set(text.split()) for text in texts]
    expected = {}
    for a, b in pairs:
        union = len(words[a] | words[b])
        similarity = np.float32(len(words[a] & words[b]) / union) if union else np.float32(0)
        if similarity >= np.float32(0.3):
            expected[int(refs[a]), int(refs[b])] = similarity
    assert found == expected and len(found) > 20
    assert sum(int(table.schema.metadata[b"candidates"]) for table in tables) == len(pairs)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(lambda e: e[0] != e[1]), max_size=40),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_components_of_stars_are_those_of_all_edges(edges, split, groups):
    # A document a part: its number decides its group.
    parts = [catalog.Part(name=f"{i}", documents="", table="", rows=1) for i in range(31)]
    catalogue = catalog.Catalog(parts=parts, new=31, group=np.arange(31) % groups, groups=groups, indexes=[])
    folder = f"memory://components/{split}"
    urls = []
    for i in range(split):
        sides = [pa.array([e[side] << 32 for e in edges[i::split]], pa.uint64()) for side in (0, 1)]
        files.write_parquet(f"{folder}/edges{i}", pa.table(sides, ["left", "right"]))
        urls.append(f"{folder}/forest{i}")
        components.forest(catalogue, [f"{folder}/edges{i}"], urls[-1])
    changed, level = split > 1, 0
    while changed:
        changed = False
        for name, star in (("small", components.small_star), ("large", components.large_star)) * 2:
            following = [f"{folder}/{name}-{level}-{group}" for group in range(groups)]
            for group, url in enumerate(following):
                star(catalogue, urls, group, url)
                changed |= level > 1 and runs.read_metadata(url)["changed"] != "0"
            urls, level = following, level + 1
        # It ends with a small star.
        following = [f"{folder}/last-{level}-{group}" for group in range(groups)]
        for group, url in enumerate(following):
            components.small_star(catalogue, urls, group, url)
            changed |= runs.read_metadata(url)["changed"] != "0"
        urls = following
        assert level < 40
    result: dict[int, int] = {}
    for group in range(groups):
        refs, labels = components.labels(urls, group)
        result |= dict(zip((refs >> 32).tolist(), (labels >> 32).tolist(), strict=True))
    label = {node: node for edge in edges for node in edge}
    for _ in label:
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    assert result == label


def test_policy_is_rank_then_quality_then_length_then_id(tmp_path):
    config = MinHashConfig(bands=1, rows=1)
    columns = {
        "rank": pa.array([0, 1, 1, 1, 1, 1], pa.int32()),
        "quality": pa.array([9, 0, 2, 2, 2, float("nan")], pa.float32()),
    }
    texts = ["x" * 9, "x" * 9, "x", "xxx", "yyy", "x" * 9]
    url, documents = make_part(tmp_path, "p", texts, config, **columns)
    catalogue = catalog.open_catalog([catalog.read_entries(url)], documents, [])
    refs = np.arange(6, dtype=np.uint64)
    table = catalog.lookup(catalogue, refs, ["document_id", "rank", "quality", "length"])
    ids = table["document_id"].to_pylist()
    tied = sorted([3, 4], key=lambda i: ids[i])
    assert catalog.policy_order(catalogue, refs, table).tolist() == [*tied, 2, 1, 5, 0]


def test_entries_that_do_not_fit_are_refused(tmp_path):
    config = MinHashConfig(bands=1, rows=1)
    url, _ = make_part(tmp_path, "p", ["a", "b"], config)
    with pytest.raises(UserError, match="names part p, which has no documents file"):
        catalog.open_catalog([catalog.read_entries(url)], {}, [])
    names = pa.array(["p", "q"]).dictionary_encode()
    url, _ = make_part(tmp_path, "q", ["a", "b"], config, part=names)
    with pytest.raises(UserError, match="holds several parts"):
        catalog.open_catalog([catalog.read_entries(url)], {}, [])


def test_no_part_is_lost_when_there_is_nothing_to_do(tmp_path):
    config = DedupConfig()
    url, documents = make_part(tmp_path, "p", [], config.minhash)
    assert catalog.open_catalog([catalog.read_entries(url)], documents, []).parts == []


SUMMARY = """{
 "minhash": {
  "shingle": "word",
  "ngram": 5,
  "bands": 14,
  "rows": 8,
  "seed": 1
 },
 "bits": 2,
 "parts": [
  [
   "wiki",
   "s3://é/wiki.arrow",
   "v1"
  ]
 ],
 "groups": [
  0
 ]
}
"""


def test_the_summary_of_an_index_is_these_bytes(tmp_path):
    part = catalog.IndexPart("wiki", "s3://é/wiki.arrow", "v1")
    summary = catalog.IndexSummary(minhash=MinHashConfig(), bits=2, parts=[part], groups=[0])
    summary.write(str(tmp_path / "index.json"))
    written = files.read_json(str(tmp_path / "index.json"))
    assert written.pop("seal") and files.json_bytes(written).decode() == SUMMARY
    assert catalog.read_summary(str(tmp_path)) == summary
    (old,) = catalog.open_catalog([], {}, [str(tmp_path)]).parts
    assert (old.name, old.documents, old.version) == ("wiki", "s3://é/wiki.arrow", "v1")
    assert old.table == str(tmp_path / "locations" / "00000.parquet")


def test_an_index_that_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(UserError, match=f"dedup index {tmp_path} is not there or not complete"):
        catalog.read_summary(str(tmp_path))
    (tmp_path / "index.json").write_text(SUMMARY.replace('"bits": 2', '"bits": "2"'))
    with pytest.raises(UserError, match="index.json is damaged or of another version: bits"):
        catalog.read_summary(str(tmp_path))
