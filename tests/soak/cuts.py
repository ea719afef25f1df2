"""Power cuts: what a command has said is done is on the disk, and what is not is made again, equal.

A storage lies on an ext4 file system in an image that writes names to the disk long before contents, unless
it is told to sync. The image lies on a file system whose files can be copied at a moment: such a copy is what
a power cut leaves. On it, what a command had said is done is looked at, and the command is run again.
"""

import atexit
import json
import random
import shutil
import sqlite3
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import xxhash

from tests.helpers import builds, images
from tests.soak import warm

OPTIONS = ("commit=1", "noauto_da_alloc")
"""Names reach the disk after a second, contents when the kernel likes, or when they are synced."""
MEBIBYTES = 96
AFTERWARDS = 0.25
"""Share of the cuts in the second after a command has said that it is done."""
RUN = "cut"
STEPS = 8


def _prepare(raw: Path, storage: Path) -> None:
    builds.run(builds.config(raw, storage, f'sources.1.urls=["{raw}/web/0.jsonl"]'))


def _refresh(raw: Path, storage: Path) -> None:
    builds.refresh(builds.config(raw, storage))


def _train(raw: Path, storage: Path, run: str = RUN) -> None:
    from base import manifest
    from base.claims import ClaimsConfig, held
    from base.layout import Layout
    from pipelines.training import results
    from tests.helpers.training import run_here

    if results.finished(str(storage), run) is not None:
        return
    version = manifest.require(str(storage))
    every = {"every": 2, "keep_last": 2}
    url = Layout(str(storage)).run(run)
    with held(url, "train", ClaimsConfig()) as claim:
        summary = run_here(version.manifest_url, url, steps=STEPS, checkpoint=every)
        result = results.RunResult(
            **summary.model_dump(),
            version=version.name,
            manifest_hash=version.hash,
            model=summary.hf_url or "",
            unigram_entropy=1.0,
        )
        results.record(str(storage), run, result, claim)


def _model(raw: Path, storage: Path) -> None:
    """What the other commands need: a version and a trained model."""
    _prepare(raw, storage)
    _train(raw, storage, run="base")


def _infer(raw: Path, storage: Path) -> None:
    from pipelines.inference.infer import infer
    from pipelines.inference.models import find
    from pipelines.runtime.executor import InProcess
    from pipelines.runtime.progress import silent

    config = builds.config(raw, storage, "infer.max_new_tokens=8", "infer.batch_size=16")
    infer(config, find(str(storage), "base"), str(raw / "prompts.txt"), silent, executor=InProcess())


def _evaluate(raw: Path, storage: Path) -> None:
    from base import manifest
    from pipelines.inference.evaluate import evaluate
    from pipelines.inference.models import find
    from pipelines.runtime.executor import InProcess
    from pipelines.runtime.progress import silent

    version, found = manifest.require(str(storage)), find(str(storage), "base")
    evaluate(builds.config(raw, storage), version, found, silent, executor=InProcess())


COMMANDS: dict[str, Callable[[Path, Path], None]] = {
    "prepare": _prepare,
    "refresh": _refresh,
    "train": _train,
    "infer": _infer,
    "evaluate": _evaluate,
}
RECORDED = {"prepare", "refresh", "infer", "evaluate"}
"""Those that MLflow has a run of, as they are called here."""


@dataclass(frozen=True)
class Seen:
    """What lies in a storage."""

    files: dict[str, str]
    """Digest by path, without what holds times."""
    artifacts: Counter[str]
    """Digests of MLflow's files."""
    finished: int
    """Runs that MLflow says are finished."""


def look(storage: Path) -> Seen:
    """Read a storage, and check what holds times."""
    files: dict[str, str] = {}
    artifacts: Counter[str] = Counter()
    for path in sorted(storage.rglob("*")):
        name = str(path.relative_to(storage))
        if not path.is_file() or ".tmp-" in name or name.startswith("mlflow.db") or "/stacks/" in name:
            continue
        if path.parent.name == "claim":  # its removal may be lost, and it is taken over
            continue
        content = path.read_bytes()
        if name.startswith("mlartifacts"):
            artifacts[xxhash.xxh3_128_hexdigest(content)] += 1
        elif name.startswith("training/") and path.name in ("journal.jsonl", "summary.json", "result.json"):
            files[name] = _without_times(content, name)
        elif "/checkpoints/" in name:
            if path.name == "checkpoint.json":
                files[name] = str(json.loads(content)["step"])
        else:
            files[name] = xxhash.xxh3_128_hexdigest(content)
    with sqlite3.connect(storage / "mlflow.db") as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (finished,) = store.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()
    store.close()
    return Seen(files, artifacts, finished)


def _without_times(content: bytes, name: str) -> str:
    """The losses of a journal by step, or what a run was and lost, as text."""
    if name.endswith(".jsonl"):
        steps = [json.loads(line) for line in content.splitlines()]
        return repr([(step["step"], step["loss"]) for step in steps])
    value = json.loads(content)
    return repr([value[field] for field in ("step", "tokens", "first_loss", "last_loss", "hf_url")])


@dataclass(frozen=True)
class Disk:
    """A file system whose files can be copied at a moment, and the images on it."""

    root: Path

    @property
    def place(self) -> Path:
        """Where images are mounted, always the same: manifests hold paths."""
        return self.root / "disk"

    @property
    def storage(self) -> Path:
        """The storage on a mounted image."""
        return self.place / "storage"

    @property
    def raw(self) -> Path:
        """Source files and prompts, which no cut harms."""
        return self.root / "raw"

    def image(self, name: str) -> Path:
        """An image by its name."""
        return self.root / "images" / f"{name}.img"

    def start(self, command: Callable[[Path, Path], None], told: Path) -> ForkServerProcess:
        """Begin a command in a process; the folder `told` holds `done` when it has said that it is."""
        process = warm.context().Process(target=_work, args=(command, self.raw, self.storage, told))
        process.start()
        return process

    def finish(self, command: Callable[[Path, Path], None], told: Path) -> float:
        """Run a command to its end; its seconds."""
        begin = time.monotonic()
        process = self.start(command, told)
        process.join()
        assert not process.exitcode, (told / "error").read_text()
        return time.monotonic() - begin


def _work(command: Callable[[Path, Path], None], raw: Path, storage: Path, told: Path) -> None:
    try:
        command(raw, storage)
    except BaseException:
        (told / "error").write_text(traceback.format_exc())
        raise
    (told / "done").touch()


@cache
def _disk() -> Disk:
    """The disk, with sources and prompts."""
    images.require("xfs", "ext4")
    disk = Disk(Path(tempfile.mkdtemp(prefix="cuts-")))
    atexit.register(shutil.rmtree, disk.root, ignore_errors=True)
    outer = disk.root / "outer.img"
    images.make(outer, "xfs", 4096)
    for folder in (disk.place, disk.image("x").parent, disk.root / "told"):
        folder.mkdir()
    mounted = images.mounted(outer, disk.image("x").parent)
    mounted.__enter__()
    atexit.register(mounted.__exit__, None, None, None)
    builds.write(disk.raw / "books" / "0.jsonl", builds.documents(1, 60))
    builds.write(disk.raw / "web" / "0.jsonl", builds.documents(2, 60))
    builds.write(disk.raw / "web" / "1.jsonl", builds.documents(3, 40))
    (disk.raw / "prompts.txt").write_text("".join(f"{text[:40]}\n" for text in builds.documents(4, 100)))
    return disk


@cache
def _base(name: str) -> Path:
    """The image from which a command begins: with an empty store of MLflow, or a version and a model too."""
    disk = _disk()
    if name == "prepare":
        image = disk.image("new")
        images.make(image, "ext4", MEBIBYTES)
        with images.mounted(image, disk.place):
            disk.storage.mkdir()
            (disk.storage / "mlflow.db").write_bytes(builds.empty_store())
        return image
    image = disk.image("model")
    if not image.exists():
        images.copy(_base("prepare"), image)
        with images.mounted(image, disk.place):
            disk.finish(_model, disk.root / "told")
    return image


@cache
def _uncut(name: str) -> tuple[Seen, Seen, float]:
    """The storage before and after a command that nothing cuts, and its seconds."""
    disk = _disk()
    images.copy(_base(name), disk.image("uncut"))
    with images.mounted(disk.image("uncut"), disk.place):
        before = look(disk.storage)
        seconds = disk.finish(COMMANDS[name], disk.root / "told")
        return before, look(disk.storage), seconds


def draw(seed: int, folder: Path) -> dict[str, int]:
    """One power cut."""
    disk, choose = _disk(), random.Random(seed)
    name = choose.choice(list(COMMANDS))
    before, after, seconds = _uncut(name)
    afterwards = choose.random() < AFTERWARDS
    moment = choose.uniform(0, 1) if afterwards else choose.uniform(0, seconds)
    images.copy(_base(name), disk.image("running"))
    with images.mounted(disk.image("running"), disk.place, *OPTIONS):
        process = disk.start(COMMANDS[name], folder)
        process.join(None if afterwards else moment)
        if afterwards:
            time.sleep(moment)
        said = (folder / "done").exists()
        images.copy(disk.image("running"), disk.image("cut"))
        process.kill()
        process.join()
        assert not (folder / "error").exists(), (folder / "error").read_text()
    story = f"{name} {'had said done' if said else 'was at work'}, cut {moment:.2f} s"
    with images.mounted(disk.image("cut"), disk.place):
        found = look(disk.storage)
        for path, digest in before.files.items():
            assert found.files.get(path) in (digest, after.files[path]), f"{story}: {path} was whole before"
        if said:
            _same(found, after, story)
            assert found.finished == after.finished, f"{story}: MLflow has {found.finished} finished runs"
            lost = after.artifacts - found.artifacts
            assert not lost, f"{story}: {lost.total()} files of MLflow are lost"
        disk.finish(COMMANDS[name], folder)
        _same(look(disk.storage), after, f"{story}, and run again")
    return {name: 1, "done": int(said), "at work": int(not said)}


def _same(found: Seen, expected: Seen, story: str) -> None:
    """Fail unless the files of a storage are those of an undisturbed one."""
    names = found.files.keys() | expected.files.keys()
    different = sorted(name for name in names if found.files.get(name) != expected.files.get(name))
    assert not different, f"{story}: {len(different)} files differ: {', '.join(different[:10])}"
