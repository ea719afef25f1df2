import hashlib
import io
import itertools
import json
import re
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from base import files
from base.errors import UserError
from dedup import lines, spans
from dedup.config import DedupConfig, LinesConfig, MinHashConfig
from pipelines.corpus.stages import deduplicate as deduplication
from pipelines.corpus.stages import phases
from pipelines.corpus.stages.deduplicate import deduplicate
from pipelines.corpus.stages.indexes import compact_indexes, deduplicate_indexes, write_index
from pipelines.corpus.stages.repeated import find_repeated_lines, find_repeated_spans
from pipelines.runtime.executor import InProcess, OnRay
from pipelines.runtime.progress import silent
from tests.helpers.duplicates import THOROUGH, content, corpus_of, write_parts

HERE = InProcess()


def run(entries, urls, work, config, indexes=(), executor=HERE):
    outcome = deduplicate(
        entries, urls, list(indexes), work=str(work), config=config, executor=executor, progress=silent
    )
    tables = [files.read_parquet(url) for url in outcome.dropped]
    rows = list(itertools.chain.from_iterable(table.to_pylist() for table in tables))
    assert sum(outcome.counts.values()) == len(rows)
    assert sum(outcome.bytes.values()) == sum(row["bytes"] for row in rows)
    return outcome, {row["document_id"]: row for row in rows}


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def similarity(one, other, measure="jaccard"):
    one, other = words(one), words(other)
    total = len(one | other) if measure == "jaccard" else min(len(one), len(other))
    return len(one & other) / max(total, 1)


def document_id(document):
    return hashlib.md5(document.get("name", document["text"]).encode()).digest()


def field_texts(shared_data, name):
    """The texts of a file of ../shared/data/field; none where it is not there."""
    path = shared_data / "field" / name
    return [json.loads(line)["text"] for line in path.read_text().splitlines()] if path.exists() else []


def test_documents_that_differ_in_operators_or_vowel_signs_stay(tmp_path, shared_data):
    numbers = np.random.default_rng(3).integers(100, 999, (20, 3)).tolist()
    ask = "Question {}: what is {} {} {} {} {}? Work it out and give the number."
    texts = [
        ask.format(n, a, *signs, c)
        for n, (a, b, c) in enumerate(numbers)
        for signs in (("+", b, "*"), ("-", b, "/"))
    ]
    texts += ["किताब मेरी मेज पर रखी है और कलम भी वहीं है", "कीताब मेरा मोज पर रखा है और कलम भी वही है"]
    texts += field_texts(shared_data, "mathqa.jsonl") + field_texts(shared_data, "hindi_vowel_signs.jsonl")
    texts = sorted(set(texts))
    config = DedupConfig()
    entries, urls = write_parts(tmp_path / "in", [{"text": text} for text in texts], config)
    outcome, dropped = run(entries, urls, tmp_path / "out", config)
    assert not dropped
    assert outcome.candidates >= 20  # Their words are equal.


def brute_force(documents, threshold, measure="jaccard"):
    """{id: kept id} of what is dropped, over all pairs."""

    def policy(document):
        return (
            -document.get("rank", 0),
            -document.get("quality", 0.0),
            -len(document["text"].encode()),
            document_id(document),
        )

    ordered = sorted(documents, key=policy)
    exact: dict[str, Any] = {}
    dropped: dict[bytes, Any] = {}
    for document in ordered:
        key = " ".join(document["text"].split())
        if key in exact:
            dropped[document_id(document)] = exact[key]
        else:
            exact[key] = document
    kept: list[Any] = []
    for document in exact.values():
        match = next(
            (
                other
                for other in kept
                if np.float32(similarity(document["text"], other["text"], measure)) >= np.float32(threshold)
            ),
            None,
        )
        if match:
            dropped[document_id(document)] = match
        else:
            kept.append(document)
    final = {}
    for identifier, match in dropped.items():
        match_id = document_id(match)
        final[identifier] = document_id(dropped[match_id]) if match_id in dropped else match_id
    return final


LETTERS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8).map(" ".join)
CORPUS = st.lists(
    st.fixed_dictionaries(
        {
            "text": LETTERS | st.just("") | LETTERS.map(str.upper),
            "rank": st.integers(0, 1),
            "quality": st.sampled_from([0.0, 0.5, float("inf")]),
            "source": st.sampled_from(["web", "books"]),
        }
    ),
    min_size=1,
    max_size=24,
).map(lambda corpus: [{**document, "name": f"{i}"} for i, document in enumerate(corpus)])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CORPUS, st.randoms(), st.sampled_from(["jaccard", "containment"]))
def test_same_survivors_as_brute_force_in_any_order(tmp_path, corpus, random, measure):
    # A text of one word in one of eight has a Jaccard similarity of 1/8, and is a candidate with many bands.
    config = DedupConfig(minhash=MinHashConfig(ngram=1, bands=256, rows=1), threshold=0.6, similarity=measure)
    folder = tmp_path / uuid.uuid4().hex
    outcome, rows = run(*write_parts(folder, corpus, config), folder / "work", config)
    expected = brute_force(corpus, 0.6, measure)
    assert {identifier: row["kept_id"] for identifier, row in rows.items()} == expected
    texts = {document_id(document): document for document in corpus}
    for identifier, row in rows.items():
        text, kept = texts[identifier]["text"], texts[row["kept_id"]]["text"]
        same = " ".join(text.split()) == " ".join(kept.split())
        assert row["similarity"] == (1.0 if same else np.float32(similarity(text, kept, measure)))
        assert row["cluster"] == row["kept_id"] and row["kept_version"] is None
        assert row["source"] == texts[identifier]["source"]
    random.shuffle(corpus)
    other = tmp_path / uuid.uuid4().hex
    entries, urls = write_parts(other, corpus, config, parts=3)
    _, again = run(entries[::-1], urls, other / "work", config)
    assert {i: row["kept_id"] for i, row in again.items()} == {i: row["kept_id"] for i, row in rows.items()}


def test_restart_finishes_with_the_same_bytes_on_any_executor(tmp_path, monkeypatch, ray_cluster):
    sizes = {"GROUP_ROWS": 40, "PARTITION_ROWS": 50, "TASK_ROWS": 2000, "FOREST_ROWS": 50}
    for name, size in sizes.items():
        module = phases if hasattr(phases, name) else deduplication
        monkeypatch.setattr(module, name, size)
    # The name of a file of work, and of the folders that it is in, are in its seal.
    entries, urls = write_parts(tmp_path / "in", corpus_of(1, 200), THOROUGH, parts=12)
    outcome, rows = run(entries, urls, tmp_path / "one" / "work", THOROUGH)
    expected = content(tmp_path / "one" / "work")
    assert len(expected) > 30 and len(rows) > 50
    run(entries[::-1], urls, tmp_path / "two" / "work", THOROUGH, executor=OnRay(workers=2))
    assert content(tmp_path / "two" / "work") == expected
    generator = np.random.default_rng(0)
    for path in sorted(expected):
        if generator.random() < 0.5:
            (tmp_path / "two" / "work" / path).unlink()
    seen = []
    note = lambda *progress: seen.append(progress)  # noqa: E731
    ways: dict[str, Any] = {
        "work": str(tmp_path / "two" / "work"),
        "config": THOROUGH,
        "executor": HERE,
        "progress": note,
    }
    again = deduplicate(entries, urls, [], **ways)
    assert content(tmp_path / "two" / "work") == expected
    assert any(0 < done < total for _, done, total, *_ in seen)
    assert again.counts == outcome.counts and again.cluster_sizes == outcome.cluster_sizes
    seen.clear()
    deduplicate(entries, urls, [], **ways)
    # The sets that edges are made of are gone, and not made again.
    assert not (tmp_path / "two" / "work" / "sets").exists()
    assert all(done == total for _, done, total, *_ in seen) and "dedup sets" in {stage for stage, *_ in seen}
    one_folder, one_rows = run(
        *write_parts(tmp_path / "whole", corpus_of(1, 200), THOROUGH), tmp_path / "w", THOROUGH
    )
    assert {i: row["kept_id"] for i, row in one_rows.items()} == {
        i: row["kept_id"] for i, row in rows.items()
    }


def test_index_drops_only_new_documents_and_names_the_old_one(tmp_path):
    old, new = corpus_of(2, 60), corpus_of(3, 30)
    entries, urls = write_parts(tmp_path / "old", old, THOROUGH)
    outcome, first = run(entries, urls, tmp_path / "work-old", THOROUGH)
    write_index(
        entries,
        urls,
        outcome.dropped,
        version="v0001",
        output=str(tmp_path / "v0001"),
        config=THOROUGH,
        executor=HERE,
    )
    survivors = [document for document in old if document_id(document) not in first]
    copies = [{"text": d["text"].upper(), "name": f"c{i}", "rank": 9} for i, d in enumerate(survivors[:10])]
    exact = [{"text": d["text"] + " \n", "name": f"e{i}", "rank": 9} for i, d in enumerate(survivors[:7])]
    more = [d for d in new if all(similarity(d["text"], o["text"]) < 0.6 for o in old)]
    entries2, urls2 = write_parts(tmp_path / "new", copies + exact + more, THOROUGH)
    second, rows = run(entries2, urls2, tmp_path / "work-new", THOROUGH, [str(tmp_path / "v0001")])
    for i, document in enumerate(survivors[:10]):
        row = rows[document_id(copies[i])]
        assert row["kept_id"] == document_id(document) and row["kept_version"] == "v0001"
        assert row["reason"] == "near_duplicate" and row["similarity"] == 1
    for i in range(7):
        row = rows[document_id(exact[i])]
        assert row["kept_id"] == document_id(survivors[i]) and row["kept_version"] == "v0001"
        assert row["reason"] == "exact_duplicate"
    assert {i for i in rows if i not in {document_id(d) for d in copies + exact}} == set(
        brute_force(more, 0.6)
    )
    # A third build sees both versions.
    write_index(
        entries2,
        urls2,
        second.dropped,
        version="v0002",
        output=str(tmp_path / "v0002"),
        config=THOROUGH,
        executor=HERE,
    )
    left = [d for d in more if document_id(d) not in rows]
    third = [{"text": d["text"], "name": f"t{i}"} for i, d in enumerate([survivors[0], left[0]])]
    entries3, urls3 = write_parts(tmp_path / "third", third, THOROUGH)
    indexes = [str(tmp_path / "v0001"), str(tmp_path / "v0002")]
    _, rows = run(entries3, urls3, tmp_path / "work-third", THOROUGH, indexes)
    assert [rows[document_id(d)]["kept_version"] for d in third] == ["v0001", "v0002"]
    assert [rows[document_id(d)]["kept_id"] for d in third] == [
        document_id(survivors[0]),
        document_id(left[0]),
    ]


def indexed(folder, name, corpus, indexes=(), parts=3):
    """Deduplicate and index a corpus; returns (index URL, dropped rows)."""
    entries, urls = write_parts(folder / f"in-{name}", corpus, THOROUGH, parts)
    urls = {f"{name}{part}": url for part, url in urls.items()}
    for number, entry in enumerate(entries):
        table = files.read_parquet(entry.url)
        names = pa.array([f"{name}{part}" for part in table["part"].to_pylist()]).dictionary_encode()
        files.write_parquet(entry.url, table.set_column(table.column_names.index("part"), "part", names))
        entries[number] = entry._replace(part=f"{name}{entry.part}")
    outcome, rows = run(entries, urls, folder / f"work-{name}", THOROUGH, indexes)
    write_index(
        entries,
        urls,
        outcome.dropped,
        version=name,
        output=str(folder / name),
        config=THOROUGH,
        executor=HERE,
    )
    return str(folder / name), rows


def test_a_compacted_index_finds_what_its_parts_find(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.corpus.stages.phases.GROUP_ROWS", 20)
    monkeypatch.setattr("pipelines.corpus.stages.phases.PARTITION_ROWS", 30)
    first, _ = indexed(tmp_path, "v0001", corpus_of(5, 80, 60))
    second, _ = indexed(tmp_path, "v0002", corpus_of(6, 20, 60), [first])
    both = str(tmp_path / "both" / "index")
    compact_indexes([first, second], both, executor=HERE)
    new = [{**d, "name": f"again {d['name']}"} for d in corpus_of(5, 30, 60) + corpus_of(6, 20, 60)]
    new += corpus_of(7, 30, 60)
    entries, urls = write_parts(tmp_path / "new", new, THOROUGH)
    _, apart = run(entries, urls, tmp_path / "apart", THOROUGH, [first, second])
    _, joined = run(entries, urls, tmp_path / "joined", THOROUGH, [both])
    assert joined == apart and {row["kept_version"] for row in joined.values()} >= {"v0001", "v0002"}
    third = str(tmp_path / "third" / "index")
    compact_indexes([both], third, executor=HERE)
    assert content(tmp_path / "third") == content(tmp_path / "both")


def test_two_corpora_are_merged_from_their_indexes(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.corpus.stages.phases.GROUP_ROWS", 20)
    monkeypatch.setattr("pipelines.corpus.stages.phases.PARTITION_ROWS", 30)
    old = corpus_of(5, 60, 60)
    other = [{**d, "name": f"other {d['name']}"} for d in corpus_of(5, 20, 60)] + corpus_of(8, 30, 60)
    first, _ = indexed(tmp_path, "a", old)
    second, gone = indexed(tmp_path, "b", other, parts=2)
    work = str(tmp_path / "merged")
    outcome = deduplicate_indexes(
        [second], [first], work=work, config=THOROUGH, executor=HERE, progress=silent
    )
    tables = [files.read_parquet(url).to_pylist() for url in outcome.dropped]
    merged = {row["document_id"]: row for row in itertools.chain.from_iterable(tables)}
    # As if the survivors of the second corpus had been read again.
    left = [document for document in other if document_id(document) not in gone]
    again, where = write_parts(tmp_path / "again", left, THOROUGH)
    _, read = run(again, where, tmp_path / "read", THOROUGH, [first])
    with pytest.raises(UserError, match="dedup.minhash.ngram = 5, but the index"):
        deduplicate_indexes(
            [second], [first], work=work, config=DedupConfig(), executor=HERE, progress=silent
        )
    assert {i: (row["kept_id"], row["similarity"], row["source"]) for i, row in merged.items()} == {
        i: (row["kept_id"], row["similarity"], row["source"]) for i, row in read.items()
    }
    assert len(merged) >= 5 and {row["kept_version"] for row in merged.values()} == {"a"}
    assert merged.keys() <= {document_id(document) for document in left}


def test_settings_that_do_not_fit_the_index_are_refused(tmp_path):
    entries, urls = write_parts(tmp_path / "in", corpus_of(2, 5), THOROUGH)
    write_index(
        entries, urls, [], version="v0001", output=str(tmp_path / "v0001"), config=THOROUGH, executor=HERE
    )
    with pytest.raises(UserError, match="dedup.minhash.ngram = 5, but the index .* was made with 1"):
        run(entries, urls, tmp_path / "work", DedupConfig(), [str(tmp_path / "v0001")])
    with pytest.raises(UserError, match="not there"):
        run(entries, urls, tmp_path / "work", DedupConfig(), [str(tmp_path / "v0009")])


def test_nothing_and_stages_switched_off(tmp_path):
    outcome, rows = run([], {}, tmp_path / "none", THOROUGH)
    assert rows == {} and outcome.dropped == []
    write_index([], {}, [], version="v0001", output=str(tmp_path / "v0001"), config=THOROUGH, executor=HERE)
    corpus = [{"text": text, "name": f"{i}"} for i, text in enumerate(["a b c", "a b c", "A B C", "x"])]
    entries, urls = write_parts(tmp_path / "in", corpus, THOROUGH)
    index = [str(tmp_path / "v0001")]
    for exact, fuzzy, expected in [(True, True, 2), (True, False, 1), (False, True, 2), (False, False, 0)]:
        config = THOROUGH.model_copy(update={"exact": exact, "fuzzy": fuzzy})
        _, rows = run(entries, urls, tmp_path / f"{exact}{fuzzy}", config, index)
        assert len(rows) == expected


def test_a_chain_is_split_where_documents_do_not_resemble_the_kept_one(tmp_path):
    corpus = [
        {"text": " ".join(f"w{w}" for w in range(i * 2, i * 2 + 20)), "name": f"{i}", "rank": 100 - i}
        for i in range(40)
    ]
    _, rows = run(*write_parts(tmp_path / "in", corpus, THOROUGH), tmp_path / "work", THOROUGH)
    assert {i: row["kept_id"] for i, row in rows.items()} == brute_force(corpus, 0.6)
    assert all(row["similarity"] >= np.float32(0.6) for row in rows.values())


def test_large_buckets_stay_bounded(tmp_path):
    corpus = [{"text": "the same words" + " ," * i, "name": f"{i}"} for i in range(500)]
    outcome, rows = run(*write_parts(tmp_path / "in", corpus, THOROUGH), tmp_path / "work", THOROUGH)
    assert len(rows) == 499 and outcome.cluster_sizes == {500: 1}
    assert outcome.candidates <= 16 * 500


def test_boilerplate_lines_are_found_over_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.corpus.stages.phases.GROUP_ROWS", 5)
    corpus = [{"text": f"own line number {i}\nClick here to subscribe\n"} for i in range(12)]
    entries, urls = write_parts(tmp_path / "in", corpus, THOROUGH, parts=4)
    off = find_repeated_lines(
        entries, urls, [], work=str(tmp_path / "off"), config=THOROUGH, executor=HERE, progress=silent
    )
    assert off == []
    dropped = str(tmp_path / "dropped.parquet")
    files.write_parquet(dropped, pa.table({"part": [f"{0:016x}"], "row": pa.array([1], pa.uint32())}))
    for limit, there in ((11, True), (12, False)):
        lines_config = LinesConfig(min_documents=limit)
        config = THOROUGH.model_copy(update={"lines": lines_config})
        work = str(tmp_path / f"work{limit}")
        found = find_repeated_lines(
            entries, urls, [dropped], work=work, config=config, executor=HERE, progress=silent
        )
        keys = lines.read_keys(found)
        assert len(keys) == there
        texts = pa.array([document["text"] for document in corpus], pa.large_string())
        result, removed = lines.remove_lines(
            texts, lines.salts(pa.array(["web"] * 12, pa.string())), keys, lines_config
        )
        assert set(removed.tolist()) == ({24} if there else {0})
        assert result[3].as_py() == "own line number 3\n" + "Click here to subscribe\n" * (not there)


def test_repeated_spans_are_found_over_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.corpus.stages.phases.GROUP_ROWS", 4)
    passage = " ".join(f"word{i}" for i in range(60))
    corpus = [{"text": f"Own start {i}. {passage} Own end {i}."} for i in range(9)]
    entries, urls = write_parts(tmp_path / "in", corpus, THOROUGH, parts=3)
    work = str(tmp_path / "work")
    ways: dict[str, Any] = {"work": work, "executor": HERE, "progress": silent}
    assert find_repeated_spans(entries, urls, [], config=THOROUGH, **ways) == {}
    config = THOROUGH.model_copy(update={"span_tokens": 50})
    found = find_repeated_spans(entries, urls, [], config=config, **ways)
    assert sorted(found) == sorted(urls) and len({url for url, _ in found.values()}) > 1
    for number, (name, (url, place)) in enumerate(sorted(found.items())):
        texts = pa.array([document["text"] for document in corpus[number::3]], pa.large_string())
        result, removed = spans.remove_spans(texts, *spans.of_part(url, place))
        for row, text in enumerate(result.to_pylist()):
            i = number + 3 * row
            first = number == 0 and row == 0
            assert text == (corpus[0]["text"] if first else f"Own start {i}. {i}."), name
            assert removed[row] == (0 if first else len(passage) + len(" Own end "))


def test_recall_on_real_pairs(tmp_path, shared_data):
    config = DedupConfig()
    documents: list[dict[str, Any]] = []
    places: dict[tuple[str, int], int] = {}
    for path in sorted((shared_data / "pile_messy").glob("*.zst")):
        lines = []
        with path.open("rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            try:
                for line in io.BufferedReader(reader):
                    lines.append(line)
            except zstandard.ZstdError:
                pass
        for number, line in enumerate(lines):
            try:
                text = json.loads(line.removeprefix(b"\xef\xbb\xbf"))["text"]
                text.encode()
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            places[path.name, number] = len(documents)
            documents.append({"text": text, "name": f"{path.name}:{number}"})
    entries, urls = write_parts(tmp_path / "in", documents, config)
    _, rows = run(entries, urls, tmp_path / "work", config)
    assert recall(shared_data, documents, places, rows, 0.8) >= 0.99
    for line in (shared_data / "pile_messy/truth/exact_groups.jsonl").open():
        members = find(json.loads(line)["docs"], documents, places)
        assert sum(document_id(member) not in rows for member in members) <= 1


def find(mentions, documents, places):
    keys = [(mention["file"], mention["line"]) for mention in mentions]
    return [documents[places[key]] for key in keys if key in places]


def recall(shared_data, documents, places, rows, threshold):
    """Share of the true pairs of which not both documents stay."""
    found = total = 0
    for line in (shared_data / "pile_messy/truth/all_pairs_j30.jsonl").open():
        pair = json.loads(line)
        if pair["j_word5"] >= threshold:
            for one in find(pair["a"], documents, places):
                for other in find(pair["b"], documents, places):
                    total += 1
                    found += document_id(one) in rows or document_id(other) in rows
    assert total > 100
    return found / total


@pytest.mark.parametrize(
    ("folder", "change", "told"),
    [
        ("bands", lambda table: table.rename_columns(["hashx", "ref"]), "has no column hash"),
        ("bands", lambda table: table.set_column(1, "ref", table["ref"].cast(pa.float64())), "ref is double"),
        ("bands", lambda table: table.set_column(0, "hash", pa.nulls(len(table), pa.uint64())), "has nulls"),
        (
            "bands",
            lambda table: table.set_column(1, "ref", pa.array(np.arange(7, 7 + len(table)), "u8")),
            "same",
        ),
        ("texts", lambda table: table.slice(0, 0), "not of the same documents"),
        ("texts", lambda table: table.drop_columns("low"), "has no column low"),
        ("locations", lambda table: table.drop_columns("length"), "has no column length"),
        ("locations", lambda table: table.slice(0, 2), "not of the same documents"),
    ],
)
def test_an_index_with_tables_of_something_else_is_named(tmp_path, folder, change, told):
    first, _ = indexed(tmp_path, "a", corpus_of(5, 6, 60))
    second, _ = indexed(tmp_path, "b", corpus_of(8, 6, 60))
    for path in sorted((tmp_path / "b" / folder).glob("*.parquet")):
        # As tables of earlier releases, which had no seals.
        pq.write_table(change(files.read_parquet(str(path))), path)
    with pytest.raises(UserError, match=told):
        deduplicate_indexes(
            [second], [first], work=str(tmp_path / "work"), config=THOROUGH, executor=HERE, progress=silent
        )


def test_documents_that_an_index_does_not_locate_are_told(tmp_path):
    first, _ = indexed(tmp_path, "a", corpus_of(5, 20, 60))
    for path in sorted((tmp_path / "a" / "locations").glob("*.parquet")):
        pq.write_table(files.read_parquet(str(path)).slice(0, 0), path)
    new = [{**d, "name": f"again {d['name']}"} for d in corpus_of(5, 20, 60)]
    entries, urls = write_parts(tmp_path / "new", new, THOROUGH)
    with pytest.raises(UserError, match=r"locations/00000.parquet is damaged: it has 0 of \d+ documents"):
        run(entries, urls, tmp_path / "work", THOROUGH, [first])
