"""Corpora on S3 and Google Cloud Storage, as servers on this machine that speak their protocols."""

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import pytest

from base import files, manifest
from base.claims import ClaimsConfig, Holder, held
from base.errors import UserError
from pipelines.config import Config, load
from pipelines.corpus.versions import verify
from pipelines.runtime import cluster
from pipelines.runtime.executor import OnRay
from pipelines.runtime.progress import silent
from tests.helpers import manifests
from tests.helpers.builds import mended, refresh, run
from tests.helpers.late import RUNNING
from tests.helpers.stores import free_port, make_bucket, server

if RUNNING:
    import ray


ROOT = Path(__file__).parents[4]
WORDS = [f"word{number}" for number in range(300)]


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty bucket that this process and the workers of a cluster of its own can open."""
    command, variables = server(request.param, free_port())
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as process,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf)
        ray.shutdown()
        try:
            make_bucket(request.param)
            cluster.start_local(2, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **variables)
            yield f"{request.param}://bucket"
        finally:
            ray.shutdown()
            process.kill()


def write_source(url: str, seed: int, count: int) -> None:
    choose = random.Random(seed)
    texts = [" ".join(choose.choices(WORDS, k=choose.randrange(40, 200))) for _ in range(count)]
    texts.append(texts[0])
    files.write_bytes(url, "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())


def config(raw: str, storage: str, file: Path) -> Config:
    content = {
        "name": "test",
        "storage": storage,
        "sources": [{"name": "books", "urls": [f"{raw}/*.jsonl"]}],
        "ray": {"workers": 2},
        "tracking": {"uri": f"sqlite:///{file.parent}/mlflow.db"},
        "tokenize": {"vocab_size": 320, "train_bytes": 20000},
        "shard": {"target_tokens": 4096, "heldout_fraction": 0.1},
    }
    file.write_text(json.dumps(content))
    return load(str(file))


def documents(version: manifest.Version) -> list[list[int]]:
    """The tokens of every document of a version, sorted."""
    versions = version.url.rpartition("/")[0]
    shards = [verify.read_shard(versions, shard) for shard in version.shards]
    return sorted(tokens for shard in shards for tokens in shard["input_ids"].to_pylist())


@pytest.mark.slow
def test_a_corpus_is_built_refreshed_mended_and_read_there(bucket: str, tmp_path: Path) -> None:
    stores = {"local": str(tmp_path), "bucket": bucket}
    versions = {}
    for name, url in stores.items():
        for number in range(3):
            write_source(f"{url}/raw/{number}.jsonl", number, 60)
        settings = config(f"{url}/raw", f"{url}/corpus", tmp_path / f"{name}.yaml")
        versions[name] = run(settings, OnRay(workers=2)).version
    assert documents(versions["bucket"]) == documents(versions["local"])
    again = run(settings, OnRay(workers=2))
    assert again.version.manifest.to_json() == versions["bucket"].manifest.to_json()

    # What is written under this process's nose is seen, though its folder was listed.
    names = files.list_files(f"{bucket}/raw")
    write = f"from base import files; files.write_bytes('{bucket}/raw/3.jsonl', b'')"
    subprocess.run([sys.executable, "-c", write], cwd=ROOT, check=True)
    assert files.exists(f"{bucket}/raw/3.jsonl")
    assert files.list_files(f"{bucket}/raw") == [*names, f"{bucket}/raw/3.jsonl"]

    write_source(f"{bucket}/raw/3.jsonl", 3, 60)
    second = refresh(settings, OnRay(workers=2)).version
    assert second.manifest.to_json()["parent"] == "v0001"
    added = (
        second.manifest.to_json()["sources"]["books"]["documents"]
        - versions["bucket"].manifest.to_json()["sources"]["books"]["documents"]
    )
    assert 40 < added <= 60

    shard = manifests.content(second)["shards"][0]["path"]
    whole = files.read_bytes(f"{bucket}/corpus/corpus/versions/{shard}")
    files.write_bytes(f"{bucket}/corpus/corpus/versions/{shard}", whole[:-100] + bytes(100))
    damage = verify.verify([second], executor=OnRay(workers=2), progress=silent)
    assert [entry.path for entry in damage] == [shard]
    assert mended(settings, [second], damage, OnRay(workers=2)) == []
    assert files.read_bytes(f"{bucket}/corpus/corpus/versions/{shard}") == whole


@pytest.mark.slow
def test_one_command_at_a_time_writes_there(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    url = f"{bucket}/claimed/note"
    folder = f"{bucket}/claimed/corpus"
    if bucket.startswith("gs:"):  # the stand-in for Google's service heeds no condition, which is told
        import gcsfs  # it asks the environment, which the bucket sets, for kinds of buckets

        sent: list[str | None] = []
        call = gcsfs.GCSFileSystem._call

        async def noted(self: Any, *arguments: Any, **keywords: Any) -> Any:
            sent.append(keywords.get("ifGenerationMatch"))
            return await call(self, *arguments, **keywords)

        with mock.patch.object(gcsfs.GCSFileSystem, "_call", noted):
            assert files.create(url, b"content")
        assert sent == ["0"]
        with held(folder, "jobs.prepare", ClaimsConfig()):
            pass
        assert f"{folder} cannot create a file only if there is none" in caplog.text
        return
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: files.create(url, b"%d" % number), range(8)))
    assert sum(created) == 1 and files.read_bytes(url) == b"%d" % created.index(True)
    with held(folder, "jobs.prepare", ClaimsConfig()) as claim:
        sentence = "is being written by jobs.prepare of"
        with pytest.raises(UserError, match=sentence), held(folder, "jobs.refresh", ClaimsConfig()):
            pytest.fail("held twice")
        claim.write(f"{folder}/x", b"content")
        # Another machine's, which gives no sign of life.
        former = files.list_files(f"{folder}/claim")[0]
        holder = Holder.read(former)
        holder.model_copy(update={"boot": "another", "every": 0.1}).write(former)
        sentence, quick = "was taken to be gone: jobs.refresh", ClaimsConfig(stale_seconds=1.0)
        with held(folder, "jobs.refresh", quick), pytest.raises(UserError, match=sentence):
            claim.write(f"{folder}/x", b"late")
    assert files.read_bytes(f"{folder}/x") == b"content"
    assert files.list_files(f"{folder}/claim") == []
    assert "cannot create" not in caplog.text


def test_a_server_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    _, variables = server("s3", free_port())
    settings = {"name": "a", "storage": str(tmp_path), "sources": [{"name": "a", "urls": ["s3://bucket/*"]}]}
    (tmp_path / "a.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "jobs.prepare", "--config", str(tmp_path / "a.yaml")]
    environment = os.environ | variables | {"AWS_MAX_ATTEMPTS": "1"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.returncode == 2
    sentence = (
        f"error: source a: s3://bucket/* cannot be used from {socket.gethostname()}: EndpointConnection"
    )
    assert found.stderr.startswith(sentence) and "Could not connect" in found.stderr
    assert found.stderr.count("\n") == 1
