"""Files on fsspec URLs: nothing half-written is ever visible."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from base import files
from base.errors import UserError


def test_json_that_could_not_be_written_again_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(r'{"name": "\ud83d\ude00"}')
    assert files.read_json(str(path)) == {"name": "😀"}
    for content in (r'{"name": "\ud83d"}', r'{"\udc00": 1}', "{", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(UserError, match="a.json is damaged"):
            files.read_json(str(path))


@pytest.mark.parametrize("root", ["{tmp}", "memory://files"])
def test_write_read_list_remove(root: str, tmp_path: Path) -> None:
    root = root.format(tmp=tmp_path)
    url = files.join(root, "a/b", "c.json")
    assert not files.exists(url)
    files.write_json(url, {"b": 1, "a": [2]})
    assert files.read_json(url) == {"b": 1, "a": [2]}
    assert files.size(url) == len(files.read_bytes(url))
    assert [name.rsplit("/", 1)[-1] for name in files.list_files(files.join(root, "a"))] == ["c.json"]
    assert [name.rsplit("/", 1)[-1] for name in files.list_files(files.join(root, "a/*/c.*"))] == ["c.json"]
    files.remove(files.join(root, "a"))
    assert not files.exists(url)
    files.remove(url)


@pytest.mark.parametrize("root", ["{tmp}", "memory://listed"])
def test_names_with_brackets_and_patterns(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = root.format(tmp=tmp_path)
    for name in ("data[1].jsonl", "data1.jsonl", "folder.jsonl/x"):
        files.write_bytes(files.join(root, name), b"x")

    def listed(pattern: str) -> list[str]:
        return [url.rsplit("/", 1)[-1] for url in files.list_files(files.join(root, pattern))]

    assert listed("data[1].jsonl") == ["data[1].jsonl"]
    assert listed("data[12].jsonl") == ["data1.jsonl"]
    if root == str(tmp_path):
        (tmp_path / "link.jsonl").symlink_to(tmp_path / "folder.jsonl")
        (tmp_path / "file.jsonl").symlink_to(tmp_path / "data1.jsonl")
    expected = ["data1.jsonl", "data[1].jsonl", *["file.jsonl"] * (root == str(tmp_path))]
    assert listed("*.jsonl") == expected
    asked = []
    filesystem, _ = files.split(root)
    monkeypatch.setattr(type(filesystem), "isdir", lambda _, path: asked.append(path))
    listed("data*")
    assert not {path.rsplit("/", 1)[-1] for path in asked} & {"data1.jsonl", "data[1].jsonl"}


def test_names_with_two_colons(tmp_path: Path) -> None:
    root = str(tmp_path / "raw")
    for name in ("std::vector.txt", "a::b/zip::c.txt", "memory::d"):
        files.write_bytes(files.join(root, name), name.encode())
    listed = files.list_files(root)
    assert [files.read_bytes(url).decode() for url in listed] == [
        "a::b/zip::c.txt",
        "memory::d",
        "std::vector.txt",
    ]
    assert files.list_files(files.join(root, "*::*.txt")) == [listed[2]]
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inside.txt", b"inside")
    assert files.read_bytes(f"zip://inside.txt::{archive}") == b"inside"
    assert files.read_bytes(f"simplecache::file://{archive}") == archive.read_bytes()


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    files.write_bytes(str(tmp_path / "raw" / "in" / "a"), b"x")
    files.write_bytes(str(tmp_path / "other" / "deep" / "b"), b"x")
    files.write_bytes(str(tmp_path / "raw" / "c.tmp-1"), b"x")
    raw = tmp_path / "raw"
    (raw / "again").symlink_to(raw / "in")
    (raw / "up").symlink_to(tmp_path)
    (raw / "other").symlink_to(tmp_path / "other")
    (raw / "twice").symlink_to(tmp_path / "other" / "deep")
    (raw / "file").symlink_to(tmp_path / "other" / "deep" / "b")
    (tmp_path / "other" / "back").symlink_to(raw)
    os.mkfifo(raw / "pipe")
    listed = [os.path.relpath(name, raw) for name in files.list_files(str(raw))]
    assert listed == ["c.tmp-1", "file", "in/a", "other/deep/b"]


def test_a_protocol_that_is_not_there() -> None:
    with pytest.raises(UserError, match="nowhere://a/b cannot be opened: Protocol not known: nowhere"):
        files.exists("nowhere://a/b")


@pytest.mark.parametrize("root", ["{tmp}", "memory://full"])
def test_a_full_disk_is_a_mistake_that_names_the_file(root: str, tmp_path: Path) -> None:
    url = files.join(root.format(tmp=tmp_path), "x")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=rf"cannot write {url}.*: file too large"):
            files.write_bytes(url, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not files.exists(url)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot write .*/file/x: (not a directory|file exists)"):
        files.write_bytes(str(tmp_path / "file" / "x"), b"")


@pytest.mark.parametrize("root", ["{tmp}", "memory://atomic"])
def test_a_write_that_fails_leaves_the_old_content_and_no_trace(root: str, tmp_path: Path) -> None:
    url = files.join(root.format(tmp=tmp_path), "x")
    files.write_bytes(url, b"old")
    with pytest.raises(RuntimeError), files.atomic_writer(url) as stream:
        stream.write(b"half of the ne")
        raise RuntimeError
    assert files.read_bytes(url) == b"old"
    assert len(files.list_files(files.join(root.format(tmp=tmp_path)))) == 1
    assert len(list(tmp_path.iterdir())) in (0, 1)


def test_a_killed_write_is_invisible(tmp_path: Path) -> None:
    url = tmp_path / "folder" / "big"
    code = f"""
import time
from concurrent.futures import ThreadPoolExecutor
from base import files
from base.errors import UserError
with files.atomic_writer({str(url)!r}) as stream:
    stream.write(b"x" * 2**20)
    stream.flush()
    print("written", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    assert not url.exists()
    assert files.list_files(str(url.parent)) == []


def test_key_depends_on_values_not_on_the_order_of_fields() -> None:
    assert files.key_of({"a": 1, "b": [2]}) == files.key_of({"b": [2], "a": 1})
    assert files.key_of({"a": 1}) != files.key_of({"a": 2})


@pytest.mark.parametrize(
    "path", ["", ".", "../x", "a/../../x", "/etc/x", "a//b", "a\\..\\b", "a\0", "s3::x", None, 3]
)
def test_paths_of_somebody_else_stay_below_their_folder(path: object) -> None:
    with pytest.raises(UserError, match="is no path below /data/corpus"):
        files.below("/data/corpus", path)  # type: ignore[arg-type]


def test_paths_below_a_folder() -> None:
    assert files.below("/data/corpus/", "v0001/a b/..c.arrow") == "/data/corpus/v0001/a b/..c.arrow"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed from now on, in order: the content of files by their own name."""
    found: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        found.append(("sync", name.rsplit("-", 1)[-1] if name.startswith(".tmp-") else f"{name}/"))

    def renamed(source: str, target: str) -> None:
        found.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return found


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_writer_returns(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    files.write_bytes(str(tmp_path / "new" / "folder" / "x"), b"content")
    assert calls == [
        ("sync", f"{tmp_path.name}/"),
        ("sync", "new/"),
        ("sync", "x"),
        ("rename", "x"),
        ("sync", "folder/"),
    ]


def test_files_written_together_have_no_name_before_all_are_on_the_disk(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    names = ["a/one", "b/two", "a/three"]
    with files.together():
        for name in names:
            files.write_bytes(str(tmp_path / name), name.encode())
        assert calls == [] and files.list_files(str(tmp_path)) == []
    assert sorted(calls[:3]) == [("sync", "one"), ("sync", "three"), ("sync", "two")]
    assert calls[3:6] == [("rename", "one"), ("rename", "two"), ("rename", "three")]
    assert sorted(calls[6:]) == [("sync", "a/"), ("sync", "b/")]
    assert [(tmp_path / name).read_text() for name in names] == names
    calls.clear()
    files.write_bytes(str(tmp_path / "a" / "mark"), b"")
    assert calls == [("sync", "mark"), ("rename", "mark"), ("sync", "a/")]


@pytest.mark.parametrize("fault", ["block", "sync"])
def test_of_files_written_together_none_appears_when_the_block_fails(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"old")
    sync = os.fsync

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("-y"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    if fault == "sync":
        monkeypatch.setattr(os, "fsync", full)
    expected = pytest.raises(UserError, match=rf"cannot write {tmp_path}/y: no space left")
    with expected if fault == "sync" else pytest.raises(RuntimeError), files.together():
        files.write_bytes(str(tmp_path / "x"), b"new")
        files.write_bytes(str(tmp_path / "y"), b"new")
        if fault == "block":
            raise RuntimeError
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    files.write_bytes(str(tmp_path / "z"), b"later")
    assert (tmp_path / "z").read_bytes() == b"later"


def test_object_stores_get_files_written_together_at_once() -> None:
    with files.together():
        files.write_bytes("memory://together/x", b"content")
        assert files.read_bytes("memory://together/x") == b"content"


@pytest.mark.parametrize("root", ["{tmp}", "memory://created"])
def test_a_file_is_created_once(root: str, tmp_path: Path) -> None:
    url = files.join(root.format(tmp=tmp_path), "new/folder", "x")
    assert files.create(url, b"one")
    assert files.create(url, b"one")  # an answer that was lost
    assert not files.create(url, b"two")
    assert files.read_bytes(url) == b"one"
    assert len(files.list_files(root.format(tmp=tmp_path))) == 1
    assert sum(path.is_file() for path in tmp_path.rglob("*")) in (0, 1)


def test_of_threads_that_create_a_file_one_does(tmp_path: Path) -> None:
    for turn in range(20):
        url = str(tmp_path / str(turn))
        with ThreadPoolExecutor(8) as pool:
            created = list(pool.map(lambda number, url=url: files.create(url, b"%d" % number), range(8)))
        assert sum(created) == 1
        assert files.read_bytes(url) == b"%d" % created.index(True)


def test_a_created_file_is_on_the_disk_and_so_is_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    sync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        calls.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def linked(source: str, target: str) -> None:
        calls.append(("link", Path(target).name))
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    assert files.create(str(tmp_path / "x"), b"content")
    assert [what for what, _ in calls] == ["sync", "link", "sync"]
    assert calls[0][1].endswith("-x") and calls[1:] == [("link", "x"), ("sync", tmp_path.name)]


def test_a_disk_without_hard_links_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: str) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", refused)
    url = str(tmp_path / "x")
    assert files.create(url, b"one") and not files.create(url, b"two")
    assert files.read_bytes(url) == b"one"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / "a" / ".tmp-step").mkdir(parents=True)
    for name in ("a/.tmp-step/x", "a/.tmp-1-y", "a/y"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError), files.atomic_writer(str(tmp_path / "z")):
        files.sweep(str(tmp_path), deep=False)
    assert (tmp_path / "a" / ".tmp-1-y").exists()
    files.sweep(str(tmp_path), deep=True)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["a", "y"]
    files.sweep("memory://nothing", deep=True)


def test_a_local_path_is_absolute_and_a_url_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert files.absolute("~/runs") == "/home/anna/runs"
    assert files.absolute("runs/../x") == os.path.join(os.getcwd(), "x")
    assert files.absolute("/data//x") == "/data/x"
    assert files.absolute("s3://bucket/~/../x") == "s3://bucket/~/../x"


def test_files_are_listed_in_order_and_without_those_that_are_being_written(tmp_path: Path) -> None:
    for name in ("b/1", "a/2", "c", "a/1", "b/.tmp-0123-2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert files.list_files(str(tmp_path)) == [f"{tmp_path}/{name}" for name in ("a/1", "a/2", "b/1", "c")]
    assert files.list_files(f"{tmp_path}/*/[12]") == [f"{tmp_path}/{name}" for name in ("a/1", "a/2", "b/1")]
    for name in ("b", "a/c"):
        files.write_bytes(f"memory://order/{name}", b"")
    assert files.list_files("memory://order") == ["memory:///order/a/c", "memory:///order/b"]
    assert files.list_files(str(tmp_path / "nothing")) == files.list_files(f"{tmp_path}/x*") == []


def test_a_digest_is_of_all_bytes_of_a_large_file(tmp_path: Path) -> None:
    content = bytes(files.READ_BYTES) + b"the last bytes"
    url = str(tmp_path / "large")
    files.write_bytes(url, content)
    assert files.digest(url) == xxhash.xxh3_128_hexdigest(content)
    assert files.size(url) == len(content)


def test_json_keeps_the_order_of_keys_and_every_letter(tmp_path: Path) -> None:
    url = str(tmp_path / "x.json")
    files.write_json(url, {"ü": [1], "a": None})
    assert Path(url).read_text() == '{\n "ü": [\n  1\n ],\n "a": null\n}\n'


def test_parquet_is_compressed_unless_it_is_said_how(tmp_path: Path) -> None:
    url, table = str(tmp_path / "x.parquet"), pa.table({"a": [1], "b": [2]})
    for options, codec in (({}, "ZSTD"), ({"compression": "none"}, "UNCOMPRESSED")):
        files.write_parquet(url, table, **options)
        assert pq.read_metadata(url).row_group(0).column(0).compression == codec
    assert files.read_parquet(url, ["b"]) == pa.table({"b": [2]})
    assert files.read_parquet(url) == table


def test_what_others_write_is_seen_at_once() -> None:
    """fsspec's file systems of the web and of object stores remember listings unless they are told not to."""
    filesystem, _ = files.split("http://127.0.0.1/folder/")
    filesystem.dircache["/folder"] = []
    assert "/folder" not in filesystem.dircache


def test_a_key_has_nothing_of_credentials_and_everything_else() -> None:
    def key(password: str, name: str) -> str:
        return files.key_of({"urls": [f"https://anna:{password}@host/{name}"]}, 1)

    assert key("one", "x") == key("two", "x") != key("one", "y")
    assert files.key_of(["a", "b"]) != files.key_of(["b", "a"]) != files.key_of("a", "b")
    assert files.key_of({"a": {"b": 1, "c": 2}}) == files.key_of({"a": {"c": 2, "b": 1}})
