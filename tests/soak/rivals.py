"""Two or three commands at once on one storage, killed and stopped at every phase, and begun again.

A draw is a schedule: builds with different settings, refreshes with different new files and a merge,
trainings of one run, or batch inferences into one folder. Each command may be killed, or stopped for longer
than it may be silent and then go on, at a random call that brings something to the disk. Then all are run
again, one after the other, and what lies there must be what commands that never met would have made.

A process of its own has imported everything and compiled the kernels; each command is a fork of it.
"""

import contextlib
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import base  # noqa: F401 - before numba
from base import files, manifest
from base.errors import UserError
from pipelines.config import Config
from pipelines.corpus.versions.verify import verify
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent
from tests.helpers import builds

ROOT = Path(__file__).parents[2]
STALE = 0.5
"""Seconds after which a silent command counts as gone."""
PATIENCE = 300.0
"""Seconds that a schedule may take on a busy machine."""
CALLS = ("fsync", "link", "replace", "rename", "unlink")
"""Functions of `os` at which a command may be hit."""
TAKEN = "was taken to be gone"
REFUSALS = re.compile(
    f"{TAKEN}|is being written by|run jobs.prepare first|is of other prompts|is there already|"
    "is not what this command has written"
)
"""What a command may say when it stops."""
STEPS = 8
PROMPTS = 70


def draw(seed: int, folder: Path) -> dict[str, int]:
    """One schedule in an empty folder; counts of what happened."""
    process = _server()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps([seed, str(folder)]) + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    if isinstance(answer, str):
        raise AssertionError(answer)
    counts: dict[str, int] = answer
    return counts


@cache
def _server() -> subprocess.Popen[str]:
    """The process that forks the commands."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.soak.rivals"]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@dataclass(kw_only=True)
class Rival:
    """A command, and what befalls it."""

    name: str
    do: Callable[[], None]
    log: Path
    fault: str | None = None
    """kill or stop."""
    at: int = 0
    """The call at which it does."""
    delay: float = 0.0
    """Seconds before it begins."""
    pause: float = 0.0
    """Seconds that it stands still."""

    def start(self) -> int:
        """Fork it; its process id."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            time.sleep(self.delay)
            self._arm()
            self.do()
            code = 0
        except UserError as error:
            print(f"error: {error}", flush=True)
            code = 2 if REFUSALS.search(str(error)) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _arm(self) -> None:
        """Let the fault come when the command has brought so much to the disk."""
        if self.fault is None:
            return
        number = signal.SIGKILL if self.fault == "kill" else signal.SIGSTOP
        left = self.at

        def hit(function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **keywords: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), number)
                return function(*arguments, **keywords)

            return wrapped

        for name in CALLS:
            setattr(os, name, hit(getattr(os, name)))


def _together(rivals: list[Rival]) -> Counter[str]:
    """Run commands at the same time; counts of what became of them."""
    counts: Counter[str] = Counter()
    running = {rival.start(): rival for rival in rivals}
    waking: dict[int, float] = {}
    end = time.monotonic() + PATIENCE
    try:
        while running:
            for child, rival in list(running.items()):
                done, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
                if done and os.WIFSTOPPED(status):
                    waking[child] = time.monotonic() + rival.pause
                    counts["stopped"] += 1
                elif done:
                    del running[child]
                    counts[_end(rival, status)] += 1
                elif waking.get(child, end) < time.monotonic():
                    del waking[child]
                    os.kill(child, signal.SIGCONT)
            assert time.monotonic() < end, f"{[rival.name for rival in running.values()]} never end"
            time.sleep(0.003)
    finally:
        for child in running:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return counts


def _end(rival: Rival, status: int) -> str:
    """What became of a command, in a word; raises AssertionError for what must not."""
    code = os.waitstatus_to_exitcode(status)
    names = {0: "finished", 2: "refused", -signal.SIGKILL: "killed"}
    log = rival.log.read_text()
    assert code in names, f"{rival.name} ended with {code}: {log}"
    return "shut out" if code == 2 and TAKEN in log.splitlines()[-1] else names[code]


def _schedule(rivals: list[Rival], choose: random.Random, calls: int) -> Counter[str]:
    """Run rivals with faults, and then one after the other until each is done or refused for good."""
    for rival in rivals:
        rival.delay = choose.choice([0.0, 0.0, choose.uniform(0, 0.3)])
        rival.fault = choose.choice([None, "kill", "stop"])
        rival.at = choose.randrange(1, calls)
        rival.pause = choose.uniform(0, 4 * STALE)
    counts = _together(rivals)
    for rival in rivals:
        rival.fault, rival.delay = None, 0.0
        for name, count in _together([rival]).items():
            counts[f"again {name}"] += count
    return counts


class Stage:
    """What all schedules share: a folder of texts, corpora and references that none of them changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for source in ("books", "web"):
            builds.write(folder / "raw" / source / "0.jsonl", builds.documents(len(source), 20))
        first = builds.config(folder / "raw", folder / "first", *self.overrides(False))
        self.tokenizer: str | None = None
        self.tokenizer = builds.run(first).version.tokenizer_url
        builds.write(folder / "theirs" / "books" / "0.jsonl", builds.documents(50, 12))
        builds.write(folder / "theirs" / "web" / "0.jsonl", builds.documents(5, 12))
        builds.run(builds.config(folder / "theirs", folder / "other", *self.overrides(False)))
        self.other = manifest.require(str(folder / "other"))
        self.corpus = builds.run(self.config("corpus", folder / "raw")).version
        self.shards = {settings: self._shards(*settings) for settings in SETTINGS}

    def overrides(self, wait: bool) -> list[str]:
        """Settings of all corpora; MLflow is away."""
        tokenizer = [f"tokenize.tokenizer={self.tokenizer}"] if getattr(self, "tokenizer", None) else []
        claims = [f"claims.wait={wait}", f"claims.stale_seconds={STALE}"]
        return ["tracking.uri=sqlite:////proc/none/mlflow.db", *tokenizer, *claims]

    def config(self, name: str, raw: Path, *more: str, wait: bool = True) -> Config:
        """The configuration of a storage in a schedule's or this folder."""
        place = self.folder if "/" not in name else Path(name).parent
        return builds.config(raw, place / Path(name).name, *self.overrides(wait), *more)

    def _shards(self, *settings: str) -> list[dict[str, Any]]:
        """The shards of a build with these settings that nothing disturbed."""
        storage = self.folder / f"alone-{files.key_of(settings)}"
        version = builds.run(builds.config(self.folder / "raw", storage, *self.overrides(True), *settings))
        return [shard.to_json() for shard in version.version.own_shards]


SETTINGS = (
    ("shard.seed=1", "shard.heldout_fraction=0.1"),
    ("shard.seed=2", "shard.heldout_fraction=0.1"),
    ("shard.seed=1", "shard.heldout_fraction=0.3"),
)
"""Of builds whose shards have the same names and other contents."""


def builds_of_different_settings(stage: Stage, choose: random.Random, folder: Path) -> Counter[str]:
    """Builds on a new storage: each makes a version of its own, with the shards that it makes alone."""
    chosen = choose.sample(SETTINGS, choose.choice([2, 3]))
    storage, rivals = str(folder / "storage"), []
    for number, settings in enumerate(chosen):
        config = stage.config(storage, stage.folder / "raw", *settings, wait=choose.random() < 0.7)
        rivals.append(Rival(name=f"prepare {settings}", do=_prepare(config), log=folder / f"{number}.log"))
    counts = _schedule(rivals, choose, 350)
    versions = _sound(storage)
    assert len(versions) == len(chosen), [version.name for version in versions]
    for settings in chosen:
        (mine,) = [version for version in versions if _made_with(version, settings)]
        assert mine.manifest.parent is None
        expected = [{**shard, "version": mine.name} for shard in stage.shards[settings]]
        found = [shard.to_json() for shard in mine.own_shards]
        for shard in [*expected, *found]:
            shard["path"] = shard["path"].partition("/")[2]
        assert found == expected, f"{mine.name} is mixed"
    return counts


def _made_with(version: manifest.Version, settings: tuple[str, ...]) -> bool:
    """Whether the configuration of a version has these settings."""
    shard = version.manifest.config["shard"]
    return all(str(shard[name]) == value for name, value in (one[6:].split("=") for one in settings))


FIRST = ("prepare", "refresh", "refresh")
LATER = ("refresh", "refresh", "merge")
"""Commands on a storage that holds no version, and on one that does."""


def additions(stage: Stage, choose: random.Random, folder: Path) -> Counter[str]:
    """Refreshes with different new files, and a merge or a build: every file is in the chain of versions."""
    raw, storage = folder / "raw", str(folder / "storage")
    shutil.copytree(stage.folder / "raw", raw)
    base_there = choose.random() < 0.7
    if base_there:
        _quiet(lambda: builds.run(stage.config(storage, raw)))
    rivals = []
    for number in range(choose.choice([2, 3])):
        config = stage.config(storage, raw, wait=choose.random() < 0.7)
        log = folder / f"{number}.log"
        kind = choose.choice(LATER) if base_there else FIRST[number]
        if kind == "merge":
            rivals.append(Rival(name="merge", do=_merge(config, str(stage.folder / "other")), log=log))
        elif kind == "prepare":
            rivals.append(Rival(name="prepare", do=_prepare(config), log=log))
        else:
            new = raw / "web" / f"new-{number}.jsonl"
            texts = builds.documents(choose.randrange(10**6), 8)
            rivals.append(Rival(name=f"refresh {new.name}", do=_refresh(config, new, texts), log=log))
    counts = _schedule(rivals, choose, 350)
    versions = _sound(storage)
    every = {item.file for version in versions for item in version.inputs}
    assert {str(path) for path in raw.rglob("*.jsonl")} <= every, "an input is lost"
    if base_there:
        for parent, version in zip(versions[:-1], versions[1:], strict=True):
            assert version.manifest.parent_manifest_hash == parent.hash, f"{parent.name} is lost"
        last = {item.file for item in versions[-1].inputs}
        assert every <= last, "an input is lost"
        merged = [version for version in versions if version.manifest.merged]
        assert len(merged) == any(rival.name == "merge" for rival in rivals)
    return counts


def trainings(stage: Stage, choose: random.Random, folder: Path) -> Counter[str]:
    """Trainings of one run: every step once, and the losses of a run that nothing disturbed."""
    _set_up_models(stage)
    from model import checkpoint, journal
    from pipelines.training import results

    rivals = []
    for number in range(choose.choice([2, 3])):
        do = _train(stage, folder / "storage", wait=choose.random() < 0.7)
        rivals.append(Rival(name="train", do=do, log=folder / f"{number}.log"))
    counts = _schedule(rivals, choose, 60)
    run_url = str(folder / "storage" / "training" / "run")
    records = journal.read(run_url)
    assert [record.step for record in records] == list(range(1, STEPS + 1)), "steps are doubled or lost"
    expected = journal.read(str(stage.folder / "trained" / "training" / "run"))
    assert [record.loss for record in records] == [record.loss for record in expected]
    result = results.finished(str(folder / "storage"), "run")
    assert result is not None and result.step == STEPS and result.checkpoint_url is not None
    assert checkpoint.damage(result.checkpoint_url) is None
    assert not (Path(run_url) / "claim").exists()
    return counts


def inferences(stage: Stage, choose: random.Random, folder: Path) -> Counter[str]:
    """Batch inferences into one folder, of the same prompts or others: every row once, of one of them."""
    _set_up_models(stage)
    rivals = []
    for number in range(choose.choice([2, 3])):
        prompts = choose.choice(["one", "one", "two"])
        do = _infer(stage, folder / "output", prompts, wait=choose.random() < 0.7)
        rivals.append(Rival(name=f"infer {prompts}", do=do, log=folder / f"{number}.log"))
    counts = _schedule(rivals, choose, 30)
    result = files.read_json(str(folder / "output" / "result.json"))
    alone = {name: stage.folder / f"output-{name}" for name in ("one", "two")}
    (name,) = [
        name
        for name, place in alone.items()
        if files.read_json(f"{place}/result.json")["key"] == result["key"]
    ]
    assert f"infer {name}" in {rival.name for rival in rivals}
    assert (folder / "output/results.jsonl").read_bytes() == (alone[name] / "results.jsonl").read_bytes()
    assert not (folder / "output/claim").exists()
    return counts


def _sound(storage: str) -> list[manifest.Version]:
    """The versions of a storage, every file of which is what its manifest says; nobody claims it."""
    versions = manifest.versions(storage)
    assert [version.name for version in versions] == [f"v{n + 1:04d}" for n in range(len(versions))]
    damage = verify(versions, executor=InProcess(), progress=silent)
    assert not damage, damage
    assert not Path(storage, "corpus", "claim").exists()
    return versions


def _prepare(config: Config) -> Callable[[], None]:
    return lambda: _quiet(lambda: builds.run(config))


def _refresh(config: Config, new: Path, texts: list[str]) -> Callable[[], None]:
    def do() -> None:
        if not new.exists():
            builds.write(new.with_suffix(".part"), texts)
            new.with_suffix(".part").rename(new)
        builds.refresh(config)

    return lambda: _quiet(do)


def _merge(config: Config, other: str) -> Callable[[], None]:
    return lambda: _quiet(lambda: builds.merge(config, other))


def _train(stage: Stage, storage: Path, wait: bool) -> Callable[[], None]:
    from model.job import TrainJob
    from model.train import train as train_here
    from pipelines.runtime import charts
    from pipelines.training import launch, run
    from tests.helpers.training import MODEL, settings

    changes: dict[str, Any] = {"steps": STEPS, "checkpoint": {"every": 3, "asynchronous": False}}
    content = {
        "name": "test",
        "storage": str(storage),
        "sources": [{"name": "books", "urls": ["unused"]}],
        "model": MODEL.model_dump(),
        "train": settings(**changes).model_dump(),
        "tracking": {"uri": "sqlite:////proc/none/mlflow.db"},
        "claims": {"wait": wait, "stale_seconds": STALE},
    }
    config = Config.model_validate(content)

    def launched(config: Config, manifest_url: str, run_url: str, *rest: Any) -> Any:
        return train_here(
            TrainJob(config.model, config.train, manifest_url, run_url, config.mixture, rest[-1])
        )

    def do() -> None:
        with (
            mock.patch.object(launch, "launch", launched),
            mock.patch.object(charts, "training", lambda *_: b"picture"),
            run.claimed(config, "run") as claim,
        ):
            run.train(config, stage.corpus, "run", claim=claim)

    return lambda: _quiet(do)


def _infer(stage: Stage, output: Path, prompts: str, wait: bool) -> Callable[[], None]:
    from pipelines.inference.infer import infer
    from pipelines.inference.models import ModelFolder
    from tests.helpers.models import config_of

    model = ModelFolder(name="tiny", url=str(stage.folder / "model" / "hf"), result=None)
    config = config_of(
        stage.folder / "inferred",
        infer={"max_new_tokens": 4, "temperature": 0, "output": str(output)},
        claims={"wait": wait, "stale_seconds": STALE},
    )
    url = str(stage.folder / f"{prompts}.jsonl")
    return lambda: _quiet(lambda: infer(config, model, url, silent, executor=InProcess()))


def _quiet(do: Callable[[], Any]) -> None:
    """Run a command with a report that takes no time, and without MLflow's warnings."""
    from pipelines.corpus.report import page

    def report(
        found: Any,
        contents: Any,
        tables: Any,
        url: str,
        limits: Any = None,
        write: Any = files.write_bytes,
    ) -> None:
        write(url, files.json_bytes(found.ledger))

    logging.disable(logging.WARNING)
    with mock.patch.object(page, "write_report", report):
        do()


def _alone(do: Callable[[], None], log: Path) -> None:
    """Run a command in a fork."""
    assert _together([Rival(name="alone", do=do, log=log)]) == {"finished": 1}, log.read_text()


def _set_up(folder: Path) -> Stage:
    """Import what builds need, compile the kernels and make what they are compared with."""
    stages: list[Stage] = []
    _quiet(lambda: stages.append(Stage(folder)))
    return stages[0]


@cache
def _set_up_models(stage: Stage) -> None:
    """Import what models need, and make what their schedules are compared with."""
    import torch

    import model.train  # noqa: F401
    import pipelines.runtime.charts
    import pipelines.training.launch  # noqa: F401
    from tests.helpers.models import VOCAB, write_model

    torch.set_num_threads(1)
    folder = stage.folder

    def make_model() -> None:
        write_model(folder / "model")

    _alone(make_model, folder / "log")
    for number, name in enumerate(("one", "two")):
        rows = [
            " ".join(f"w{1 + (row * 7 + place * 3 + number) % (VOCAB - 1)}" for place in range(row % 9))
            for row in range(PROMPTS)
        ]
        lines = [json.dumps({"id": f"row {row}", "prompt": text}) for row, text in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        _alone(_infer(stage, folder / f"output-{name}", name, wait=False), folder / "log")
    _alone(_train(stage, folder / "trained", wait=False), folder / "log")


SCHEDULES = {
    builds_of_different_settings: 3,
    additions: 4,
    trainings: 2,
    inferences: 1,
}
"""How often each comes."""


def main() -> None:
    """Answer a line [seed, folder] with counts, or with the story of a failure."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="rivals-") as place, contextlib.suppress(KeyboardInterrupt):
        stage = _set_up(Path(place))
        for line in sys.stdin:
            seed, folder = json.loads(line)
            choose = random.Random(seed)
            (schedule,) = choose.choices(list(SCHEDULES), list(SCHEDULES.values()))
            try:
                counts = schedule(stage, choose, Path(folder))
                counts[schedule.__name__.replace("_", " ")] += 1
                answer: Any = dict(counts)
            except Exception:
                logs = [f"{log.name}: {log.read_text()}" for log in sorted(Path(folder).glob("*.log"))]
                answer = "\n".join([f"{schedule.__name__}: {traceback.format_exc()}", *logs])
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
