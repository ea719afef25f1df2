"""Servers on this machine that speak the protocols of S3 and of Google Cloud Storage."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import fsspec

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port: int = opened.getsockname()[1]
    return port


def server(protocol: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command of a store on a port, and the environment that leads to it."""
    url = f"http://127.0.0.1:{port}"
    if protocol == "s3":
        command = [str(BIN / "moto_server"), "--host", "127.0.0.1", "--port", str(port)]
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        return command, {**keys, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url}
    command = [
        str(BIN / "gcp-storage-emulator"),
        "start",
        "--host=127.0.0.1",
        f"--port={port}",
        "--in-memory",
    ]
    # Which kind a bucket is, gcsfs would ask Google itself.
    kinds = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    return command, {**kinds, "STORAGE_EMULATOR_HOST": url, "FSSPEC_GS_TOKEN": "anon"}


@contextmanager
def serving(protocol: str) -> Iterator[None]:
    """A store with an empty bucket, to which the environment leads while the block lasts."""
    command, environment = server(protocol, free_port())
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kind = fsspec.get_filesystem_class(protocol)
    try:
        with mock.patch.dict(os.environ, environment):
            kind.clear_instance_cache()  # it leads to a store of another test
            make_bucket(protocol)
            yield
    finally:
        kind.clear_instance_cache()
        process.terminate()
        process.wait()


def make_bucket(protocol: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            fsspec.filesystem(protocol, skip_instance_cache=True).mkdir("bucket")
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
