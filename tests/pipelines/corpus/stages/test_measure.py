"""What measuring a part leaves on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base.layout import Layout
from dedup.config import MinHashConfig
from pipelines.corpus.inputs import Input
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.settings import RejectsConfig
from pipelines.corpus.stages.measure import MeasurePart, PartCounts, measure_part
from pipelines.corpus.text.settings import LanguageConfig

SECRET = "AKIA" + "IOSFODNN7ABCDEFG"
BROKEN = [
    '{"text": "write to jane.roe@acme-corp.com" BROKEN',
    json.dumps({"text": None, "author": "jane.roe@acme-corp.com, +1 202-456-1111", "key": SECRET}),
    "x" * 385 + " jane.roe@acme-corp.com is where the sample ends",
    json.dumps({"text": 7, "ip": "93.184.216.34"}),
    '{"text": " \\u0000 "}',
    r'{"text": "jane.roe\u0040acme-corp.com\n202-456-1111\t93.184.216.34 C:\\new" BROKEN',
]


def measure(folder: Path, lines: list[str], rejects: RejectsConfig) -> MeasurePart:
    path = folder / "a.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    task = MeasurePart(
        layout=Layout(str(folder)),
        key="key",
        input=Input(
            source="s", file=str(path), start=0, bytes=path.stat().st_size, digest="digest", part="part"
        ),
        source=SourceConfig(name="s", urls=[str(path)]),
        ingest=IngestConfig(),
        language=LanguageConfig(),
        minhash=MinHashConfig(),
        rejects=rejects,
        filters=[],
    )
    measure_part(task)
    return task


def test_samples_of_rejects_show_no_personal_data(tmp_path: Path) -> None:
    task = measure(tmp_path, [*BROKEN, '{"text": "good"}'], RejectsConfig())
    rows = pq.read_table(task.url("rejects", "parquet")).to_pylist()
    samples = {row["record"]: row["sample"] for row in rows}
    assert samples[0] == '{"text": "write to email@example.com" BROKEN'
    assert samples[2] == "x" * 385 + " email@example."
    assert samples[5] == r'{"text": "email@example.com (202) 555-0100 192.0.2.1 C:\new" BROKEN'
    assert sorted(samples) == [0, 1, 2, 3, 4, 5]
    for text in ("jane", "acme", "1111", SECRET, "93.184"):
        assert not any(text in sample for sample in samples.values())
        assert text.encode() not in Path(task.url("rejects", "parquet")).read_bytes()


def test_some_rejects_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    task = measure(tmp_path, BROKEN[:1] * 50, RejectsConfig(keep_rejects=3, reject_sample_characters=9))
    rows = pq.read_table(task.url("rejects", "parquet")).to_pylist()
    assert [(row["record"], row["sample"]) for row in rows] == [(n, '{"text": ') for n in range(3)]
    counts = json.loads(Path(task.url("parts", "json")).read_text())
    stage = Ledger.from_json(counts["ledger"]).sources["s"]["read"]
    assert stage.dropped["invalid_json"]["documents"] == 50


def test_a_file_without_documents_leaves_tables_like_any_other(tmp_path: Path) -> None:
    some = measure(tmp_path, [json.dumps({"text": "Some words of a text."})], RejectsConfig())
    (tmp_path / "none").mkdir()
    none = measure(tmp_path / "none", ["{broken"], RejectsConfig())
    tables = [pq.read_table(task.url("attributes", "parquet")) for task in (some, none)]
    assert [table.num_rows for table in tables] == [1, 0]
    assert tables[0].schema.equals(tables[1].schema)
    with pa.memory_map(none.url("documents", "arrow")) as file:
        assert pa.ipc.open_file(file).read_all().num_rows == 0
    assert pq.read_table(none.url("rejects", "parquet")).num_rows == 1


Entries = dict[str, list[dict[str, object]]]


@pytest.mark.parametrize(
    "change",
    [
        lambda ledger: {"other": ledger["s"]},
        lambda ledger: {"s": ledger["s"][1:]},
        lambda ledger: {"s": []},
        lambda ledger: {"s": [ledger["s"][0] | {"dropped": {"reason": {"bytes": 1}}}]},
        lambda ledger: {"s": [ledger["s"][0] | {"documents_in": "1"}]},
        lambda ledger: {"s": [ledger["s"][0] | {"bytes_in": 2**64}, *ledger["s"][1:]]},
    ],
)
def test_counts_that_cannot_be_of_the_part_are_made_again(
    tmp_path: Path, change: Callable[[Entries], Entries]
) -> None:
    task = measure(tmp_path, [json.dumps({"text": "Some words of a text."})], RejectsConfig())
    right = PartCounts.read(task.url("parts", "json"))
    PartCounts.model_construct(**{**dict(right), "ledger": change(right.ledger)}).write(
        task.url("parts", "json")
    )
    assert measure_part(task) == right.to_json()
    assert PartCounts.read(task.url("parts", "json")) == right
