"""A small project, and what commands do with its files: in this process, without Ray and MLflow."""

import contextlib
import hashlib
import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from base import claims, files, manifest
from base.layout import Layout
from base.manifest import Version
from pipelines.config import Config, load
from pipelines.runtime import tracking
from pipelines.runtime.executor import InProcess
from pipelines.runtime.progress import silent
from tests.helpers import builds

RUN = "r1"
FOREIGN = frozenset(
    {
        "storage.yaml",
        "storage/training/*/hf/config.json",
        "storage/training/*/hf/*.safetensors",
        "storage/training/*/hf/tokenizer.json",
        "storage/training/*/journal.jsonl",
        "storage/training/*/result.json",
        "storage/training/latest.json",
    }
)
"""Files without a seal or digest, which may as well be what somebody wanted: another result is right then."""


NEEDED = (
    "model.accelerator",  # before DeepSpeed
    "deepspeed.utils.zero_to_fp32",
    "model.generate",
    "model.restore",
    "model.score",
    "model.train",
    "pipelines.corpus.report.page",
    "pipelines.corpus.versions.rebuild",
    "pipelines.corpus.views.explain",
    "pipelines.corpus.views.export",
    "pipelines.inference.evaluate",
    "pipelines.inference.infer",
    "pipelines.training.trace",
)
"""Modules that commands import."""


def imported() -> None:
    """Import what commands need, so that forked processes have it."""
    import torch

    for name in NEEDED:
        importlib.import_module(name)
    torch.set_num_threads(1)


def corpora(place: Path) -> None:
    """Make the corpus of the project, two versions of it, and another one."""
    raw, storage = place / "raw", place / "storage"
    builds.write(raw / "books" / "a.jsonl", builds.documents(1, 60))
    builds.write(raw / "web" / "a.jsonl", builds.documents(2, 60))
    settings = builds.config(raw, storage)
    with _quiet():
        builds.run(settings)
        builds.write(raw / "web" / "new.jsonl", [*builds.documents(3, 30), *builds.documents(2, 5)])
        builds.refresh(settings)
        other = place / "other"
        builds.write(
            place / "raw-other" / "books" / "a.jsonl", [*builds.documents(4, 20), *builds.documents(1, 9)]
        )
        builds.write(place / "raw-other" / "web" / "a.jsonl", builds.documents(5, 20))
        given = manifest.require(str(storage), "v0001").tokenizer_url
        builds.run(builds.config(place / "raw-other", other, f"tokenize.tokenizer={given}"))


def models(place: Path) -> None:
    """Train on the first version, evaluate the model, and let it complete prompts."""
    from model.config import CheckpointConfig
    from pipelines.training import results
    from pipelines.training.results import RunResult
    from tests.helpers.training import run_here

    storage = place / "storage"
    with _quiet():
        version = manifest.require(str(storage), "v0001")
        summary = run_here(
            version.manifest_url,
            Layout(str(storage)).run(RUN),
            steps=3,
            samples={"tokens": 0},
            checkpoint=CheckpointConfig(asynchronous=False).model_dump(),
        )
        assert summary.hf_url is not None
        result = RunResult(
            **summary.model_dump(),
            version=version.name,
            manifest_hash=version.hash,
            model=summary.hf_url,
            unigram_entropy=1.0,
        )
        with claims.held(Layout(str(storage)).run(RUN), "jobs.train", _settings(place).claims) as claim:
            results.record(str(storage), RUN, result, claim)
        prompts = "".join(json.dumps({"prompt": text}) + "\n" for text in builds.documents(6, 3))
        (place / "prompts.jsonl").write_text(prompts)
        (place / "output").mkdir()
        (place / "documents.json").write_text(json.dumps(_documents(version)))
        _evaluate(place)
        _infer(place)


def prepared(command: str, place: Path) -> None:
    """Take away what a command shall make again."""
    corpus = place / "storage" / "corpus"

    def remove(*patterns: str) -> None:
        for pattern in patterns:
            for path in sorted(place.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    if command in ("build", "dedup"):
        remove("raw/web/new.jsonl", "storage/corpus/versions/v0002", "storage/corpus/index/v0002*")
        if command == "build":
            corpus.joinpath("versions/v0001/manifest.json").unlink()
    elif command == "refresh":
        remove("storage/corpus/versions/v0002", "storage/corpus/index/v0002*", "storage/corpus/work/dedup")
    elif command.endswith("again"):
        remove("storage/evaluation/*", "storage/inference/*")
    elif command.endswith("unfinished"):
        remove("storage/evaluation/*/*.*", "storage/inference/*/*.*")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No MLflow."""

    @contextlib.contextmanager
    def run(*_: Any, **__: Any) -> Iterator[tracking.TrackedRun]:
        yield tracking.TrackedRun(None, None)

    with (
        mock.patch.object(tracking, "run", run),
        mock.patch.object(tracking, "upstream", lambda *_, **__: {}),
        mock.patch.object(builds, "put_store", lambda _: None),
    ):
        yield


def _settings(place: Path) -> Config:
    return load(str(place / "storage.yaml"), ["infer.temperature=0", "infer.max_new_tokens=4"])


def _documents(version: Version) -> list[str]:
    """A document that is kept, and one that was dropped as a duplicate."""
    shard = next(shard for shard in version.shards if shard.split == "train")
    kept = files.read_parquet(version.below_versions(shard.origins), ["document_id"])
    dropped = files.read_parquet(version.file("dropped/duplicates.parquet"), ["document_id"])
    return [table["document_id"][0].as_py().hex() for table in (kept, dropped)]


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _bytes(version: Version) -> dict[str, str]:
    return {
        path: hashlib.sha256(content).hexdigest()
        for path, content in builds.version_bytes(version).items()
        if not path.endswith(".damaged")
    }


def _prepare(place: Path) -> Any:
    from pipelines.corpus.versions import commands

    settings = _settings(place)
    inputs = commands.inputs_of(settings)
    with _quiet():
        outcome = builds.run(settings, inputs=inputs)
    return [commands.summary(outcome)[-2:], _bytes(outcome.version)]


def _refresh(place: Path) -> Any:
    settings = _settings(place)
    with _quiet():
        return _bytes(builds.refresh(settings).version)


def _merge(place: Path) -> Any:
    with _quiet():
        return _bytes(builds.merge(_settings(place), str(place / "other")).version)


def _dedup(place: Path) -> Any:
    from dedup import runs
    from pipelines.corpus.versions import commands

    settings = _settings(place)
    inputs = commands.inputs_of(settings)
    with commands.claimed(settings, "dedup") as claim:
        folder = commands.deduplicated(
            settings, inputs, until="dropped", claim=claim, executor=InProcess(), progress=silent
        )
    urls = files.list_files(folder)
    rows = {url.removeprefix(folder): runs.read_metadata(url)["rows"] for url in urls}
    dropped = [files.read_parquet(url).to_pylist() for url in urls if "/dropped/" in url]
    return [rows, _digest(dropped)]


def _verify(place: Path) -> Any:
    from pipelines.corpus.versions.verify import open_versions, verify

    versions, damage = open_versions(manifest.manifest_urls(str(place / "storage")))
    damage += verify(versions, executor=InProcess(), progress=silent)
    return [[item.path, item.problem] for item in damage]


def _rebuild(place: Path) -> Any:
    from pipelines.corpus.versions.verify import open_versions, verify

    settings = _settings(place)
    versions, damage = open_versions(manifest.manifest_urls(settings.storage))
    damage += verify(versions, executor=InProcess(), progress=silent)
    if damage:
        damage = builds.mended(settings, versions, damage)
    return [[item.path for item in damage], [_bytes(version) for version in versions]]


def _explain(place: Path) -> Any:
    from pipelines.corpus.views.explain import explain

    version = manifest.require(str(place / "storage"))
    documents = json.loads((place / "documents.json").read_text())
    return [explain(version, document) for document in (*documents, "web/a.jsonl:3")]


def _export(place: Path) -> Any:
    from pipelines.corpus.views.export import export

    version = manifest.require(str(place / "storage"))
    pairs = export(
        version,
        str(place / "output"),
        sources=[],
        splits=["train", "heldout"],
        progress=silent,
        executor=InProcess(),
    )
    return [[files.digest(f"{pair.path}.bin"), files.digest(f"{pair.path}.idx")] for pair in pairs]


def _trace(place: Path) -> Any:
    from pipelines.training import trace

    opened = trace.RunSamples(str(place / "storage"), RUN)
    rows = trace.documents_of_step(opened, 1).to_pylist()
    seen = trace.steps_of_document(opened, rows[0]["document_id"]).to_pylist()
    return [opened.steps, _digest(rows), _digest(seen)]


def _train(place: Path) -> Any:
    from model import checkpoint, journal, restore
    from model.job import TrainJob, check, identity
    from tests.helpers.training import MODEL, settings

    storage = str(place / "storage")
    version = manifest.require(storage, "v0001")
    given = settings(steps=3, samples={"tokens": 0}, verify_shards=True)
    job = TrainJob(MODEL, given, version.manifest_url, Layout(storage).run(RUN))
    loader = check(job)
    newest = restore.latest(job.run_url)
    if newest is not None:
        checkpoint.check_description(newest, identity(job, loader))
    journal.read(job.run_url)
    return _digest(loader.tokens(np.arange(24)).tolist())


def _weights(place: Path) -> Any:
    from model import restore

    newest = restore.latest(Layout(str(place / "storage")).run(RUN))
    if newest is None:
        return "again"  # training begins with an older checkpoint, or from the start
    state = restore.consolidated_state(newest)
    return {name: _digest(tensor.tolist()) for name, tensor in sorted(state.items())}


def _evaluate(place: Path) -> Any:
    from pipelines.inference import models
    from pipelines.inference.evaluate import evaluate

    settings = _settings(place)
    model = models.find(settings.storage, None)
    models.check_fits(model)
    version = manifest.require(settings.storage, model.result.version if model.result else None)
    models.check_tokenizer(model, version)
    with _quiet():
        return evaluate(settings, version, model, silent, executor=InProcess())[0].to_json()


def _infer(place: Path) -> Any:
    from pipelines.inference import models
    from pipelines.inference.infer import infer

    settings = _settings(place)
    model = models.find(settings.storage, None)
    models.check_fits(model)
    with _quiet():
        result, _ = infer(settings, model, str(place / "prompts.jsonl"), silent, executor=InProcess())
    return [result.to_json(), files.digest(result.url)]


def _load(place: Path) -> Any:
    return _settings(place).model_dump(mode="json")


COMMANDS: dict[str, Callable[[Path], Any]] = {
    "build": _prepare,
    "prepare": _prepare,
    "refresh": _refresh,
    "merge": _merge,
    "dedup": _dedup,
    "verify": _verify,
    "rebuild": _rebuild,
    "explain": _explain,
    "export": _export,
    "trace": _trace,
    "train": _train,
    "weights": _weights,
    "evaluate": _evaluate,
    "evaluate again": _evaluate,
    "evaluate unfinished": _evaluate,
    "infer": _infer,
    "infer again": _infer,
    "infer unfinished": _infer,
    "load": _load,
}
"""What reads files, each in a project that `prepared` was called with."""
