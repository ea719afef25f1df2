"""A vanished or unreadable source, a full disk, a read-only disk: one sentence, nothing half-visible, and the
same bytes when the build is run again after mending."""

import contextlib
import errno
import io
import json
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import zstandard

from base import files, manifest
from base.errors import UserError
from base.layout import Layout
from dedup.config import MinHashConfig
from pipelines.config import Config, load
from pipelines.corpus import inputs
from pipelines.corpus.inputs import Input
from pipelines.corpus.reading import ingest
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.settings import RejectsConfig
from pipelines.corpus.stages.measure import MeasurePart, measure_part
from pipelines.corpus.stages.plan import Plan, Run
from pipelines.corpus.text.settings import LanguageConfig
from pipelines.corpus.versions import commands
from pipelines.corpus.versions.build import build as build_version
from pipelines.runtime.executor import OnRay
from pipelines.runtime.progress import silent

WORDS = [f"word{number}" for number in range(300)]


def write_source(path: Path, seed: int, count: int) -> None:
    choose = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for _ in range(count):
            file.write(
                json.dumps({"text": " ".join(choose.choices(WORDS, k=choose.randrange(40, 200)))}) + "\n"
            )


def visible(folder: Path) -> list[str]:
    """Files below a folder but for the temporary ones that a stopped task leaves."""
    paths = (path for path in folder.rglob("*") if not path.name.startswith(files.TEMPORARY))
    return sorted(str(path.relative_to(folder)) for path in paths if path.is_file())


# Sources


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.jsonl"
    write_source(path, 0, 2)
    path.chmod(0)
    for folder in (tmp_path, *(above for above in tmp_path.parents if "pytest-of" in str(above))):
        folder.chmod(0o755)
    source = SourceConfig(name="s", urls=[str(path)])
    with nobody(), pytest.raises(UserError, match=r"input file .*secret\.jsonl cannot be read: .*Permission"):
        inputs.list_inputs([source], "memory://faults/inputs.json", 2**20)
    with nobody(), pytest.raises(UserError, match=r"input file .*secret\.jsonl cannot be opened"):
        list(ingest.read(str(path), source, IngestConfig()))


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything; so be somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class _Flaky(fsspec.AbstractFileSystem):
    """Files of which only the first 64 KiB can be read."""

    protocol = "flaky"
    content = b""

    def info(self, path: str, **_: object) -> dict[str, object]:
        return {"name": path, "size": len(self.content), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **_: object) -> io.BytesIO:
        return _Half(self.content)


class _Half(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 2**16:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(2**16 if size is None or size < 0 else min(size, 2**16))


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.zst", "a.parquet", "a.arrow", "a.warc", "a.csv", "a.txt"]
)
def test_a_failing_storage_is_not_a_damaged_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("flaky", _Flaky, clobber=True)
    content = b"".join(json.dumps({"text": os.urandom(100).hex()}).encode() + b"\n" for _ in range(2000))
    if name.endswith(".zst"):
        content = zstandard.compress(content)
    elif name == "a.csv":
        content = b"text\n" + content.replace(b'"', b"")
    elif name == "a.warc":
        content = b"WARC/1.0\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000)
    elif name in ("a.parquet", "a.arrow"):
        content = b"ARROW1\0\0" + content
    monkeypatch.setattr(_Flaky, "content", content)
    source = SourceConfig(name="s", urls=["x"], format="parquet" if name == "a.parquet" else "auto")
    with pytest.raises(UserError, match=rf"input file flaky://{name} cannot be read: .*Input/output error"):
        list(ingest.read(f"flaky://{name}", source, IngestConfig()))


# Disks


def test_a_part_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_source(path, 1, 500)
    source = SourceConfig(name="s", urls=[str(path)])

    def task(storage: str) -> MeasurePart:
        item = Input(
            source="s", file=str(path), start=0, bytes=path.stat().st_size, digest="digest", part="part"
        )
        return MeasurePart(
            layout=Layout(str(tmp_path / storage)),
            key="key",
            input=item,
            source=source,
            ingest=IngestConfig(),
            language=LanguageConfig(),
            minhash=MinHashConfig(),
            rejects=RejectsConfig(),
            filters=[],
        )

    measure_part(task("whole"))
    largest = max(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*part\.(arrow|parquet): file too large"):
            measure_part(task("limited"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in (tmp_path / "limited").rglob("*") if path.is_file()]
    measure_part(task("limited"))
    names = visible(tmp_path / "whole")
    assert visible(tmp_path / "limited") == names
    for name in names:
        assert (tmp_path / "limited" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs takes privileges that are not there")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(["remount", *options]), str(folder)], check=True)


def configuration(raw: Path, storage: Path, *overrides: str) -> Config:
    file = raw / f"{storage.name}.yaml"
    content = {
        "name": "faults",
        "storage": str(storage),
        "sources": [{"name": name, "urls": [f"{raw}/{name}/*.jsonl"]} for name in ("books", "web")],
        "tokenize": {"vocab_size": 300, "train_bytes": 10000},
        "shard": {"target_tokens": 20000},
    }
    file.write_text(json.dumps(content))
    return load(str(file), list(overrides))


def build(config: Config, inputs: list[Input] | None = None) -> manifest.Version:
    """A build without MLflow, whose store would lie on the disk that is full."""
    listed = commands.inputs_of(config) if inputs is None else inputs
    plan = Plan(config=config, layout=Layout(config.storage), inputs=tuple(listed), parent=None)
    with commands.claimed(config, "prepare") as claim:
        return build_version(plan, "v0001", Run(claim=claim, executor=OnRay(workers=2), progress=silent))


def version_bytes(storage: Path) -> dict[str, bytes]:
    folder = storage / "corpus" / "versions" / "v0001"
    return {name: (folder / name).read_bytes() for name in visible(folder)}


@pytest.mark.slow
def test_faults_in_every_stage_of_a_build(tmp_path: Path, small_disk: Path, ray_cluster: None) -> None:
    raw = tmp_path / "raw"
    for number, source in enumerate(("books", "web")):
        write_source(raw / source / "0.jsonl", number, 150)
        write_source(raw / source / "1.jsonl", number + 10, 150)
    expected = tmp_path / "expected"
    build(configuration(raw, expected))

    # A full disk: let it grow until the build fits.
    storage = small_disk / "storage"
    size = 256
    stages = set()
    while True:
        remount(small_disk, f"size={size}k")
        try:
            build(configuration(raw, storage))
            break
        except UserError as error:
            assert str(error).endswith(": no space left on device")
            place = str(error).removeprefix(f"cannot write {storage}/corpus/").split("/")
            stages.add("/".join(place[: 2 if place[0] == "work" else 1]))
            assert not (storage / "corpus/versions/v0001/manifest.json").exists()
        size = int(size * 1.3)
    assert len(stages) >= 4
    assert version_bytes(storage) == version_bytes(expected)

    # A read-only disk.
    remount(small_disk, f"size={size * 2}k", "ro")
    changed = configuration(raw, storage, "quality.basic.min_words=50")
    with pytest.raises(UserError, match=rf"cannot write {storage}/corpus/.*: read-only file system"):
        build(changed)
    remount(small_disk, f"size={size * 2}k", "rw")

    # A source that vanishes between the listing and the reading.
    second = tmp_path / "second"
    settings = configuration(raw, second)
    listed = commands.inputs_of(settings)
    gone = raw / "web" / "1.jsonl"
    gone.rename(raw / "kept")
    with pytest.raises(UserError, match=rf"^input file {gone} is not there any more$"):
        build(settings, listed)
    assert manifest.latest(settings.storage) is None
    (raw / "kept").rename(gone)
    build(settings, listed)
    assert version_bytes(second) == version_bytes(expected)
