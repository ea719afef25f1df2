"""Token runs and shards: every document once, in an order that depends on nothing but ids and seed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from base import files
from base.claims import ClaimsConfig, held
from base.contents import WrittenShard
from base.layout import Layout
from base.manifest import TokenizerFacts
from dedup import hashing
from dedup.config import LinesConfig
from pipelines.corpus.ledger import Ledger
from pipelines.corpus.settings import ShardConfig
from pipelines.corpus.stages import tokenize
from pipelines.corpus.stages.edit import Edits
from pipelines.corpus.stages.order import SPLITS, is_heldout, shuffle_keys
from pipelines.corpus.stages.shards import WriteShards
from pipelines.corpus.stages.survivors import Survivors
from pipelines.corpus.stages.tokenize import TokenCounts, Tokenized, TokenizePart, tokenize_part
from pipelines.corpus.stages.vocabulary import SamplePart, Vocabulary, sample_texts
from pipelines.corpus.text import tokenizer as tokenizers
from pipelines.corpus.text.settings import DecontaminateConfig, RedactConfig
from pipelines.corpus.text.tokenizer import Tokenizer, train
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent

TEXTS = [f"Document {number} says {'very ' * (number % 7)}little.\n" for number in range(60)]
END = "<|endoftext|>"
NOTHING = RedactConfig(email=None, ipv4=None, ipv6=None, phone=None, secret=None)
NO_EDITS = Edits(
    remove_spans=False,
    lines=LinesConfig(),
    line_keys=(),
    decontaminate=DecontaminateConfig(),
    benchmarks=None,
    redact=NOTHING,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")
    files.write_bytes(url, train(TEXTS, 300, END))
    return url


def build(
    folder: Path,
    tokenizer: str,
    divisions: list[int],
    target_tokens: int = 100,
    dropped: dict[int, list[int]] | None = None,
    key: str = "one",
    ordinal: int = 0,
) -> tuple[list[WrittenShard], Path]:
    """Shards of TEXTS as two sources, divided into parts at the given document numbers.

    Each is a document's copy number `ordinal`.
    """
    ids = hashing.hash128(pa.array(TEXTS, pa.large_string()))
    counts, tasks = [], []
    bounds = [0, *divisions, len(TEXTS)]
    for number, (start, stop) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        part = f"{number:016x}"
        documents = str(folder / f"{part}.documents")
        table = pa.table(
            {
                "document_id": ids.slice(start, stop - start),
                "record": pa.array(range(start, stop), pa.int64()),
                "text": pa.array(TEXTS[start:stop], pa.large_string()),
            }
        )
        with files.atomic_writer(documents) as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
        attributes = str(folder / f"{part}.attributes")
        files.write_parquet(attributes, table.select(["document_id"]))
        entries = str(folder / f"{part}.entries")
        files.write_parquet(
            entries,
            pa.table(
                {
                    "document_id": hashing.add_ordinals(table["document_id"], np.full(stop - start, ordinal)),
                    "row": pa.array(range(stop - start), pa.uint32()),
                    "source": ["even" if place % 2 == 0 else "odd" for place in range(start, stop)],
                    "length": pa.array([len(text) for text in TEXTS[start:stop]], pa.int64()),
                }
            ),
        )
        gone = str(folder / f"{part}.dropped")
        rows = (dropped or {}).get(number, [])
        files.write_parquet(gone, pa.table({"part": [part] * len(rows), "row": pa.array(rows, pa.uint32())}))
        survivors = survivors_of(part, f"file-{number}", documents, entries, gone)
        task = TokenizePart(
            survivors=survivors,
            attributes=attributes,
            tokenizer=tokenizer,
            end_of_document=END,
            special_tokens="text",
            seed=1,
            heldout_fraction=0.2,
            folder=str(folder / "runs"),
            key=key,
        )
        tasks.append(task)
        counts.append(TokenCounts.from_json(tokenize_part(task), "counts"))
    with held(str(folder), "shards", ClaimsConfig()) as claim:
        stage = WriteShards(
            layout=Layout(str(folder)),
            tokenized=Tokenized(key=key, tasks=tuple(tasks), counts=tuple(counts), ledger=Ledger()),
            vocabulary=Vocabulary(
                url=tokenizer, facts=TokenizerFacts(file="tokenizer.json", **tokenizers.facts(tokenizer, END))
            ),
            settings=ShardConfig(target_tokens=1024).model_copy(update={"target_tokens": target_tokens}),
            verify_documents=3,
            folder=str(folder / "v0001"),
            claim=claim,
            facts=str(folder / "facts" / key),
        )
        return stage.run(InProcess(), silent), folder / "v0001"


def survivors_of(part: str, file: str, documents: str, entries: str, dropped: str | None) -> Survivors:
    return Survivors(
        part=part,
        file=file,
        documents=documents,
        entries=entries,
        dropped=dropped,
        spans=None,
        edits=NO_EDITS,
    )


def contents(version: Path, shards: list[WrittenShard]) -> dict[str, bytes]:
    return {shard.path: (version / shard.path).read_bytes() for shard in shards}


def test_every_document_once_with_its_ids_and_origin(tmp_path: Path, tokenizer: str) -> None:
    shards, version = build(tmp_path, tokenizer, [25, 40])
    reference = Tokenizer.load(tokenizer, END)
    seen = {}
    for shard in shards:
        table = pa.ipc.open_file(pa.memory_map(str(version / shard.path))).read_all()
        assert table.num_rows == shard.documents
        assert shard.split in SPLITS
        origins = files.read_parquet(
            str(version / shard.path.replace("shards", "origins").replace(".arrow", ".parquet"))
        )
        assert origins["document_id"].to_pylist() == table["document_id"].to_pylist()
        for row, origin in zip(table.to_pylist(), origins.to_pylist(), strict=True):
            text = TEXTS[origin["record"]]
            assert row["input_ids"] == [*reference.encode_reference([text])[0], reference.end_of_document_id]
            assert origin["bytes"] == len(text)
            assert shard.source == ("even" if origin["record"] % 2 == 0 else "odd")
            seen[origin["record"]] = shard.split
    assert sorted(seen) == list(range(len(TEXTS)))
    assert 3 <= sum(split == "heldout" for split in seen.values()) <= 25
    assert sum(shard.tokens for shard in shards if shard.split == "train") > 400
    assert len([shard for shard in shards if shard.split == "train"]) > 2


def test_identical_documents_are_all_trained_on_or_all_held_out(tmp_path: Path, tokenizer: str) -> None:
    splits = []
    for ordinal in (0, 1):
        shards, version = build(tmp_path / str(ordinal), tokenizer, [25], ordinal=ordinal)
        found: dict[str, set[int]] = {split: set() for split in SPLITS}
        for shard in shards:
            origins = shard.path.replace("shards", "origins").replace(".arrow", ".parquet")
            found[shard.split].update(files.read_parquet(str(version / origins))["record"].to_pylist())
        splits.append(found)
    assert splits[0] == splits[1] and splits[0]["heldout"]


@pytest.mark.parametrize("divisions", [[], [1, 59], [30], [10, 20, 30, 40, 50]])
def test_shards_are_the_same_however_the_files_are_divided(
    tmp_path: Path, tokenizer: str, divisions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = contents(tmp_path / "a" / "v0001", build(tmp_path / "a", tokenizer, [25, 40])[0])
    monkeypatch.setattr(tokenize, "RUN_TOKENS", 150)
    assert contents(tmp_path / "b" / "v0001", build(tmp_path / "b", tokenizer, divisions)[0]) == expected


def test_there_are_no_more_shards_than_documents(tmp_path: Path, tokenizer: str) -> None:
    shards, _ = build(tmp_path, tokenizer, [25], target_tokens=1)
    groups = [(shard.source, shard.split) for shard in shards]
    for group in set(groups):
        mine = [shard.documents for shard in shards if (shard.source, shard.split) == group]
        assert len(mine) == sum(mine)
    assert sum(shard.documents for shard in shards) == len(TEXTS)


def test_dropped_documents_are_left_out(tmp_path: Path, tokenizer: str) -> None:
    shards, _ = build(tmp_path, tokenizer, [25], dropped={0: [0, 24], 1: [3]})
    assert sum(shard.documents for shard in shards) == len(TEXTS) - 3


@pytest.mark.parametrize("run_tokens", [150, 2**26])
def test_other_survivors_take_the_tokens_that_are_there(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch, run_tokens: int
) -> None:
    monkeypatch.setattr(tokenize, "RUN_TOKENS", run_tokens)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    build(tmp_path / "a", tokenizer, [25], dropped={0: [0, 5, 24], 1: list(range(35))}, key="first")
    build(tmp_path / "a", tokenizer, [25], dropped={0: [3]}, key="second")
    encoded: list[int] = []
    encode = Tokenizer.encode

    def count(self: Tokenizer, text: Any, end: bool = True) -> pa.LargeListArray:
        encoded.append(len(text))
        return encode(self, text, end)

    monkeypatch.setattr(Tokenizer, "encode", count)
    shards, version = build(tmp_path / "a", tokenizer, [25], dropped={0: [5]}, key="third")
    assert sum(encoded) == 0
    found = contents(version, shards)
    shutil.rmtree(tmp_path / "a" / "runs" / "second")
    build(tmp_path / "a", tokenizer, [25], dropped={1: [5]}, key="fourth")
    assert sum(encoded) == 1
    expected = build(tmp_path / "b", tokenizer, [25], dropped={0: [5]})
    assert found == contents(expected[1], expected[0])


def test_datasets_opens_the_shards(tmp_path: Path, tokenizer: str) -> None:
    from datasets import load_dataset

    shards, version = build(tmp_path, tokenizer, [])
    paths = [str(version / shard.path) for shard in shards if shard.split == "train"]
    dataset = load_dataset("arrow", data_files=paths, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(dataset) == sum(shard.documents for shard in shards if shard.split == "train")
    assert dataset[0]["input_ids"][-1] == Tokenizer.load(tokenizer, END).end_of_document_id


def test_a_damaged_shard_is_written_again_and_a_whole_one_is_not(tmp_path: Path, tokenizer: str) -> None:
    shards, version = build(tmp_path, tokenizer, [])
    path = version / shards[0].path
    whole, untouched = path.read_bytes(), version / shards[1].path
    stamp = untouched.stat().st_mtime_ns
    path.write_bytes(whole[:-9] + b"?" + whole[-8:])
    again, _ = build(tmp_path, tokenizer, [])
    assert again == shards
    assert path.read_bytes() == whole
    assert untouched.stat().st_mtime_ns == stamp


def test_wrong_ids_stop_the_build(tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Tokenizer.encode

    def wrong(self: Tokenizer, text: Any, end: bool = True) -> pa.LargeListArray:
        ids = encode(self, text, end)
        values = ids.values.to_numpy().copy()
        values[::5] ^= 1
        return pa.LargeListArray.from_arrays(ids.offsets, pa.array(values))

    monkeypatch.setattr(Tokenizer, "encode", wrong)
    with pytest.raises(Exception, match="differ"):
        build(tmp_path, tokenizer, [])


@pytest.mark.parametrize(("share", "low", "high"), [(1.0, 60, 60), (0.5, 15, 45), (0.0, 0, 0)])
def test_a_share_of_the_texts_is_sampled(
    tmp_path: Path, tokenizer: str, share: float, low: int, high: int
) -> None:
    build(tmp_path, tokenizer, [])
    part = f"{0:016x}"
    documents, entries = str(tmp_path / f"{part}.documents"), str(tmp_path / f"{part}.entries")
    survivors = survivors_of(part, "file", documents, entries, None)
    task = SamplePart(survivors=survivors, share=share, output=str(tmp_path / "sample.parquet"))
    sample = files.read_parquet(sample_texts(task))
    assert low <= sample.num_rows <= high
    assert set(sample["text"].to_pylist()) <= set(TEXTS)


def test_keys_and_split_depend_on_the_seed_and_fraction() -> None:
    ids = hashing.hash128(pa.array([str(number) for number in range(4000)], pa.large_string()))
    one, two = shuffle_keys(ids, 1), shuffle_keys(ids, 2)
    assert not np.array_equal(np.argsort(one), np.argsort(two))
    assert abs(is_heldout(ids, 0.25).mean() - 0.25) < 0.04
    assert not is_heldout(ids, 0.0).any()
    assert np.all(is_heldout(ids, 0.5)[is_heldout(ids, 0.25)])
