import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import UserError
from pipelines.corpus.reading import ingest
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.text import decontaminate
from pipelines.corpus.text.settings import DecontaminateConfig
from tests.helpers.words import split

ITEM = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."


def column(*texts):
    return pa.array(texts, pa.large_string())


def benchmark_file(folder, records, name="bench.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def config_of(url, **settings):
    fields = settings.pop("fields", [])
    return DecontaminateConfig(benchmarks=[{"name": "bench", "urls": [url], "fields": fields}], **settings)


def load(folder, records, **settings):
    config = config_of(benchmark_file(folder, records), **settings)
    return decontaminate.load_benchmarks(config), config


def words_of(text):
    return split(text)[0]


def reference(documents, passages, n, min_words):
    """{(row, item): distinct n-grams found}, by sets of word tuples."""
    found = {}
    for item, passage in enumerate(passages):
        words = words_of(passage)
        if not words or len(words) < min(n, min_words):
            continue
        size = min(n, len(words))
        ngrams = {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
        ngrams = {ngram for ngram in ngrams if not all(word.isdigit() for word in ngram)}
        for row, document in enumerate(documents):
            words = words_of(document)
            count = len(ngrams & {tuple(words[i : i + size]) for i in range(len(words) - size + 1)})
            if count:
                found[row, item] = count
    return found


texts = st.lists(
    st.sampled_from(["a", "B", "ß", "Σας", "İx", "नमस्ते", "中文", "かな", "ไป", "1", "2", ", ", "\n"]),
    max_size=40,
).map(" ".join)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(texts, max_size=4), st.lists(texts, min_size=1, max_size=4), st.integers(2, 5), st.integers(2, 5)
)
def test_finds_what_sets_of_word_tuples_find(tmp_path_factory, documents, passages, n, min_words):
    folder = tmp_path_factory.mktemp("bench")
    benchmarks, _ = load(folder, [{"q": text} for text in passages], ngram=n, min_words=min_words)
    text = column(*documents)
    hits = decontaminate.find(text, benchmarks).to_pylist()
    assert {(hit["row"], hit["item"]): hit["ngrams"] for hit in hits} == reference(
        documents, passages, n, min_words
    )
    for hit in hits:
        span = documents[hit["row"]].encode()[hit["start"] : hit["end"]].decode()
        assert len(words_of(span)) >= min(n, len(words_of(passages[hit["item"]])))
        assert [gaps[0] + gaps[-1] for _, gaps in [split(span)]] == [""]


def test_case_punctuation_and_long_documents_do_not_matter(tmp_path):
    benchmarks, _ = load(tmp_path, [{"question": ITEM}])
    filler = " nothing to see here, move along " * 3000
    changed = (
        "NATALIA sold clips -- to 48 of her\nfriends in April; and then she sold half as many clips in May"
    )
    hits = decontaminate.find(column("clean", filler + changed + filler), benchmarks).to_pylist()
    assert [(hit["row"], hit["item"], hit["field"]) for hit in hits] == [(1, 0, "question")]
    assert hits[0]["start"] == len(filler) and hits[0]["end"] == len(filler + changed)
    assert hits[0]["ngrams"] == hits[0]["passage_ngrams"] == len(words_of(ITEM)) - 12


def test_passages_across_the_chunks_of_the_kernel(tmp_path):
    short = "eight words in the shortest passage there is"
    benchmarks, _ = load(tmp_path, [{"q": ITEM}, {"q": short}])
    # The kernel takes some 4,100 words at a time.
    texts = [f"{'word ' * (4070 + shift)}{passage} end" for shift in range(45) for passage in (ITEM, short)]
    hits = decontaminate.find(column(*texts), benchmarks)
    assert hits["row"].to_pylist() == list(range(90)) and hits["item"].to_pylist() == [0, 1] * 45
    assert hits["ngrams"].equals(hits["passage_ngrams"])


def test_slices_and_empty_columns(tmp_path):
    benchmarks, config = load(tmp_path, [{"question": ITEM}])
    text = column("x", ITEM, "y", ITEM).slice(1)
    assert decontaminate.find(text, benchmarks)["row"].to_pylist() == [0, 2]
    out, dropped, hits = decontaminate.decontaminate(column(), benchmarks, config)
    assert len(out) == len(dropped) == hits.num_rows == 0


def test_short_passages_must_be_found_whole(tmp_path, caplog):
    short = "only eight words are in this short passage"
    benchmarks, _ = load(tmp_path, [{"q": short}, {"q": "seven words are too few for this"}])
    assert "benchmark bench: 1 of 2 items have too few words" in caplog.text
    found = decontaminate.find(column(short, short[:-8], "seven words are too few for this"), benchmarks)
    assert found["row"].to_pylist() == [0] and found["item"].to_pylist() == [0]


def test_fields_are_joined_or_apart(tmp_path):
    record = {"a": {"q": "one two three four"}, "b": ["five six", "seven eight"], "c": 3}
    apart, _ = load(tmp_path, [record], min_words=4, ngram=4)
    assert apart.passages["field"].to_pylist() == ["a.q", "b"]
    joined, _ = load(tmp_path, [record], min_words=4, ngram=4, fields=["a.q", "b"])
    assert joined.passages["field"].to_pylist() == ["a.q+b"]
    assert len(joined.hashes) == 5
    with pytest.raises(UserError, match="benchmark bench: item 0 has no text field missing"):
        load(tmp_path, [record], fields=["missing"])
    with pytest.raises(UserError, match="benchmark bench has no files"):
        decontaminate.load_benchmarks(config_of(str(tmp_path / "none.jsonl")))
    (tmp_path / "bad.jsonl").write_text("{}\n{nonsense\n")
    with pytest.raises(UserError, match=r"line 2 of .*bad.jsonl is not JSON"):
        decontaminate.load_benchmarks(config_of(str(tmp_path / "bad.jsonl")))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.zip", b"PK\x03\x04" + bytes(40), "zip archive"),
        ("a.jsonl", b"PK\x03\x04" + bytes(40), "zip archive"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}')[:-12], "gzip"),
        ("a.parquet", b"PAR1" + bytes(40), ""),
        ("a.txt", b"\xff\xfe\x00\x81", "UTF-16"),
        ("a.txt", b"caf\xe9", "utf-8"),
        ("a.jsonl", b"[" * 100_000, ""),
        ("a.bin", bytes(range(256)), "neither jsonl, parquet nor text"),
        ("a.csv", b"text\na\n", "it is csv"),
    ],
)
def test_files_that_are_no_benchmark_are_named(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    config = DecontaminateConfig.model_validate({"benchmarks": [{"name": "bench", "urls": [str(path)]}]})
    with pytest.raises(
        UserError, match=rf"decontaminate\.benchmarks: .*{name} of benchmark bench .*{problem}"
    ):
        decontaminate.check(config)


def test_a_folder_is_the_files_in_it_and_the_one_that_is_no_benchmark_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "one two three four five"}\n')
    config = DecontaminateConfig.model_validate(
        {"benchmarks": [{"name": "bench", "urls": [str(folder)]}], "ngram": 3, "min_words": 3}
    )
    decontaminate.check(config)
    assert decontaminate.load_benchmarks(config).items == {"bench": 1}
    (folder / "b.bin").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"b\.bin of benchmark bench cannot be read: it is neither"):
        decontaminate.load_benchmarks(config)
    (tmp_path / "empty").mkdir()
    nothing = DecontaminateConfig.model_validate(
        {"benchmarks": [{"name": "bench", "urls": [str(tmp_path / "empty")]}]}
    )
    with pytest.raises(UserError, match="benchmark bench has no files at .*empty"):
        decontaminate.check(nothing)


ASIAN = {
    "Chinese": (
        "下列关于细胞膜结构和功能的叙述中，错误的是哪一项？",
        "昨天下午我们几个人去了村子后面的小山，路上下了一阵雨。",
    ),
    "Japanese": (
        "次のうち、明治時代に起きた出来事として正しいものはどれですか。",
        "夕方になると隣の家の犬が門の前に座っている。",
    ),
    "Thai": (
        "ข้อใดต่อไปนี้เป็นสาเหตุหลักที่ทำให้กรุงศรีอยุธยาเสียแก่พม่าครั้งที่สองในปีพุทธศักราชสองพันสามร้อยสิบ",
        "เมื่อวานนี้ฉันเดินไปตลาดกับแม่แล้วซื้อผักกับปลากลับมาทำอาหารเย็น",
    ),
    "Khmer": (
        "តើប្រាសាទអង្គរវត្តត្រូវបានសាងសង់ឡើងនៅក្នុងរជ្ជកាលព្រះមហាក្សត្រអង្គណាក្នុងសតវត្សទីដប់ពីរ",
        "ម្សិលមិញខ្ញុំទៅផ្សារជាមួយម្តាយហើយទិញត្រីនិងបន្លែមកធ្វើម្ហូប",
    ),
}


@pytest.mark.parametrize(("question", "other"), ASIAN.values(), ids=ASIAN)
def test_items_in_scripts_without_spaces_are_found(tmp_path, question, other):
    """With anything around them, and nothing is found where they are not."""
    benchmarks, _ = load(tmp_path, [{"question": question}])
    assert benchmarks.items == {"bench": 1}
    texts = [question, f"{other}{question}{other}", other, f"{other}\n{question[:-1]}, {other}", other * 20]
    hits = decontaminate.find(column(*texts), benchmarks)
    assert hits["row"].to_pylist() == [0, 1, 3]
    whole = hits["ngrams"].to_numpy() / hits["passage_ngrams"].to_numpy()
    assert whole.min() > 0.7


def test_turns_of_phrase_in_kana_are_no_items(tmp_path):
    benchmarks, _ = load(tmp_path, [{"q": "光合成によって植物は酸素を作ることができるようになりました。"}])
    text = column(
        "練習を続けた結果、泳ぐことができるようになりました。", "本を読むことができるようになりましたので"
    )
    assert decontaminate.find(text, benchmarks).num_rows == 0


def test_boilerplate_of_many_items_is_left_out(tmp_path):
    records = [{"q": f"{ITEM} item number {'abcdef'[i]}"} for i in range(6)]
    benchmarks, _ = load(tmp_path, records, max_items=5)
    hits = decontaminate.find(column(ITEM, records[2]["q"]), benchmarks)
    assert set(hits["row"].to_pylist()) == {1} and set(hits["item"].to_pylist()) == {2}
    benchmarks, _ = load(tmp_path, records, max_items=6)
    assert decontaminate.find(column(ITEM), benchmarks)["item"].to_pylist() == list(range(6))


def test_parquet_gives_the_same_as_jsonl(tmp_path):
    records = [{"q": ITEM, "n": 1}, {"q": ITEM.upper() + " more", "n": 2}]
    first, _ = load(tmp_path, records)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "bench.parquet")
    second = decontaminate.load_benchmarks(config_of(str(tmp_path / "bench.parquet")))
    assert first.digest == second.digest


def test_written_and_read(tmp_path):
    benchmarks, config = load(tmp_path, [{"q": ITEM, "a": "a short answer of only eight words here"}])
    url = str(tmp_path / "benchmarks.parquet")
    decontaminate.write_benchmarks(benchmarks, url)
    again = decontaminate.read_benchmarks(url)
    assert again.digest == benchmarks.digest
    text = column(ITEM)
    assert decontaminate.find(text, again).equals(decontaminate.find(text, benchmarks))
    other, _ = load(tmp_path, [{"q": ITEM + " x"}])
    assert other.digest != benchmarks.digest


def test_no_benchmarks(tmp_path):
    config = DecontaminateConfig()
    text = column("a b c")
    out, dropped, hits = decontaminate.decontaminate(text, decontaminate.load_benchmarks(config), config)
    assert out is text and not dropped.any() and hits.num_rows == 0


def test_drop_by_share(tmp_path):
    half = " ".join(words_of(ITEM)[:14])
    benchmarks, config = load(tmp_path, [{"q": ITEM}])
    text = column("clean", half, ITEM)
    out, dropped, hits = decontaminate.decontaminate(text, benchmarks, config)
    assert out is text and dropped.tolist() == [False, True, True]
    out, dropped, hits = decontaminate.decontaminate(
        text, benchmarks, config.model_copy(update={"min_share": 0.5})
    )
    assert dropped.tolist() == [False, False, True]
    assert hits["removed"].to_pylist() == [False, True]
    few = config.model_copy(update={"min_ngrams": 3})
    assert decontaminate.decontaminate(text, benchmarks, few)[1].tolist() == [False, False, True]


def test_spans_are_cut_at_words(tmp_path):
    benchmarks, config = load(tmp_path, [{"q": ITEM}, {"q": ITEM + " How many clips?"}], action="span")
    text = column("clean", f"Before «{ITEM}» after. {ITEM}", "ünd")
    out, dropped, hits = decontaminate.decontaminate(text, benchmarks, config)
    assert out.to_pylist() == ["clean", "Before «.» after. .", "ünd"]
    assert not dropped.any() and hits["removed"].to_pylist() == [True] * 4


def test_every_injected_item_of_pile_messy_is_found(shared_data):
    truth = [json.loads(line) for line in (shared_data / "pile_messy/truth/contamination.jsonl").open()]
    root = shared_data / "benchmarks"
    names = {"gsm8k_test": "gsm8k/test.jsonl", "human_eval": "human_eval/HumanEval.jsonl.gz"}
    config = DecontaminateConfig(
        benchmarks=[{"name": name, "urls": [str(root / path)]} for name, path in names.items()]
    )
    benchmarks = decontaminate.load_benchmarks(config)
    contaminated = {(item["doc"]["file"], item["doc"]["line"]) for item in truth}
    expected = {
        (item["benchmark"], item["index"], item["doc"]["file"], item["doc"]["line"]) for item in truth
    }
    found, dropped = set(), set()
    for path in sorted((shared_data / "pile_messy").glob("*.zst")):
        for batch in ingest.read(str(path), SourceConfig(name="m", urls=[str(path)]), IngestConfig()):
            text = batch.documents["text"].combine_chunks()
            _, mask, hits = decontaminate.decontaminate(text, benchmarks, config)
            records = batch.documents["record"].to_numpy()
            dropped |= {(path.name, int(record)) for record in records[mask]}
            for hit in hits.to_pylist():
                found.add((hit["benchmark"], hit["item"], path.name, int(records[hit["row"]])))
    assert expected <= found
    # The three others are sibling items whose docstrings share a sentence; no further document is dropped.
    assert {(file, line) for _, _, file, line in found} == dropped == contaminated
    assert len(found) == len(expected) + 3


def test_no_false_alarm_in_pile_sample(shared_data):
    root = shared_data / "benchmarks"
    config = DecontaminateConfig(
        benchmarks=[
            {"name": "gsm8k", "urls": [str(root / "gsm8k/test.jsonl")]},
            {"name": "humaneval", "urls": [str(root / "human_eval/HumanEval.jsonl.gz")]},
        ]
    )
    benchmarks = decontaminate.load_benchmarks(config)
    for path in sorted((shared_data / "pile_sample").glob("*.zst")):
        for batch in ingest.read(str(path), SourceConfig(name="m", urls=[str(path)]), IngestConfig()):
            text = batch.documents["text"].combine_chunks()
            assert decontaminate.find(text, benchmarks).num_rows == 0
            assert np.array_equal(
                decontaminate.decontaminate(text, benchmarks, config)[1], np.zeros(len(text))
            )
