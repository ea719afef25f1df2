"""Files on fsspec URLs: nothing half-written is ever visible."""

import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from base import files
from base.errors import UserError


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


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_writer_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def renamed(source: str, target: str) -> None:
        calls.append(("rename", target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.write_bytes(str(tmp_path / "new" / "folder" / "x"), b"content")
    names = [(what, Path(path).name) for what, path in calls]
    assert names[:2] == [("sync", tmp_path.name), ("sync", "new")]
    assert names[2][0] == "sync" and names[2][1].startswith(".tmp-") and names[2][1].endswith("-x")
    assert names[3:] == [("rename", "x"), ("sync", "folder")]
