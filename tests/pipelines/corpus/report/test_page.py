import re
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from base import files
from base.contents import Contents, InputEntry, ShardEntry
from base.manifest import Manifest, SourceTotals, TokenizerFacts
from pipelines.corpus.ledger import STAGES, Ledger
from pipelines.corpus.report import parquet
from pipelines.corpus.stages.tokenize import HITS
from tests.helpers.late import RUNNING

if RUNNING:
    from pipelines.corpus.report import page as report
    from pipelines.corpus.report.sections import clusters, examples

HOSTILE = "<script>alert('x')</script> & <img src=https://example.org/x.png>"
SOURCES = ("books", "web_pages", "code")


def make_ledger(rng):
    """A ledger that balances, with drops in every stage but normalise."""
    ledger = Ledger()
    reasons = {
        "read": "broken_json",
        "quality": "too_short",
        "exact": "exact_duplicate",
        "fuzzy": "near_duplicate",
        "tokenize": "no_tokens",
    }
    for number, source in enumerate(SOURCES):
        documents, size = 120_345 * (number + 1), 600_000_123 * (number + 1)
        for name in STAGES:
            stage = ledger.stage(source, name)
            stage.documents_in, stage.bytes_in = documents, size
            if name in reasons:
                stage.drop(reasons[name], documents // 12, size // 15)
            if name == "normalise":
                stage.change("whitespace", -1234)
            documents -= stage.documents_dropped
            size += sum(stage.bytes_delta.values()) - stage.bytes_dropped
            stage.documents_out, stage.bytes_out = documents, size
    ledger.check()
    return ledger


def make_version(folder, rng, documents=3000):
    """A version folder with shards and the tables of a build; returns write_report's arguments."""
    shards, sources = [], {}
    for number, source in enumerate(SOURCES):
        lengths = rng.lognormal(5 + number % 3, 1, 400).astype(int) + 1
        column = pa.LargeListArray.from_arrays(
            np.concatenate([[0], lengths.cumsum()]), pa.array(np.zeros(lengths.sum(), np.uint16))
        )
        path = f"v0002/shards/{source}/train-00000.arrow"
        with files.atomic_writer(files.join(folder, path)) as stream:
            table = pa.table({"input_ids": column})
            with pa.ipc.new_file(stream, table.schema) as writer:
                writer.write_table(table)
        shards.append(
            ShardEntry(
                path=path,
                source=source,
                split="train",
                documents=400,
                tokens=int(lengths.sum()),
                text_bytes=400_000,
                bytes=123_456,
                digest="ab" * 16,
                version="v0002",
            )
        )
        sources[source] = SourceTotals(
            weight=[0.5, 0.2, 0.3][number % 3],
            documents=400,
            heldout_documents=4,
            tokens=int(lengths.sum()),
            text_bytes=int(lengths.sum() * 4.2),
        )
    contents = Contents(
        shards=shards,
        inputs=[
            InputEntry(
                source=source,
                file=f"/data/{source}.jsonl.zst",
                start=0,
                bytes=12345,
                digest="d" * 32,
                part=f"{source}-part",
            )
            for source in SOURCES
        ],
    )
    manifest = Manifest(
        schema_number=2,
        name="test <b>corpus</b>",
        version="v0002",
        parent="v0001",
        parent_manifest_hash="00" * 16,
        config={"name": "test", "quality": {"min_words": 5}},
        config_hash="c0ffee" * 5,
        packages={"numpy": np.__version__},
        tokenizer=TokenizerFacts(
            file="tokenizer.json",
            sha256="f" * 64,
            vocab_size=50277,
            end_of_document="<|endoftext|>",
            end_of_document_id=0,
            dtype="uint16",
        ),
        shard_count=len(shards),
        input_count=len(SOURCES),
        sources=sources,
        indexes=[],
        ledger=make_ledger(rng).to_json(),
        languages={"books": {"en": 30, "de": 10}, "code": {"en": 40}},
        contamination={"quiz": {"items": 1319, "items_found": 2, "documents": 1}},
        redacted={"books": {"email": 4321, "phone": 2}},
        special_tokens={"books": {"<|endoftext|>": 6543}},
    )
    names = np.array(SOURCES)[rng.integers(0, len(SOURCES), documents)]
    size = rng.lognormal(7, 1.5, documents).astype(np.int64)
    attributes = files.join(folder, "attributes.parquet")
    table = pa.table(
        {
            "source": pa.array(names).dictionary_encode(),
            "bytes": size,
            "q_characters": size,
            "q_words": size // 6,
            "n_control": rng.integers(0, 9, documents),
            "language_score": rng.beta(9, 1, documents).astype(np.float32),
            "q_alphabetic_word_fraction": rng.beta(9, 2, documents),
            "q_repeated_line_fraction": rng.beta(0.3, 6, documents),
        }
    )
    files.write_parquet(attributes, table, row_group_size=997)
    cluster = np.minimum(rng.zipf(1.6, documents), 1000)
    identifiers = pa.array([f"{value:016d}".encode() for value in cluster], pa.binary(16))
    near = rng.random(documents) < 0.6
    duplicates = files.join(folder, "duplicates.parquet")
    table = pa.table(
        {
            "document_id": pa.array([f"d{value:015d}".encode() for value in range(documents)], pa.binary(16)),
            "part": pa.array([f"{name}-part" for name in names]).dictionary_encode(),
            "row": pa.array(np.arange(documents), pa.uint32()),
            "source": pa.array(names).dictionary_encode(),
            "reason": pa.array(np.where(near, "near_duplicate", "exact_duplicate")).dictionary_encode(),
            "kept_id": identifiers,
            "kept_version": pa.array(["v0001" if value % 5 == 0 else None for value in cluster]),
            "similarity": pa.array(np.where(near, rng.uniform(0.8, 1, documents), 1.0), pa.float32()),
            "cluster": identifiers,
            "bytes": size,
        }
    )
    files.write_parquet(duplicates, table)
    quality = files.join(folder, "quality.parquet")
    table = pa.table(
        {
            "source": ["books"] * 5,
            "part": ["books-part"] * 5,
            "row": pa.array(range(5), pa.uint32()),
            "record": pa.array(range(100, 105), pa.int64()),
            "bytes": pa.array([7] * 5, pa.int64()),
            "reason": ["too_short"] * 5,
            "value": [3.0] * 5,
        }
    )
    files.write_parquet(quality, table)
    rejects = files.join(folder, "rejects.parquet")
    table = pa.table(
        {
            "source": ["books"] * 50,
            "file": ["/data/books.jsonl.zst"] * 50,
            "record": pa.array(range(50), pa.int64()),
            "reason": ["broken_json"] * 50,
            "detail": [HOSTILE] * 50,
            "bytes": pa.array([100] * 50, pa.int64()),
            "sample": [HOSTILE + " x" * 400] * 50,
        }
    )
    files.write_parquet(rejects, table)
    texts = pa.array([f"Sample {number} of a.person@some-mail.net" for number in range(5)])
    books = files.join(folder, "books.arrow")
    ids = pa.array([bytes([number]) * 16 for number in range(5)], pa.binary(16))
    columns = {"document_id": ids, "record": np.arange(100, 105), "text": texts.cast(pa.large_string())}
    table = pa.table(columns)
    with files.atomic_writer(books) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    contamination = files.join(folder, "contamination.parquet")
    table = pa.table(
        {
            "benchmark": ["quiz"] * 3,
            "item": [7, 7, 9],
            "field": ["question"] * 3,
            "document_id": pa.array([b"0" * 16, b"1" * 16, b"1" * 16], pa.binary(16)),
            "source": ["books"] * 3,
            "part": ["books-part"] * 3,
            "row": pa.array([0, 1, 1], pa.uint32()),
            "start": [0, 0, 50],
            "end": [40, 40, 90],
            "ngrams": pa.array([10, 5, 1], pa.int32()),
            "passage_ngrams": pa.array([20, 20, 50], pa.int32()),
            "removed": [True, False, False],
        },
        schema=HITS,
    )
    files.write_parquet(contamination, table)
    tables = report.Tables(
        dropped={"quality": [quality], "duplicates": [duplicates]},
        attributes=[attributes],
        rejects=[rejects],
        contamination=contamination,
        documents={"books-part": books},
    )
    url = files.join(folder, "v0002", "report.html")
    limits = {"q_words": [("min", 5), ("max", 1e6)], "q_control_fraction": [("max", 0.05)]}
    return manifest, contents, tables, url, limits


@pytest.fixture
def page(tmp_path):
    arguments = make_version(str(tmp_path), np.random.default_rng(1))
    report.write_report(*arguments)
    return files.read_bytes(arguments[3]).decode()


class Elements(HTMLParser):
    """Collects the tags of a page and every address that it refers to."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.addresses.append(value)
            self.addresses += re.findall(r"url\(([^)]*)\)", value or "")


def test_the_report_is_one_small_file_that_needs_no_network(page):
    elements = Elements()
    elements.feed(page)
    assert len(page) < 5_000_000
    assert not {"script", "link", "img", "iframe", "object"} & set(elements.tags)
    assert elements.addresses
    assert all(address.startswith("#") for address in elements.addresses)
    assert "@import" not in page
    assert elements.tags.count("svg") == 7


def test_thousands_of_sources_and_long_samples_stay_below_five_megabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCES", [f"source-{n:04}-of-a-crawl" for n in range(120)])
    manifest, contents, tables, *arguments = make_version(str(tmp_path), np.random.default_rng(5))
    reject = files.read_parquet(tables.rejects[0]).to_pylist()[0]
    many = [
        {**reject, "source": source, "reason": f"reason_{number}", "sample": "𝔘<" * 2000}
        for source in SOURCES
        for number in range(8)
    ]
    files.write_parquet(tables.rejects[0], pa.Table.from_pylist(many))
    monkeypatch.setattr(sys.modules[__name__], "SOURCES", [f"source-{n:04}-of-a-crawl" for n in range(4000)])
    ledger = make_ledger(None)
    for source in SOURCES:
        for number in range(20):
            ledger.sources[source]["quality"].drop(f"gopher_quality.reason_{number}", 10, 100)
    first = manifest.sources["source-0000-of-a-crawl"]
    shard, item = contents.shards[0], contents.inputs[0]
    manifest = manifest.model_copy(
        update={
            "ledger": ledger.to_json(),
            "sources": dict.fromkeys(SOURCES, first),
            "languages": {source: {"en": 3, "de": 2, "fr": 1} for source in SOURCES},
            "redacted": {source: {"email": 3, "phone": 2} for source in SOURCES},
            "shard_count": 5000 + len(contents.shards),
            "input_count": 5000 + len(contents.inputs),
        }
    )
    contents = Contents(
        shards=[
            *contents.shards,
            *(shard.model_copy(update={"path": f"v0002/{'x' * 60}{n}"}) for n in range(5000)),
        ],
        inputs=[
            *contents.inputs,
            *(item.model_copy(update={"file": f"s3://bucket/{'y' * 90}{n}"}) for n in range(5000)),
        ],
    )
    report.write_report(manifest, contents, tables, *arguments)
    page = files.read_bytes(arguments[0])
    assert len(page) < 5_000_000
    assert page.count(b"source-3999-of-a-crawl") > 3
    # What the tables do not show they sum: here of the funnel and the documents dropped while reading.
    others = range(1, 3801)
    assert page.count(b"and 3,800 more") > 20
    assert (
        f'<th>and 3,800 more</th>\n<td class="number"><span title="{120_345 * sum(others):,}">'.encode()
        in page
    )
    lost = sum(120_345 * number // 12 for number in others)
    cells = '<td><code class="whole">broken_json</code></td><td class="number">'
    assert f"<td>and 3,800 more</td>{cells}{lost:,}<".encode() in page


def test_hostile_text_is_escaped_and_shortened(page):
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "test &lt;b&gt;corpus&lt;/b&gt;" in page
    assert "<img" not in page
    assert " x" * 200 not in page


def test_numbers_names_and_examples_are_there(page):
    documents = 120_345 * 6
    for text in (
        f"{documents:,}",
        f"{120_345 // 12:,}",
        "c0ffee" * 5,
        "broken_json",
        "near_duplicate",
        "/data/books.jsonl.zst, record 100 · measured 3",
        "/data/books.jsonl.zst, record 2",
        "words  (≥ 5, ≤ 1,000,000)",
        "control fraction  (≤ 0.05)",
        "language score",
        '<span class="tag">fuzzy dedup</span>',
        "v0002/shards/code/train-00000.arrow",
        "min_words: 5",
        "50,277",
        "-1,234",
        "3,000 documents",
        "Sample 2 of email@example.com",
        "<code>de</code>",
        ">50 %<",
        "12.50 %",
        "books: /data/books.jsonl.zst, document 0",
        "4,321",
        "6,543",
    ):
        assert text in page, text
    assert "a.person" not in page
    assert page.count("measured 3<") == examples.EXAMPLES


def test_examples_show_no_personal_data_that_the_corpus_keeps(tmp_path):
    manifest, *arguments = make_version(str(tmp_path), np.random.default_rng(1), documents=100)
    config = {**manifest.config, "redact": {"email": None}}
    report.write_report(manifest.model_copy(update={"config": config}), *arguments)
    page = files.read_bytes(arguments[2]).decode()
    assert "Sample 2 of email@example.com" in page
    assert "a.person" not in page


def test_a_source_with_many_rejects_leaves_room_for_the_examples_of_others(tmp_path, monkeypatch):
    manifest, contents, tables, *arguments = make_version(
        str(tmp_path), np.random.default_rng(1), documents=100
    )
    rejects = files.read_parquet(tables.rejects[0]).to_pylist()
    many = [{**rejects[0], "source": f"s{number}", "sample": f"SAMPLE {number}"} for number in range(20)]
    files.write_parquet(tables.rejects[0], pa.Table.from_pylist(many))
    monkeypatch.setattr(examples, "MAX_GROUPS", 9)
    report.write_report(manifest, contents, tables, *arguments)
    page = files.read_bytes(arguments[0]).decode()
    assert page.count("<article>") == 9
    for reason in ("too_short", "exact_duplicate", "near_duplicate", "broken_json"):
        assert f"</span> <code>{reason}</code>" in page
    assert "SAMPLE 0<" in page


def test_blank_samples_take_no_room(tmp_path):
    manifest, contents, tables, *arguments = make_version(
        str(tmp_path), np.random.default_rng(1), documents=10
    )
    row = {**files.read_parquet(tables.rejects[0]).to_pylist()[0], "reason": "empty_text", "sample": " \n "}
    files.write_parquet(tables.rejects[0], pa.Table.from_pylist([row]))
    report.write_report(manifest, contents, tables, *arguments)
    page = files.read_bytes(arguments[0]).decode()
    assert '<span class="tag">normalising</span> <code>empty_text</code>' in page
    assert "<pre> \n </pre>" not in page


def test_equal_inputs_give_equal_bytes(tmp_path):
    arguments = make_version(str(tmp_path), np.random.default_rng(2), documents=500)
    report.write_report(*arguments)
    once = files.read_bytes(arguments[3])
    report.write_report(*arguments)
    assert files.read_bytes(arguments[3]) == once


def test_a_corpus_with_nothing_in_it_still_gives_a_report(tmp_path):
    manifest, _, _, url, _ = make_version(str(tmp_path), np.random.default_rng(3), documents=10)
    nothing: dict[str, Any] = {
        "shard_count": 0,
        "sources": {},
        "input_count": 0,
        "ledger": {},
        "parent": None,
    }
    empty = files.join(str(tmp_path), "empty.parquet")
    files.write_parquet(empty, pa.table({}))
    tables = report.Tables(
        dropped={"quality": [empty]}, attributes=[], rejects=[empty], contamination=None, documents={}
    )
    nothing_held = Contents(shards=[], inputs=[])
    report.write_report(manifest.model_copy(update=nothing), nothing_held, tables, url)
    assert "Nothing was dropped" in files.read_bytes(url).decode()


def test_sampling_takes_rows_at_even_distances_and_bounds_clusters(tmp_path, monkeypatch):
    arguments = make_version(str(tmp_path), np.random.default_rng(4))
    monkeypatch.setattr(parquet, "SAMPLE_ROWS", 1000)
    monkeypatch.setattr(clusters, "CLUSTER_ROWS", 1000)
    report.write_report(*arguments)
    page = files.read_bytes(arguments[3]).decode()
    assert "1,000 documents were looked at" in page
    assert "one cluster in 3" in page


def test_tables_are_read_until_every_example_is_found(tmp_path, monkeypatch):
    manifest, contents, tables, *arguments = make_version(str(tmp_path), np.random.default_rng(6))
    (url,) = tables.dropped["duplicates"]
    files.write_parquet(url, files.read_parquet(url), row_group_size=100)
    groups: list[int] = []
    by_reason = parquet.by_reason

    def counted(rows):
        groups.append(len(rows))
        return by_reason(rows)

    monkeypatch.setattr(parquet, "by_reason", counted)
    report.write_report(manifest, contents, tables, *arguments)
    assert 1 <= groups.count(100) < 5
