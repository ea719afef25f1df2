"""What is said of a storage that cannot be used: its URL, this machine, and the reason."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import requests

from base import arrow, files
from base.claims import ClaimsConfig, held
from base.damage import MissingError, reached
from base.errors import StorageError, UserError, mistake
from jobs.checks import writable
from pipelines.corpus.reading import decompress
from tests.helpers import stores


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server with one bucket and a file in it."""
    command, variables = stores.server("s3", stores.free_port())
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as process,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            stores.make_bucket("s3")
            files.write_bytes("s3://bucket/there", b"content")
            yield variables["AWS_ENDPOINT_URL"]
        finally:
            process.kill()
            fsspec.get_filesystem_class("s3").clear_instance_cache()


def _buckets() -> list[str]:
    return sorted(fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False).ls(""))


def test_no_command_makes_a_bucket(s3: str) -> None:
    url = "s3://bukcet/corpus"
    sentence = "there is no bucket bukcet; create it, or mend its name"
    with pytest.raises(UserError, match=f"cannot write {url}/a: {sentence}"):
        files.write_bytes(f"{url}/a", b"")
    with pytest.raises(UserError, match=f"cannot write {url}/a: {sentence}"):
        files.create(f"{url}/a", b"")
    with pytest.raises(UserError, match=f"storage = '{url}' cannot be written: .*{sentence}"):
        writable(url)
    with pytest.raises(UserError, match=sentence), held(url, "test", ClaimsConfig()):
        pass
    assert _buckets() == ["bucket"]
    with pytest.raises(MissingError, match="s3://bukcet/corpus/a is missing"):
        files.read_bytes(f"{url}/a")
    assert not files.exists(f"{url}/a") and files.list_files(f"{url}/*") == []


def _every_way(url: str, folder: Path) -> Iterator[str]:
    """What is said of a URL that cannot be used, in each way in which one is."""
    (folder / "local").write_bytes(b"a")
    for use in (
        lambda: files.read_bytes(url),
        lambda: files.exists(url),
        lambda: files.size(url),
        lambda: files.whole(url),
        lambda: files.digest(url),
        lambda: files.checksum(url),
        lambda: files.list_files(url),
        lambda: files.read_parquet(url),
        lambda: files.write_bytes(url, b""),
        lambda: files.upload(str(folder / "local"), url),
        lambda: files.create(url, b""),
        lambda: files.remove(url),
        lambda: arrow.open_file(url),
        lambda: decompress.open_file(url),
        lambda: decompress.compression(url),
    ):
        with pytest.raises((StorageError, UserError)) as raised:
            use()
        sentence = mistake(raised.value)
        assert sentence is not None and "\n" not in sentence
        yield sentence


def test_missing_credentials_name_url_and_machine(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for sentence in _every_way("s3://bucket/there", tmp_path):
        assert f"s3://bucket/there cannot be used from {socket.gethostname()}: NoCredentialsError" in sentence
        assert sentence.endswith("look at the credentials of that machine")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_refusal_names_url_and_machine(s3: str, tmp_path: Path) -> None:
    # From here on the server asks who it is.
    requests.post(f"{s3}/moto-api/reset-auth", data="0", timeout=10)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        for sentence in _every_way("s3://bucket/there", tmp_path):
            assert (
                f"s3://bucket/there cannot be used from {socket.gethostname()}: PermissionError" in sentence
            )
    finally:
        requests.post(f"{s3}/moto-api/reset-auth", data="inf", timeout=10)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert files.read_bytes("s3://bucket/there") == b"content"


def test_what_is_no_storages_is_raised_as_it_is(tmp_path: Path) -> None:
    for url, error in (
        ("s3://bucket/a", ValueError("a")),
        ("s3://bucket/a", FileNotFoundError("a")),
        (str(tmp_path), PermissionError(13, os.strerror(13))),
        (f"file://{tmp_path}", OSError(5, os.strerror(5))),
    ):
        with pytest.raises(type(error)) as raised, reached(url):
            raise error
        assert raised.value is error
    sentence = r"https://\*\*\*@a/b cannot be used from .*: TimeoutError: late$"
    with pytest.raises(StorageError, match=sentence), reached("https://user:word@a/b"):
        raise TimeoutError("late")
