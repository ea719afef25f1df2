import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import s3fs  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import StorageError, UserError
from model.corpus import Corpus
from model.loader import Loader
from model.shard_cache import ShardCache
from tests.helpers import stores
from tests.helpers.corpus import write_corpus

SOURCES = {"alpha": [[40, 3, 70], [1, 90], [25]], "beta": [[200, 31]], "gamma": [[17, 64, 64]]}


def _stream(corpus: Corpus, source: str) -> np.ndarray:
    return np.concatenate([corpus.shard(number).tokens for number in corpus.shard_numbers(source, "train")])


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_samples_are_windows_of_one_source_and_an_epoch_covers_it(tmp_path: Path, dtype: str) -> None:
    corpus = Corpus.open(write_corpus(tmp_path, SOURCES, dtype=dtype))
    loader = Loader(corpus, 16, seed=3)
    assert loader.weights == pytest.approx({"alpha": 14 / 37, "beta": 14 / 37, "gamma": 9 / 37}, abs=1e-9)
    source, window = loader.locate(np.arange(200, dtype=np.int64))
    rows = loader.tokens(np.arange(200, dtype=np.int64))
    for number in range(200):
        stream = _stream(corpus, loader.names[source[number]])
        start = window[number] * 16
        assert np.array_equal(rows[number], stream[start : start + 17])


def test_order_is_a_function_of_the_sample_number_alone(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, SOURCES)
    loader = Loader(Corpus.open(url), 16, seed=3, global_batch_size=8)
    whole = loader.tokens(np.arange(64, dtype=np.int64))
    for world in (1, 2, 4, 8):
        for first in (0, 8, 56):
            fresh = Loader(Corpus.open(url), 16, seed=3, global_batch_size=8)
            ranks = [fresh.batch(first, 8, rank=rank, world=world) for rank in range(world)]
            assert np.array_equal(np.concatenate(ranks), whole[first : first + 8])
    assert np.array_equal(loader.sample(41), whole[41])
    assert not np.array_equal(Loader(Corpus.open(url), 16, seed=4).tokens(np.arange(64)), whole)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_trace_names_the_documents_of_every_token(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    lengths = data.draw(
        st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=5)
    )
    lengths[0].append(60)
    length = data.draw(st.integers(4, 24))
    corpus = Corpus.open(write_corpus(tmp_path_factory.mktemp("trace"), {"only": lengths}))
    loader = Loader(corpus, length, seed=1)
    documents = {}
    for number in corpus.shard_numbers("only", "train"):
        shard = corpus.shard(number)
        for row in range(len(shard.offsets) - 1):
            key = (corpus.shards[number].path, row)
            identifier = shard.table.column("document_id")[row].as_py()
            documents[key] = (identifier, shard.tokens[shard.offsets[row] : shard.offsets[row + 1]])
    for number in range(int(loader.windows[0])):
        position = 0
        pieces = []
        for span in loader.trace(number):
            identifier, tokens = documents[(span.shard, span.row)]
            assert span.document_id == identifier and span.position == position and span.source == "only"
            pieces.append(tokens[span.first : span.stop])
            position += span.stop - span.first
        assert np.array_equal(np.concatenate(pieces), loader.sample(number))


def test_weights_change_shares_and_zero_leaves_out(tmp_path: Path) -> None:
    corpus = Corpus.open(write_corpus(tmp_path, SOURCES))
    loader = Loader(corpus, 16, seed=0, weights={"alpha": 3, "beta": 1, "gamma": 0})
    source, _ = loader.locate(np.arange(400, dtype=np.int64))
    assert loader.names == ["alpha", "beta"]
    assert int((source == 0).sum()) == 300
    refused: list[tuple[dict[str, float], str]] = [
        ({"alpha": 1, "delta": 1, "beta": 1, "gamma": 1}, "mixture.delta: there is no such source"),
        ({"alpha": 1, "beta": 1}, "mixture has no weight for source gamma"),
        ({"alpha": -1, "beta": 1, "gamma": 1}, "mixture.alpha = -1"),
    ]
    for weights, message in refused:
        with pytest.raises(UserError, match=message):
            Loader(corpus, 16, seed=0, weights=weights)


def test_bad_corpora_are_named(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, SOURCES)
    corpus = Corpus.open(url)
    with pytest.raises(UserError, match="fewer than one batch of 512"):
        Loader(corpus, 16, seed=0, global_batch_size=512)
    with pytest.raises(UserError, match="vocabulary of 128 tokens, the model only 100"):
        Loader(corpus, 16, seed=0, vocab_size=100)
    with pytest.raises(UserError, match="nowhere/manifest.json is not a corpus version"):
        Corpus.open(str(tmp_path / "nowhere" / "manifest.json"))
    shard = tmp_path / "corpus" / "versions" / corpus.shards[0].path
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="alpha/train-00000.arrow is damaged"):
        Loader(Corpus.open(url), 16, seed=0).tokens(np.arange(100))
    shard.unlink()
    with pytest.raises(UserError, match="alpha/train-00000.arrow of manifest .* does not exist"):
        Loader(Corpus.open(url), 16, seed=0).tokens(np.arange(100))


def _damage(url: str, corpus: Corpus, numbers: list[int]) -> None:
    """Give the first shard a token outside the vocabulary, cut the others short."""
    for number in numbers:
        shard = Path(url).parents[1] / corpus.shards[number].path
        tokens = corpus.shard(number).tokens.tobytes()
        content = bytearray(shard.read_bytes())
        shard.unlink()  # others have it mapped
        if number == numbers[0]:
            place = bytes(content).index(tokens)
            content[place + 20 : place + 22] = b"\xff\xff"
            shard.write_bytes(content)
        else:
            shard.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("verify", [False, True])
def test_damaged_shards_stop_or_are_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, verify: bool
) -> None:
    url = write_corpus(tmp_path, {"a": [[60] * 4] * 5, "b": [[200, 31]]})
    whole = Loader(Corpus.open(url), 16, seed=3)
    before, samples = whole.tokens(np.arange(400)), np.arange(400)
    _damage(url, whole.corpus, [1, 3])
    message = (
        "digest" if verify else "tokens outside the vocabulary of 128|File is too small|Not an Arrow file"
    )
    with pytest.raises(UserError, match=rf"train-0000[13].arrow is damaged: .*({message})"):
        Loader(Corpus.open(url, verify=verify), 16, seed=3).tokens(samples)
    loader = Loader(Corpus.open(url, verify=verify), 16, seed=3, skip_damaged=True)
    after = loader.tokens(samples)
    assert caplog.text.count("its samples are replaced") == 2
    sources, windows = whole.locate(samples)
    touched = 0
    for sample in samples.tolist():
        spans = whole.trace(sample)
        if any(span.shard.endswith(("a/train-00001.arrow", "a/train-00003.arrow")) for span in spans):
            touched += 1
            found = loader.trace(sample)
            assert all(
                span.source == "a" and span.shard[-11:-6] in ("00000", "00002", "00004") for span in found
            )
        else:
            assert np.array_equal(before[sample], after[sample])
    assert 50 < touched < 200
    assert after.max() < 128
    # Whatever is read first, and by however many workers, the samples are the same.
    for sample in (399, 17, 200):
        fresh = Loader(Corpus.open(url, verify=verify), 16, seed=3, skip_damaged=True)
        assert np.array_equal(fresh.sample(sample), after[sample])
    expected: dict[tuple[str, int], list[int]] = {}
    for sample in samples.tolist():
        for span in loader.trace(sample):
            expected.setdefault((span.shard, span.row), []).append(sample)
    paths = [entry.path for entry in whole.corpus.shards]
    for (path, row), seen in expected.items():
        fresh = Loader(Corpus.open(url, verify=verify), 16, seed=3, skip_damaged=True)
        assert fresh.samples_of(paths.index(path), row, 400) == sorted(set(seen))


def test_samples_of_a_damaged_corpus_are_the_same_for_any_workers_start_and_order(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, {"a": [[50] * 20] * 3})
    _damage(url, Corpus.open(url), [1])  # one token, which few windows hold

    def fresh() -> Loader:
        return Loader(Corpus.open(url), 16, seed=1, skip_damaged=True)

    one, two = fresh(), [fresh(), fresh()]
    steps = range(0, int(one.windows.sum()), 4)
    expected = np.concatenate([one.batch(step, 4) for step in steps])
    shared = [two[rank].batch(step, 4, rank=rank, world=2) for step in steps for rank in range(2)]
    assert np.array_equal(np.concatenate(shared), expected)
    resumed = fresh()
    middle = steps[len(steps) // 2]
    rest = np.concatenate([resumed.batch(step, 4) for step in steps if step >= middle])
    assert np.array_equal(rest, expected[middle:])
    traced = fresh()
    for sample in reversed(range(len(expected))):
        pieces = []
        for span in traced.trace(sample):
            assert "train-00001" not in span.shard
            (number,) = [n for n, entry in enumerate(traced.corpus.shards) if entry.path == span.shard]
            shard = traced.corpus.shard(number)
            pieces.append(shard.tokens[shard.offsets[span.row] :][span.first : span.stop])
        assert np.array_equal(np.concatenate(pieces), expected[sample])


def test_a_source_that_is_too_short_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = Corpus.open(write_corpus(tmp_path, {"a": [[100]], "tiny": [[9]]}, heldout=0))
    assert Loader(corpus, 16, seed=3).names == ["a"]
    assert "source tiny of" in caplog.text and "its 9 tokens are fewer than the 17" in caplog.text
    with pytest.raises(UserError, match="mixture.tiny: the source has fewer than 17 tokens"):
        Loader(corpus, 16, seed=3, weights={"a": 1, "tiny": 1})


def test_a_source_that_is_all_damaged_is_named(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, {"a": [[200]], "b": [[200, 31]]})
    corpus = Corpus.open(url)
    _damage(url, corpus, [0])
    with pytest.raises(UserError, match="source a of .*most of it is damaged"):
        Loader(Corpus.open(url), 16, seed=3, skip_damaged=True).tokens(np.arange(40))


def test_heldout_documents_in_shard_order(tmp_path: Path) -> None:
    corpus = Corpus.open(write_corpus(tmp_path, SOURCES, heldout=3))
    every = corpus.heldout("alpha")
    assert np.diff(every.offsets).tolist() == [40, 3, 70] and len(every.document_ids) == 3
    some = corpus.heldout("alpha", max_documents=2)
    assert some.document_ids == every.document_ids[:2]
    assert np.array_equal(some.input_ids, every.input_ids[:43])
    for tokens, documents in ((1, 1), (40, 1), (41, 2), (43, 2), (44, 3), (999, 3)):
        assert corpus.heldout("alpha", max_tokens=tokens).document_ids == every.document_ids[:documents]
    assert len(corpus.heldout("unknown").input_ids) == 0


def _rewrite(manifest: str, number: int, **changes: Any) -> None:
    """Change what a manifest says of a shard."""
    content = json.loads(Path(manifest).read_text())
    content["shards"][number] |= changes
    Path(manifest).write_text(json.dumps(content))


def test_heldout_documents_of_several_shards(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, {"a": [[40, 3]], "b": [[9]]}, heldout=2)
    content = json.loads(Path(url).read_text())
    twin = {**content["shards"][1], "path": content["shards"][1]["path"].replace("00000", "00001")}
    shards = Path(url).parents[1]
    (shards / twin["path"]).write_bytes((shards / content["shards"][1]["path"]).read_bytes())
    Path(url).write_text(json.dumps({**content, "shards": [*content["shards"], twin]}))
    corpus = Corpus.open(url)
    lengths = [40, 3, 40, 3]
    every = corpus.heldout("a")
    assert np.diff(every.offsets).tolist() == lengths and len(every.input_ids) == sum(lengths)
    assert every.document_ids == 2 * every.document_ids[:2]
    for count in range(5):
        some = corpus.heldout("a", max_documents=count)
        assert np.diff(some.offsets).tolist() == lengths[:count]
        assert np.array_equal(some.input_ids, every.input_ids[: sum(lengths[:count])])
    for tokens, count in ((40, 1), (43, 2), (44, 3), (83, 3), (84, 4)):
        assert np.diff(corpus.heldout("a", max_tokens=tokens).offsets).tolist() == lengths[:count]


def test_shards_that_are_not_what_the_manifest_says_are_named(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, {"a": [[40, 3], [70]]})
    samples = np.arange(3)
    before = Path(url).read_text()
    for changes, message in [
        ({"tokens": 44}, "holds 43 uint16 tokens, the manifest says 44 uint16"),
        ({"tokens": 42}, "holds 43 uint16 tokens, the manifest says 42 uint16"),
    ]:
        _rewrite(url, 0, **changes)
        with pytest.raises(UserError, match=f"a/train-00000.arrow is damaged: it {message}"):
            Loader(Corpus.open(url), 16, seed=0).tokens(samples)
    content = json.loads(before)
    content["tokenizer"]["dtype"] = "uint32"
    Path(url).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"holds \d+ uint16 tokens, the manifest says \d+ uint32"):
        Loader(Corpus.open(url), 16, seed=0).tokens(samples)
    content["tokenizer"]["dtype"] = "float64"
    Path(url).write_text(json.dumps(content))
    with pytest.raises(UserError, match="tokenizer.dtype"):
        Corpus.open(url)
    Path(url).write_text(before)
    path = Path(url).parents[1] / content["shards"][0]["path"]
    batch = pa.ipc.open_file(path).get_batch(0)
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)
    with pytest.raises(UserError, match="a/train-00000.arrow is damaged: 2 record batches instead of 1"):
        Loader(Corpus.open(url), 16, seed=0).tokens(samples)
    names = pa.array(["a", "b"])
    for table, message in (
        (pa.table({"input_ids": batch["input_ids"]}), "document_id"),
        (pa.table({"input_ids": batch["input_ids"], "document_id": names}), "its document ids are string"),
    ):
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(UserError, match=f"a/train-00000.arrow is damaged: .*{message}"):
            Loader(Corpus.open(url), 16, seed=0).tokens(samples)


def test_empty_shards_and_sources_are_no_part_of_a_stream(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, {"a": [[40], [], [70]], "none": [[]]}, heldout=0)
    corpus = Corpus.open(url)
    assert corpus.sources() == ["a"] and corpus.sources("heldout") == []
    loader = Loader(corpus, 16, seed=0)
    stream, windows = _stream(corpus, "a"), loader.locate(np.arange(12))[1]
    assert len(stream) == 110 and loader.windows.tolist() == [6]
    rows = loader.tokens(np.arange(12))
    for row, window in zip(rows, windows.tolist(), strict=True):
        assert np.array_equal(row, stream[16 * window : 16 * window + 17])
    with pytest.raises(UserError, match="holds 6 windows of 16 tokens, fewer than one batch of 7"):
        Loader(corpus, 16, seed=0, global_batch_size=7)
    Loader(corpus, 16, seed=0, global_batch_size=6, vocab_size=128)


def test_the_cache_forgets_what_was_read_longest_ago_and_never_gives_other_content(tmp_path: Path) -> None:
    remote = fsspec.filesystem("memory")
    for name in "abcd":
        remote.pipe(f"/lru/{name}", name.encode() * 1000)
    cache = ShardCache(str(tmp_path), 3000)

    def read(name: str, digest: str = "1") -> str:
        return Path(cache.fetch(f"memory://lru/{name}", digest, 1000)).read_text()[:2]

    for moment, name in enumerate("abc"):
        os.utime(cache.fetch(f"memory://lru/{name}", "1", 1000), (moment, moment))
    assert len(os.listdir(tmp_path)) == 3 and read("a") == "aa"
    assert read("d") == "dd"
    remote.rm("/lru/a")
    remote.rm("/lru/c")
    assert read("a") == "aa" and read("c") == "cc"  # b has gone, which was read longest ago
    remote.pipe("/lru/c", b"x" * 1000)
    assert read("c", "2") == "xx" and len(os.listdir(tmp_path)) == 3
    remote.pipe("/lru/large", b"y" * 9000)
    assert read("large") == "yy" and len(os.listdir(tmp_path)) == 1


class Counted:
    """Counts the requests and bytes that cat_ranges gives, and fails some; a file system's own is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: Any, failing: int = 0) -> None:
        self.requests = self.bytes = 0
        self.failing = failing
        ask = kind.cat_ranges

        def counted(filesystem: Any, *args: Any, **options: Any) -> list[Any]:
            found = ask(filesystem, *args, **options)
            self.requests += len(found)
            self.bytes += sum(len(part) for part in found)
            fail, self.failing = min(self.failing, len(found)), max(self.failing - len(found), 0)
            return [*(OSError("connection reset") for _ in range(fail)), *found[fail:]]

        monkeypatch.setattr(kind, "cat_ranges", counted)


def _remote(tmp_path: Path, name: str) -> str:
    fsspec.filesystem("memory").put(str(tmp_path / "corpus"), f"/{name}/corpus", recursive=True)
    return f"memory://{name}/corpus/versions/v0001/manifest.json"


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_windows_of_remote_shards_are_read_by_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    here = write_corpus(tmp_path, {"a": [[30000] * 2, [3, 7000]], "b": [[999] * 50]}, dtype=dtype)
    local = Loader(Corpus.open(here), 1024, seed=3)
    remote = Loader(Corpus.open(_remote(tmp_path, f"ranged-{dtype}")), 1024, seed=3)
    samples = np.arange(int(local.windows.sum()))
    expected, spans = local.tokens(samples), [local.trace(int(sample)) for sample in samples]
    monkeypatch.setattr("model.ranged.PAUSES", (0.0, 0.0))
    counted = Counted(monkeypatch, type(fsspec.filesystem("memory")), failing=2)
    found = np.concatenate([remote.batch(int(first), 4) for first in samples[:-3:4]])
    assert np.array_equal(found, expected[: len(found)])
    trained = len(found) * 1024 * local.corpus.dtype.itemsize
    assert counted.bytes <= 1.2 * trained
    assert counted.requests <= len(found) + 3 + 2 + 3  # heads, failures, windows over two shards
    assert [remote.trace(int(sample)) for sample in samples] == spans
    resumed = Loader(Corpus.open(remote.corpus.manifest_url), 1024, seed=3)
    assert np.array_equal(resumed.batch(40, 8), expected[40:48])
    counted.requests = 0
    remote.tokens(np.repeat(samples[:1], 8))  # what overlaps is read once
    assert counted.requests <= 2


@pytest.mark.slow
def test_windows_on_a_server_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = write_corpus(tmp_path, {"a": [[30000] * 4, [3, 7000]], "b": [[999] * 50]})
    with stores.serving("s3"):
        fsspec.filesystem("s3").put(str(tmp_path / "corpus"), "bucket/corpus", recursive=True)
        remote = Loader(Corpus.open("s3://bucket/corpus/versions/v0001/manifest.json"), 1024, seed=3)
        local = Loader(Corpus.open(here), 1024, seed=3)
        requests: list[tuple[str, str]] = []
        call = s3fs.S3FileSystem._call_s3

        async def counted(store: Any, method: str, *args: Any, **options: Any) -> Any:
            requests.append((method, options.get("Range", "")))
            return await call(store, method, *args, **options)

        monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
        samples = range(0, 120, 8)
        for first in samples:
            assert np.array_equal(remote.batch(first, 8), local.batch(first, 8))
        bounds = [place.removeprefix("bytes=").split("-") for _, place in requests]
        read = sum(int(stop) - int(first) + 1 for first, stop in bounds)
        assert {method for method, _ in requests} == {"get_object"}
        assert read <= 1.2 * 120 * 1024 * 2
        assert len(requests) <= 120 + 3 + 3  # a head of each shard, windows over two shards


def test_a_storage_that_stays_away_and_remote_damage_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path, {"a": [[600] * 4] * 5, "b": [[2000, 310]]})
    url = _remote(tmp_path, "ranged-damage")
    monkeypatch.setattr("model.ranged.PAUSES", (0.0, 0.0))
    with monkeypatch.context() as away:
        Counted(away, type(fsspec.filesystem("memory")), failing=10**6)
        with pytest.raises(StorageError, match=r"train-0000\d.arrow cannot be used .*connection reset"):
            Loader(Corpus.open(url), 64, seed=0).sample(0)
    local = str(tmp_path / "corpus" / "versions" / "v0001" / "manifest.json")
    _damage(local, Corpus.open(local), [1, 3])
    url = _remote(tmp_path, "ranged-damaged")
    samples = np.arange(100)
    for verify in (False, True):
        loaders = [
            Loader(Corpus.open(at, verify=verify), 64, seed=3, skip_damaged=True) for at in (local, url)
        ]
        expected, found = (loader.tokens(samples) for loader in loaders)
        assert np.array_equal(found, expected)
    with pytest.raises(UserError, match=r"train-0000[13].arrow is damaged"):
        Loader(Corpus.open(url, verify=True), 64, seed=3).tokens(samples)
    with pytest.raises(UserError, match=r"train-0000[13].arrow is damaged"):
        Loader(Corpus.open(url), 64, seed=3).tokens(samples)
    fsspec.filesystem("memory").rm("/ranged-damaged/corpus/versions/v0001/shards/b/train-00000.arrow")
    with pytest.raises(UserError, match=r"b/train-00000.arrow does not exist"):
        Loader(Corpus.open(url), 64, seed=3, weights={"a": 0, "b": 1}).tokens(samples)


def test_heldout_documents_of_a_remote_corpus(tmp_path: Path) -> None:
    local = Corpus.open(write_corpus(tmp_path, SOURCES, heldout=3))
    remote = Corpus.open(_remote(tmp_path, "ranged-heldout"))
    for limits in ({}, {"max_documents": 2}, {"max_tokens": 41}):
        here, there = (corpus.heldout("alpha", **limits) for corpus in (local, remote))
        assert here.document_ids == there.document_ids
        assert np.array_equal(here.input_ids, there.input_ids)
        assert np.array_equal(here.offsets, there.offsets)


def test_a_trillion_tokens_start_at_once(tmp_path: Path) -> None:
    path = Path(write_corpus(tmp_path, {"s0": [[20]]}))
    manifest = json.loads(path.read_text())
    entry = {**manifest["shards"][0], "tokens": 2**26}
    manifest["shards"] = [
        {**entry, "path": f"v1/shards/{number:05d}.arrow", "source": f"s{number % 35}"}
        for number in range(15000)
    ]
    path.write_text(json.dumps(manifest))
    begin = time.process_time()
    loader = Loader(Corpus.open(str(path)), 2048, seed=0)
    source, window = loader.locate(np.arange(10**8, 10**8 + 1024, dtype=np.int64))
    assert time.process_time() - begin < 1
    assert len(set(source.tolist())) == 35 and window.max() < loader.windows[0]


def _mapped(folder: Path) -> int:
    """Files below a folder that this process has mapped."""
    return len({line.split()[5] for line in Path("/proc/self/maps").open() if str(folder) in line})


def test_more_shards_than_a_process_may_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = write_corpus(tmp_path, {"a": [[60] * 4] * 40, "b": [[200, 31]] * 3})
    samples = np.arange(200)
    whole = Loader(Corpus.open(url), 16, seed=3)
    expected, spans = whole.tokens(samples), [whole.trace(sample) for sample in range(200)]
    del whole
    monkeypatch.setattr("model.corpus.MOST_OPEN", 4)
    for skip_damaged in (False, True):
        loader, most = Loader(Corpus.open(url), 16, seed=3, skip_damaged=skip_damaged), 0
        for sample in range(200):
            assert np.array_equal(loader.sample(sample), expected[sample])
            assert loader.trace(sample) == spans[sample]
            most = max(most, _mapped(tmp_path))
        assert most <= 4
        assert np.array_equal(loader.tokens(samples), expected)  # all at once
        assert _mapped(tmp_path) <= 4


@pytest.mark.parametrize("skip_damaged", [False, True])
def test_a_limit_of_the_system_is_not_called_damage(tmp_path: Path, skip_damaged: bool) -> None:
    url = write_corpus(tmp_path, SOURCES)
    loader = Loader(Corpus.open(url), 16, seed=3, skip_damaged=skip_damaged)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(UserError, match=r"train-0000\d.arrow cannot be opened: Too many open files"):
            loader.sample(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert np.array_equal(loader.sample(0), Loader(Corpus.open(url), 16, seed=3).sample(0))


def test_gather_speed_from_page_cache(tmp_path: Path) -> None:
    corpus = Corpus.open(write_corpus(tmp_path, {"long": [[2**20] * 2, [2**20]]}))
    loader = Loader(corpus, 2048, seed=0)
    samples = np.arange(1500, dtype=np.int64)
    loader.tokens(samples)
    begin = time.process_time()
    for _ in range(5):
        loader.tokens(samples)
    assert 5 * 1500 * 2048 / (time.process_time() - begin) > 50e6
