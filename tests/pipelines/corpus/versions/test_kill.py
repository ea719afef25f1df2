"""SIGKILL of anything at any moment of a build: running it again gives the same bytes and repeats no task."""

import contextlib
import json
import multiprocessing
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
import yaml

from pipelines.config import load
from pipelines.corpus.versions import commands
from pipelines.runtime import cluster
from pipelines.runtime.executor import OnRay
from tests.helpers.sessions import kill_session
from tests.helpers.values import known

ROOT = Path(__file__).parents[4]
KINDS = ["driver"] * 21 + ["worker"] * 26 + ["raylet"] * 2 + ["cluster"] * 3
# Names of processes that run a task; Ray's agents and Ray Data's own actors have others.
TASKS = ("ray::Map", "ray::_run", "ray::decide", "ray::sample", "ray::write")
PHASES = ("measure", "decide", "dedup", "tokenize", "shard", "index")
FORK = multiprocessing.get_context("forkserver")


def start_command(folder: Path, storage: str, workers: int = 2) -> subprocess.Popen[bytes]:
    """Start jobs.prepare in a session of its own, so that all its processes can be killed at once."""
    command = [sys.executable, "-m", "jobs.prepare", "--config", str(folder / "config.yaml")]
    settings = [f"storage={storage}", "ray.address=local", f"ray.workers={workers}"]
    return subprocess.Popen(
        [*command, *(word for setting in settings for word in ("--set", setting))],
        env=os.environ | {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": workers})},
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw text of two sources, and the configuration."""
    place = tmp_path_factory.mktemp("kill")
    choose = random.Random(5)
    words = [f"w{number}" for number in range(500)]
    for source in ("books", "web"):
        (place / source).mkdir()
        for number in range(4):
            texts = [" ".join(choose.choices(words, k=choose.randrange(30, 300))) for _ in range(300)]
            texts += [text + " again" for text in texts[:30]] + texts[30:60]
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            (place / source / f"{number}.jsonl").write_text(lines + "broken\n")
    config = {
        "name": "kill",
        "storage": "overridden",
        "sources": [{"name": name, "urls": [f"{place}/{name}/*.jsonl"]} for name in ("books", "web")],
        "tokenize": {"vocab_size": 400, "train_bytes": 100000},
        "shard": {"target_tokens": 60000},
    }
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    return place


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, bytes]:
    """The version of a build by eight workers that was never killed; the others have two."""
    assert start_command(folder, str(folder / "whole"), workers=8).wait() == 0
    return contents(folder / "whole")


def contents(storage: Path) -> dict[str, bytes]:
    """Every file of the version but what killed tasks left."""
    version = storage / "corpus/versions/v0001"
    return {
        str(path.relative_to(version)): path.read_bytes()
        for path in version.rglob("*")
        if path.is_file() and not path.name.startswith(".tmp-")
    }


def finished_tasks(corpus: Path) -> dict[Path, int]:
    """Modification times of the files of every finished task."""
    found: list[Path] = []
    for mark in corpus.glob("parts/*/*.json"):
        found += corpus.glob(f"*/{mark.parent.name}/{mark.stem}.*")
    for pattern in ("work/decide/*/*.json", "work/tokens/*/*/*.json"):
        for mark in corpus.glob(pattern):
            found += mark.parent.glob(f"{mark.stem}.*")
    for mark in corpus.glob("work/shards/*/[!.]*.json"):
        source, name = mark.stem.split(".")
        found += [mark, *corpus.glob(f"versions/v0001/*/{source}/{name}.*")]
    for pattern in ("work/ordinals/*/*/*", "work/dedup/*/*/*", "work/tokenizer/*/*", "index/*/*/*"):
        found += corpus.glob(pattern)
    found += corpus.glob("index/*/index.json")
    return {path: path.stat().st_mtime_ns for path in found if path.is_file() and path.name[:1] != "."}


class Cluster:
    """A Ray cluster of two CPUs in a session of its own, started as often as it is killed."""

    def __init__(self) -> None:
        """Nothing runs yet; temporary files have short names, because sockets have."""
        self.folder = tempfile.mkdtemp(prefix="pk")
        self.process: multiprocessing.process.BaseProcess | None = None
        self.running, self.raylet = "", 0

    def address(self) -> str:
        """The address of the running cluster, which is started if there is none."""
        if self.process is None:
            self.pipe, theirs = FORK.Pipe()
            self.process = FORK.Process(target=hold_cluster, args=(theirs, self.folder), daemon=True)
            self.process.start()
            self.running, self.raylet = self.pipe.recv()
        return self.running

    def workers(self) -> list[int]:
        """Processes that run a task."""
        found = []
        for child in psutil.Process(self.raylet).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name().startswith(TASKS):
                    found.append(child.pid)
        return found

    def kill(self) -> None:
        """SIGKILL of all that is left of it."""
        if self.process is not None:
            kill_session(known(self.process.pid))
            self.process.join()
            self.process = None

    def close(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def hold_cluster(pipe: Connection, folder: str) -> None:
    """Run a cluster until this process is killed, or the one that wanted it is gone."""
    import ray
    import ray._private.worker

    os.setsid()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=folder,
    )
    node = ray._private.worker._global_node
    pipe.send((node.gcs_address, node.all_processes["raylet"][0].process.pid))
    with contextlib.suppress(EOFError):
        pipe.recv()


def drive(pipe: Connection, config: str, storage: str, address: str) -> None:
    """Build on a running cluster as jobs.prepare does, telling every step of the progress."""
    output = os.open(f"{storage}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    settings = load(config, [f"storage={storage}", f"ray.address={address}"])
    cluster.start(settings.ray)

    def progress(stage: str, done: int, *_: int) -> None:
        pipe.send((stage, done))

    executor = OnRay(workers=settings.ray.workers)
    with commands.claimed(settings, "prepare") as claim:
        inputs = commands.inputs_of(settings)
        commands.prepare(settings, inputs, claim=claim, executor=executor, progress=progress)


class Victim:
    """A build that is killed and run again until it is finished."""

    def __init__(
        self,
        folder: Path,
        storage: Path,
        expected: dict[str, bytes],
        ray: Cluster,
        choose: random.Random,
    ) -> None:
        """Nothing runs yet. The MLflow store is a copy, because making one takes seconds."""
        self.expected = expected
        self.config = str(folder / "config.yaml")
        self.storage = storage
        self.ray = ray
        self.choose = choose
        self.seen: set[tuple[str, int]] = set()
        self.kept: dict[Path, int] = {}
        self.kills: list[tuple[str, str]] = []
        storage.mkdir()
        shutil.copy(folder / "whole" / "mlflow.db", storage)

    def run(self, kinds: list[str]) -> bool:
        """One run of the build; whether it finished. The last of `kinds` says what to kill next."""
        pipe, theirs = FORK.Pipe()
        arguments = (theirs, self.config, str(self.storage), self.ray.address())
        driver = FORK.Process(target=drive, args=arguments, daemon=True)
        driver.start()
        theirs.close()
        fresh, wait = 0, self.choose.randrange(1, 5)
        while True:
            try:
                event = pipe.recv()
            except EOFError:
                driver.join()
                log = Path(f"{self.storage}.log").read_text()
                assert driver.exitcode == 0, f"after {self.kills[-5:]}: {log[-3000:]}"
                return True
            fresh += event not in self.seen
            self.seen.add(event)
            if fresh < wait or not kinds:
                continue
            fresh, wait = 0, self.choose.randrange(1, 5)
            time.sleep(self.choose.random() * 0.08)
            kind = kinds.pop()
            ended = self.kill(kind, driver, event[0])
            if driver.exitcode == 0:
                # The build was faster than its killer, who comes again in the next one.
                kinds.append(kind)
            if ended:
                return driver.exitcode == 0

    def kill(self, kind: str, driver: multiprocessing.process.BaseProcess, stage: str) -> bool:
        """Kill something; whether the driver has ended."""
        workers = self.ray.workers()
        for _ in range(20 if kind == "worker" else 0):
            workers = workers or self.ray.workers()
        if kind == "worker" and workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.choose.choice(workers), signal.SIGKILL)
        elif kind in ("driver", "worker"):
            kind = "driver"
            driver.kill()
        elif kind == "raylet":
            os.kill(self.ray.raylet, signal.SIGKILL)
            driver.join(timeout=5)
            driver.kill()
            self.ray.kill()
        else:
            driver.kill()
            self.ray.kill()
        if kind != "worker":
            driver.join()
        if driver.exitcode != 0:
            self.kills.append((kind, stage))
        self.check()
        return kind != "worker"

    def check(self) -> None:
        """No file of a task that was finished at an earlier kill has been written again.

        A visible version is whole.
        """
        if (self.storage / "corpus/versions/v0001/manifest.json").exists():
            assert contents(self.storage) == self.expected
        now = finished_tasks(self.storage / "corpus")
        again = [path for path, stamp in self.kept.items() if now.get(path, stamp) != stamp]
        assert not again, f"written again after {self.kills[-3:]}: {again}"
        self.kept |= now


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_bytes_after_fifty_kills_of_anything(
    folder: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A driver that did not start the cluster needs its token.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    FORK.set_forkserver_preload(
        ["pipelines.corpus.versions.commands", "mlflow", "mlflow.store.tracking.sqlalchemy_store"]
    )
    choose = random.Random(11)
    kinds = choose.sample(KINDS, len(KINDS))
    kills: list[tuple[str, str]] = []
    tasks = lost = 0
    ray = Cluster()
    try:
        while kinds:
            victim = Victim(folder, folder / f"killed-{len(kills)}", expected, ray, choose)
            while not victim.run(kinds):
                pass
            victim.check()
            assert (victim.storage / "corpus/versions/v0001/manifest.json").exists()
            kills += victim.kills
            tasks += len(victim.kept)
            lost += len(list(victim.storage.rglob(".tmp-*")))
    finally:
        ray.close()
    killed = Counter(kind for kind, _ in kills)
    phases = Counter(stage.split()[0] for _, stage in kills)
    print(f"{len(kills)} kills {dict(killed)} in {dict(phases)}: 0 of {tasks} finished files written again")
    print(f"{lost} files of tasks that were running when they were killed")
    assert len(kills) >= 50
    assert min(killed[kind] for kind in set(KINDS)) >= 2
    assert set(PHASES) <= set(phases)


@pytest.mark.ray
@pytest.mark.slow
def test_the_same_bytes_where_a_node_of_three_is_lost(
    folder: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """A head and two nodes, of which one is killed in the middle of the first map."""
    import ray
    from ray.cluster_utils import Cluster as Nodes

    ray.shutdown()
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    workers = [nodes.add_node(num_cpus=1), nodes.add_node(num_cpus=1)]
    variables = cluster.worker_environment() | {"PYTHONPATH": str(ROOT)}
    ray.init(address=nodes.address, runtime_env={"env_vars": variables}, log_to_driver=False)
    shutil.copy(folder / "whole" / "mlflow.db", tmp_path)
    settings = load(str(folder / "config.yaml"), [f"storage={tmp_path}"])

    def progress(stage: str, done: int, *_: int) -> None:
        if stage == "measure" and done == 2 and len(workers) == 2:
            nodes.remove_node(workers.pop(), allow_graceful=False)

    try:
        with commands.claimed(settings, "prepare") as claim:
            inputs, executor = commands.inputs_of(settings), OnRay(workers=None)
            commands.prepare(settings, inputs, claim=claim, executor=executor, progress=progress)
        assert len(workers) == 1 and contents(tmp_path) == expected
    finally:
        ray.shutdown()
        nodes.shutdown()
