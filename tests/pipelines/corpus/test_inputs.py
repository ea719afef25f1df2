"""Which files a build reads, with credentials in their URLs that nothing may show."""

import base64
import json
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fsspec
import pytest
import xxhash
import zstandard
from fsspec.implementations.memory import MemoryFileSystem

from base import files
from base.errors import UserError
from jobs.checks import check
from pipelines.config import Config
from pipelines.corpus.inputs import check_sources, list_inputs
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.versions import commands as prepare
from pipelines.corpus.versions.verify import verify
from pipelines.corpus.views import explain
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent
from tests.helpers import builds
from tests.helpers.builds import refresh, run

TOKENS = ("tok3n-of-monday", "tok3n-of-tuesday")
PASSWORD = "pa55word"
SPLIT = 2**28


class Guarded(SimpleHTTPRequestHandler):
    """Files for those who have the password or a token."""

    def send_head(self):
        """A file, or 403."""
        url = urlsplit(self.path)
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        known = parse_qs(url.query).get("token", [""])[0] in TOKENS
        if not known and base64.b64decode(given) != f"anna:{PASSWORD}".encode():
            self.send_error(403)
            return None
        self.path = url.path
        return super().send_head()

    def send_header(self, name: str, value: str) -> None:
        """A header, but for those that a test leaves out."""
        if name not in self.silent:
            super().send_header(name, value)

    silent: tuple[str, ...] = ()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """host:port of a server of two files that need credentials."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, first in (("a", 0), ("b", 300)):
        lines = [
            json.dumps({"text": f"This is document {number} of some that are read from a server, and so on."})
            for number in range(first, first + 30)
        ]
        lines[3] = "{broken"
        (raw / f"{name}.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(raw))) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def config(storage: Path, server: str, token: str) -> Config:
    urls = [f"http://{server}/a.jsonl.zst?token={token}", f"http://anna:{PASSWORD}@{server}/b.jsonl.zst"]
    return Config.model_validate(
        {
            "name": "test",
            "storage": str(storage),
            "sources": [{"name": "s", "urls": urls}],
            "tokenize": {"vocab_size": 300},
            "ray": {"workers": 2},
        }
    )


def test_a_new_token_makes_no_new_input(tmp_path: Path, server: str) -> None:
    cache = str(tmp_path / "inputs.json")
    monday, tuesday = (list_inputs(config(tmp_path, server, token).sources, cache, SPLIT) for token in TOKENS)
    assert [item.entry for item in monday] == [item.entry for item in tuesday]
    assert [item.file for item in monday] != [item.file for item in tuesday]
    assert [item.name for item in monday] == [
        f"http://***@{server}/b.jsonl.zst",
        f"http://{server}/a.jsonl.zst?token=***",
    ]
    (source,) = config(tmp_path, server, TOKENS[0]).sources
    urls = [*source.urls, *config(tmp_path, server, TOKENS[1]).sources[0].urls]
    assert len(list_inputs([source.model_copy(update={"urls": urls})], cache, SPLIT)) == 2
    with pytest.raises(UserError, match=r"no file matches http://\S*token=\*\*\*"):
        list_inputs(config(tmp_path, server, "wrong").sources, cache, SPLIT)
    assert "tok3n" not in Path(cache).read_text()


def test_a_server_that_tells_little(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = config(tmp_path, server, TOKENS[0]).sources
    cache, changed = str(tmp_path / "inputs.json"), tmp_path / "raw" / "a.jsonl.zst"

    def digests() -> list[str]:
        return [item.digest for item in list_inputs(sources, cache, SPLIT)]

    first = digests()
    content, times = changed.read_bytes(), (changed.stat().st_atime, changed.stat().st_mtime)
    changed.write_bytes(content[::-1])
    os.utime(changed, times)
    assert digests() == first  # nothing shows the change
    monkeypatch.setattr(Guarded, "silent", ("Last-Modified",))
    for _ in range(2):
        again = digests()
        assert (again[0], again[1] != first[1]) == (first[0], True)
    changed.write_bytes(content)
    assert digests() == first
    monkeypatch.setattr(Guarded, "silent", ("Content-Length",))
    with pytest.raises(UserError, match=r"the size of input file http://\S+ is not told; download it first"):
        digests()


def test_the_check_before_a_build_lists_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_bytes(str(tmp_path / "raw" / "a.jsonl"), b'{"text": "x"}')
    sources = [{"name": "s", "urls": [f"{tmp_path}/raw/*"]}]
    settings = Config.model_validate({"name": "test", "storage": str(tmp_path), "sources": sources})
    listed: list[str] = []
    original = files.list_files

    def list_files(url: str) -> list[str]:
        listed.append(url)
        return original(url)

    monkeypatch.setattr(files, "list_files", list_files)
    assert len(prepare.inputs_of(settings, check("prepare", settings))) == 1
    assert listed.count(f"{tmp_path}/raw/*") == 1


def test_names_that_begin_like_no_data(tmp_path: Path) -> None:
    for name in ("a.jsonl", "_SUCCESS", ".a.jsonl.crc", "_temporary/0/a.jsonl", ".cache/x/b.jsonl"):
        files.write_bytes(str(tmp_path / "_raw" / name), b'{"text": "x"}')

    def found(*urls: str) -> list[str]:
        source = SourceConfig(name="s", urls=[f"{tmp_path}/_raw/{url}" for url in urls])
        return sorted(file.removeprefix(f"{tmp_path}/_raw/") for _, file in check_sources([source]))

    assert found("") == found("*") == found("**/*.jsonl") == ["a.jsonl"]
    assert found("_SUCCESS", "_temporary", ".cache/*/*.jsonl") == [
        ".cache/x/b.jsonl",
        "_SUCCESS",
        "_temporary/0/a.jsonl",
    ]
    with pytest.raises(UserError, match=r"no file matches .*\*CC\*"):
        found("*CC*")


def names_of(folder: Path, *urls: str) -> list[str]:
    """The files of a source of URLs below a folder."""
    found = check_sources([SourceConfig(name="s", urls=[f"{folder}/{url}" for url in urls])])
    return sorted(os.path.relpath(file, folder) for _, file in found)


def test_a_saved_dataset_in_which_somebody_has_worked(tmp_path: Path) -> None:
    from datasets import Dataset

    saved = Dataset.from_dict({"text": [f"text {number}" for number in range(50)]})
    saved.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    worked = Dataset.load_from_disk(str(tmp_path / "saved"))
    worked.map(lambda row: {"text": row["text"] + "!"}).shuffle(seed=1).filter(lambda row: True)
    (tmp_path / "saved" / "tmpabc123").write_bytes(b"begun")
    (tmp_path / "saved" / "indices.arrow").write_bytes(b"of old versions")
    (tmp_path / "saved" / "more.jsonl").write_bytes(b'{"text": "mine"}')
    assert len(list((tmp_path / "saved").glob("cache-*.arrow"))) >= 2
    data = [f"saved/data-0000{number}-of-00002.arrow" for number in range(2)]
    assert names_of(tmp_path, "saved") == names_of(tmp_path, "") == [*data, "saved/more.jsonl"]
    assert names_of(tmp_path, "saved/*.arrow") == data
    cache = next((tmp_path / "saved").glob("cache-*.arrow"))
    assert names_of(tmp_path, f"saved/{cache.name}") == [f"saved/{cache.name}"]
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"state\.json names data-00001-of-00002\.arrow, which is not there"):
        names_of(tmp_path, "saved")
    (tmp_path / "saved" / "state.json").write_bytes(b"{}")
    assert not [name for name in names_of(tmp_path, "saved") if "cache-" in name]
    (tmp_path / "saved" / "state.json").unlink()  # as in the cache of `datasets` itself
    assert "saved/data-00000-of-00002.arrow" in names_of(tmp_path, "saved")
    assert not [name for name in names_of(tmp_path, "saved") if "cache-" in name or "info" in name]


def test_a_clone_of_a_dataset_repository(tmp_path: Path) -> None:
    """Notes of people lie beside data, and are none; where there is only text, they are documents."""
    record = b'{"text": "x"}'
    for name in (
        "README.md",
        "LICENSE",
        "dataset_infos.json",
        ".gitattributes",
        ".git/config",
        "data/a.jsonl.gz",
    ):
        files.write_bytes(str(tmp_path / "set" / name), record)
    for name in ("README.md", "LICENSE", "guide.md"):
        files.write_bytes(str(tmp_path / "prose" / name), record)
    files.write_bytes(str(tmp_path / "set" / "data" / "load.py"), b"import x")
    data = ["data/a.jsonl.gz", "data/load.py"]
    assert names_of(tmp_path / "set", "") == names_of(tmp_path / "set", "**") == data
    assert names_of(tmp_path / "set", "README.md") == ["README.md"]
    assert names_of(tmp_path / "prose", "") == ["LICENSE", "README.md", "guide.md"]
    with pytest.raises(UserError, match=r"the format of input file .*load\.py cannot be told"):
        names_of(tmp_path / "set" / "data", "load.py")


def test_a_folder_of_a_build_that_holds_more_than_data(tmp_path: Path) -> None:
    """Names that are not UTF-8, or have two colons; files of no known format, and such as are not read."""
    raw = tmp_path / "raw"
    texts = [
        f"This is document {number} of some, and it is as long as a document should be."
        for number in range(40)
    ]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    files.write_bytes(str(raw / "a::b.jsonl"), content.encode())
    with open(os.fsencode(raw) + b"/n\xe4me.jsonl", "wb") as file:
        file.write(content.replace("is document", "was paper").encode())
    files.write_bytes(str(raw / "LICENSE"), b"free")
    files.write_bytes(str(raw / "load.py"), b"import x")
    files.write_bytes(str(raw / "c.zip"), b"PK\x03\x04")
    files.write_bytes(
        str(raw / "d.jsonl"), b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    settings = builds.config(raw, tmp_path / "storage", f"sources=[{{name: s, urls: [{raw}]}}]")
    version = run(settings, InProcess()).version
    read = version.manifest.ledger["s"][0]
    assert {reason: count["documents"] for reason, count in read["dropped"].items()} == {
        "unknown_format": 1,
        "unsupported_compression": 1,
        "git_lfs_pointer": 1,
    }
    assert read["documents_out"] == 80
    names = {item.file.rpartition("/")[2] for item in version.inputs}
    assert names == {"a::b.jsonl", "n\\xe4me.jsonl", "load.py", "c.zip", "d.jsonl"}


def test_a_saved_dataset_of_the_field() -> None:
    folder = Path("../shared/data/field/hf_save_to_disk_with_cache")
    if not folder.exists():
        pytest.skip("the small files of the field are not here")
    assert names_of(folder, "") == ["data-00000-of-00001.arrow"]


def test_what_differs_in_a_hidden_part_only_is_read_apart(tmp_path: Path) -> None:
    """`key` may choose a file instead of opening it."""
    for name, text in (("one", "first"), ("two", "other")):
        with MemoryFileSystem().open(f"/x.jsonl?key={name}", "w") as file:
            file.write(json.dumps({"text": text}))
    urls = ["memory://x.jsonl?key=one", "memory://x.jsonl?key=two"]
    source = SourceConfig(name="s", urls=urls)
    for _ in range(2):
        found = list_inputs([source], str(tmp_path / "inputs.json"), SPLIT)
        assert len({item.part for item in found}) == len({item.digest for item in found}) == 2


def test_a_file_that_is_written_anew_with_the_same_size_is_read_again(tmp_path: Path) -> None:
    file, cache = tmp_path / "a.jsonl", str(tmp_path / "inputs.json")
    source = SourceConfig(name="s", urls=[str(file)])

    def listed(content: bytes, seconds: int) -> tuple[str, str]:
        file.write_bytes(content)
        os.utime(file, (seconds, seconds))
        (item,) = list_inputs([source], cache, SPLIT)
        return item.digest, item.part

    first = listed(b'{"text": "one"}', 1000)
    again = listed(b'{"text": "two"}', 1001)
    assert first[0] == xxhash.xxh3_128_hexdigest(b'{"text": "one"}')
    assert again[0] == xxhash.xxh3_128_hexdigest(b'{"text": "two"}')
    assert first[1] != again[1]
    assert listed(b'{"text": "one"}', 1000) == first
    # What says that it is the same is not read again; a longer one of the same time is.
    assert listed(b'{"text": "six"}', 1000) == first
    assert listed(b'{"text": "three"}', 1000) != first


class Told(MemoryFileSystem):
    """Files that tell more than their size, as object stores do."""

    protocol = "told"
    store: dict[str, Any] = {}
    more: dict[str, Any] = {}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size and what a test says."""
        found = super().info(path)
        return {name: found[name] for name in ("name", "size", "type")} | self.more


@pytest.mark.parametrize("name", ["ETag", "md5Hash", "etag", "blob_id"])
def test_a_checksum_that_the_storage_tells_is_the_digest(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("told", Told, clobber=True)
    files.write_bytes("told://a.jsonl", b'{"text": "one"}')
    source, cache = SourceConfig(name="s", urls=["told://a.jsonl"]), str(tmp_path / "inputs.json")
    monkeypatch.setattr(files, "digest", None)  # nothing is read
    found = []
    for tag in ("one", "two"):
        monkeypatch.setattr(Told, "more", {name: tag, "LastModified": "always the same"})
        (item,) = list_inputs([source], cache, SPLIT)
        assert item.digest == tag
        found.append(item.part)
    assert found[0] != found[1]


@pytest.mark.parametrize("name", ["mtime", "LastModified", "Last-Modified", "created"])
def test_a_time_that_the_storage_tells_says_whether_to_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("told", Told, clobber=True)
    source, cache = SourceConfig(name="s", urls=["told://b.jsonl"]), str(tmp_path / "inputs.json")
    read: list[str] = []
    original = files.digest

    def digest(url: str) -> str:
        read.append(url)
        return original(url)

    monkeypatch.setattr(files, "digest", digest)
    for time, times in ((1, 1), (1, 1), (2, 2), (None, 3), (None, 4)):
        monkeypatch.setattr(Told, "more", {} if time is None else {name: time})
        files.write_bytes("told://b.jsonl", b'{"text": "one"}')
        list_inputs([source], cache, SPLIT)
        assert len(read) == times, time


def test_what_names_the_outputs_of_a_part(tmp_path: Path) -> None:
    """Two inputs share their outputs only if nothing of them differs."""
    names = ("a/x.jsonl", "b/x.jsonl", "b/y.jsonl")
    for name, text in zip(names, ("one", "one", "two"), strict=True):
        files.write_bytes(str(tmp_path / name), f'{{"text": "{text}"}}\n'.encode() * 200)
    cache = str(tmp_path / "inputs.json")
    sources = [SourceConfig(name=name, urls=[f"{tmp_path}/*/*.jsonl"]) for name in ("s", "t")]
    whole = list_inputs(sources, cache, SPLIT)
    ranges = list_inputs(sources, cache, 1024)
    others = list_inputs(sources, cache, 1500)
    assert len(whole) == 6 and len(ranges) > 12
    places = {
        (item.source, item.file, item.start, item.stop): item.part for item in (*whole, *ranges, *others)
    }
    assert len(set(places.values())) == len(places)
    assert ranges == sorted(ranges, key=lambda item: (item.source, item.name, item.start))
    for before, after in zip(ranges, ranges[1:], strict=False):
        assert after.start in (0, before.stop)
    assert list_inputs(sources[::-1], cache, SPLIT) == whole
    assert [item.entry.file for item in whole] == [item.file for item in whole]


def test_what_lies_beside_the_data_of_a_saved_dataset_is_none(tmp_path: Path) -> None:
    for name in (
        "dataset_dict.json",
        "train/state.json",
        "train/dataset_info.json",
        "train/data-0.arrow",
        "other/state.json",
        "other/dataset_dict.json",
    ):
        files.write_bytes(str(tmp_path / "saved" / name), b"{}")
    source = SourceConfig(name="s", urls=[f"{tmp_path}/saved"])
    found = {file.removeprefix(f"{tmp_path}/saved/") for _, file in check_sources([source])}
    assert found == {"train/data-0.arrow", "other/state.json", "other/dataset_dict.json"}


def test_nothing_that_a_build_writes_shows_credentials(
    ray_cluster: None, tmp_path: Path, server: str
) -> None:
    storage = tmp_path / "storage"
    settings = config(storage, server, TOKENS[0])
    version = run(settings).version
    assert version.manifest.ledger["s"][0]["documents_in"] == 60
    rotated = config(storage, server, TOKENS[1])
    again = run(rotated)
    assert not again.new
    assert not refresh(rotated).new
    file = f"http://{server}/a.jsonl.zst?token={TOKENS[1]}"
    assert any("invalid_json" in line for line in explain.explain(version, f"{file}:3"))
    shutil.rmtree(storage / "corpus" / "documents")
    (shard,) = (storage / "corpus" / "versions").rglob("train-00000.arrow")
    content = shard.read_bytes()
    shard.unlink()
    damage = verify([version], executor=InProcess(), progress=silent)
    assert builds.mended(rotated, [version], damage) == []
    assert shard.read_bytes() == content
    written = [path for path in storage.rglob("*") if path.is_file()]
    assert len(written) > 30 and any(path.name == "mlflow.db" for path in written)
    for path in written:
        plain = path.read_bytes()
        if path.suffix == ".parquet":
            plain += repr(files.read_parquet(str(path)).to_pydict()).encode()
        for secret in (*TOKENS, PASSWORD):
            assert secret.encode() not in plain, path
