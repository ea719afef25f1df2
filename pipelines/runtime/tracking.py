"""MLflow: one run for every command, found again after a kill, and never a reason to stop.

Training metrics are shipped from the journal that the loop writes (pipelines.training.shipping); an outage
delays them. Whatever else cannot be recorded is a warning.
"""

import contextlib
import json
import logging
import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from base import files
from base.claims import TakenOverError
from base.credentials import hide
from base.errors import UserError
from base.layout import name_of
from pipelines.config import Config
from pipelines.runtime.progress import Pace, Progress

PREFIX = "piledriver."
ANSWER_SECONDS = 5.0
"""What a tracking server has to answer in."""
SILENT_SECONDS = 30.0
"""How long one that did not is left alone before it is asked again."""
MODEL = "model"
"""Folder among the artifacts of a run that says where a model lies which the tracking server cannot reach."""
log = logging.getLogger("piledriver.tracking")


@dataclass(frozen=True)
class Tracking:
    """Where runs go: MLflow tracking URI, experiment name and the folder of its artifacts."""

    uri: str
    experiment: str
    artifacts: str | None

    @classmethod
    def of(cls, config: Config) -> "Tracking":
        """The tracking settings of a project; raises UserError if remote storage has no tracking URI."""
        experiment = config.tracking.experiment or config.name
        if config.tracking.uri:
            return cls(config.tracking.uri, experiment, None)
        local = files.local_path(config.storage)
        if local is None:
            raise UserError(f"tracking.uri must be set, because storage {config.storage} is not local")
        return cls(f"sqlite:///{local}/mlflow.db", experiment, f"file://{local}/mlartifacts")


class TrackedRun:
    """One MLflow run; a failed call is a warning."""

    def __init__(self, client: Any, run_id: str | None, uri: str = "", artifacts: str = "") -> None:
        """A run of `client`, whose store is at `uri`; without a run id nothing is recorded.

        artifacts: URI of the folder of its artifacts.
        """
        self.client = client
        self.id = run_id
        self.uri = uri
        self.artifacts = artifacts
        self.warned: set[str] = set()

    def _try(self, function: str, *arguments: Any, **keywords: Any) -> None:
        if self.id is None:
            return
        if self.warned and not answers(self.uri):
            self.warned.add(function)
            return
        try:
            getattr(self.client, function)(self.id, *arguments, **keywords)
        except Exception as error:
            if function not in self.warned:
                log.warning("MLflow did not record %s: %s", function, hide(str(error)))
            self.warned.add(function)

    def tags(self, tags: dict[str, str]) -> None:
        """Set tags, under the prefix `piledriver.`."""
        for name, value in tags.items():
            self._try("set_tag", PREFIX + name, hide(value))

    def params(self, values: dict[str, Any]) -> None:
        """Log nested configuration values as flat parameters.

        MLflow's parameters cannot change. A continued run keeps the former value, and the tag
        `piledriver.now.<name>` has the new one.
        """
        from mlflow.entities import Param

        flat = {name: hide(str(value))[:500] for name, value in flatten(values)}
        before = self._params()
        self.tags(
            {f"now.{name}": flat[name] for name in before if flat.get(name, before[name]) != before[name]}
        )
        fresh = [Param(name, value) for name, value in flat.items() if name not in before]
        for start in range(0, len(fresh), 100):
            self._try("log_batch", params=fresh[start : start + 100])

    def _params(self) -> dict[str, str]:
        """The parameters that the run has already; none when MLflow does not tell."""
        if self.id is None:
            return {}
        try:
            return dict(self.client.get_run(self.id).data.params)
        except Exception as error:
            log.debug("MLflow did not give the parameters: %s", hide(str(error)))
            return {}

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log metrics of one step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._try("log_batch", metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def artifact(self, url: str, folder: str | None = None) -> None:
        """Log one file as an artifact."""
        local = files.local_path(url)
        if local is not None:
            self._try("log_artifact", local, folder)
            return
        with tempfile.TemporaryDirectory(prefix="piledriver-artifact-") as place:
            copy = Path(place, name_of(url))
            copy.write_bytes(files.read_bytes(url))
            self._try("log_artifact", str(copy), folder)

    def sync(self) -> None:
        """Bring artifacts that lie in a local folder to the disk: MLflow copies them there and no more."""
        place = urlsplit(self.artifacts)
        path = Path(unquote(place.path))
        if not self.artifacts or place.scheme not in ("", "file") or not path.is_dir():
            return
        try:
            for folder, _, names in os.walk(path):
                for name in names:
                    files.sync(os.path.join(folder, name))
                files.sync(folder)
            for parent in list(path.parents)[:3]:  # names of folders up to the store
                files.sync(str(parent))
        except OSError as error:
            log.warning("MLflow's artifacts below %s may not be on the disk: %s", path, error)

    def dataset(self, name: str, digest: str, url: str, profile: dict[str, Any], context: str) -> None:
        """Log a dataset as an input; context says what for. digest: 36 characters at most."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        protocol = url.split("://")[0] if "://" in url else "file"
        kind = "local" if protocol == "file" else protocol
        url = hide(url)
        source = json.dumps({"uri": url if "://" in url else f"file://{url}"})
        dataset = Dataset(name, digest, kind, source, schema=None, profile=hide(json.dumps(profile)))
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        self._try("log_inputs", datasets=[entry])

    def model(self, name: str, url: str, bits_per_byte: float | None) -> None:
        """Register a finished model as a version of `name`: MLflow's own alias `latest` is the newest.

        The alias `best` goes to the version with the fewest `bits_per_byte` of held-out text, which mean the
        same for any tokenizer; None or what is not finite does not count. A run has one version, however
        often it is registered.
        """
        if self.id is None:
            return
        try:
            _register(self.client, self.id, name, url, bits_per_byte, self.uri.startswith("http"))
        except Exception as error:
            log.warning("MLflow did not register the model %s: %s", hide(url), hide(str(error)))
            self.warned.add("model")


def _register(
    client: Any, run_id: str, name: str, url: str, bits_per_byte: float | None, remote: bool
) -> None:
    """Make the run's model a version of `name`, unless it is one; then set the alias `best`.

    remote: whether the store is a server, which takes no folder of this machine for a model: what it is given
    is an artifact of the run that names the folder.
    """
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    tag = PREFIX + "heldout_bits_per_byte"
    versions = list(client.search_model_versions(f"name = '{name}'"))
    if all(version.run_id != run_id for version in versions):
        tags = {PREFIX + "url": hide(url)} | ({} if bits_per_byte is None else {tag: str(bits_per_byte)})
        source = hide(url)
        if remote and files.local_path(url) is not None:
            client.log_dict(run_id, {"url": url, "host": socket.gethostname()}, f"{MODEL}/model.json")
            source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL}"
        versions.append(client.create_model_version(name, source, run_id=run_id, tags=tags))
    found = {version.version: float(version.tags.get(tag, "nan")) for version in versions}
    finite = [number for number, value in found.items() if math.isfinite(value)]
    if finite:
        client.set_registered_model_alias(name, "best", min(finite, key=lambda number: found[number]))


_asked: dict[str, tuple[float, bool]] = {}
"""When a tracking server was asked the last time, and whether it answered, by URI."""


def answers(uri: str) -> bool:
    """Whether the tracking server at a URI answers at all; it is asked once a while. Files always answer."""
    if not uri.startswith("http"):
        return True
    asked, good = _asked.get(uri, (-math.inf, True))
    if time.monotonic() - asked < SILENT_SECONDS:
        return good
    try:
        requests.head(uri, timeout=ANSWER_SECONDS)
        good = True
    except requests.RequestException:
        good = False
    _asked[uri] = time.monotonic(), good
    return good


def client_of(tracking: Tracking) -> Any:
    """An MLflow client, with the libraries' chatter switched off.

    Raises ConnectionError for a tracking server that does not answer: it would hold a command up for minutes.
    """
    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    if not answers(tracking.uri):
        raise ConnectionError(f"it did not answer within {ANSWER_SECONDS:g} s")
    from mlflow import MlflowClient

    store = _store_file(tracking)
    if store is not None and not store.exists():
        store.parent.mkdir(parents=True, exist_ok=True)
        _make_store(store)
    return MlflowClient(tracking.uri)


def _make_store(path: Path) -> None:
    """Put an empty store at a path where there is none.

    MLflow would make it there, step by step, and not ask whether another command does the same: both would
    fail, and so would all later ones where a kill comes in between.
    """
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix="piledriver-store-") as folder:
        made = Path(folder, "mlflow.db")
        MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
        files.create(str(path), made.read_bytes())


def _store_file(tracking: Tracking) -> Path | None:
    """The file of a store that SQLite keeps, None for another."""
    prefix = "sqlite:///"
    return Path(tracking.uri.removeprefix(prefix)) if tracking.uri.startswith(prefix) else None


@contextlib.contextmanager
def run(
    tracking: Tracking, command: str, key: str, tags: dict[str, str], again: bool = False
) -> Iterator[TrackedRun]:
    """The MLflow run of one command and one piece of work.

    `key` names the work: a run of the same command and key that did not finish is continued; with `again`
    one that did, too.
    """
    opened = _open(tracking, command, key, tags, again)
    try:
        yield opened
    except TakenOverError:  # the run is that of the command that has taken over, if it does the same work
        raise
    except BaseException:
        opened._try("set_terminated", "FAILED")
        raise
    opened.sync()
    opened._try("set_terminated", "FINISHED")
    store = _store_file(tracking)
    if store is not None:
        # SQLite's last change counts when its journal is gone, and until then a power cut brings that back.
        with contextlib.suppress(OSError):
            files.sync(str(store.parent))


def _open(tracking: Tracking, command: str, key: str, tags: dict[str, str], again: bool) -> TrackedRun:
    try:
        client = client_of(tracking)
        experiment_id = _experiment(client, tracking)
        found = find(tracking, command, key=key)
        if found and (again or found.info.status != "FINISHED"):
            client.update_run(found.info.run_id, status="RUNNING")
            opened = TrackedRun(client, found.info.run_id, tracking.uri, found.info.artifact_uri)
        else:
            created = client.create_run(
                experiment_id,
                run_name=f"{command} {tags.get('version', '')}".strip(),
                tags={PREFIX + "command": command, PREFIX + "key": key},
            )
            opened = TrackedRun(client, created.info.run_id, tracking.uri, created.info.artifact_uri)
    except Exception as error:
        log.warning(
            "MLflow at %s cannot be used, so this run is not recorded: %s",
            hide(tracking.uri),
            hide(str(error)),
        )
        return TrackedRun(None, None)
    opened.tags(tags)
    return opened


def _experiment(client: Any, tracking: Tracking) -> str:
    """The id of the experiment, which is made if there is none."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(tracking.experiment)
    if found is None:
        try:
            return str(client.create_experiment(tracking.experiment, tracking.artifacts))
        except MlflowException:  # another command was first
            found = client.get_experiment_by_name(tracking.experiment)
            if found is None:
                raise
    return str(found.experiment_id)


def find(tracking: Tracking, command: str, **tags: str) -> Any | None:
    """The newest run of a command with these tags, or None; never raises."""
    try:
        client = client_of(tracking)
        experiment = client.get_experiment_by_name(tracking.experiment)
        if experiment is None:
            return None
        wanted = {"command": command, **tags}
        query = " and ".join(f"tags.`{PREFIX}{name}` = '{value}'" for name, value in wanted.items())
        found = client.search_runs([experiment.experiment_id], query, max_results=1)
    except Exception as error:
        log.warning("MLflow at %s cannot be searched: %s", hide(tracking.uri), hide(str(error)))
        return None
    return found[0] if found else None


def upstream(tracking: Tracking, command: str, **tags: str) -> dict[str, str]:
    """The tag that links a run to the newest run of the command it builds on."""
    found = find(tracking, command, **tags)
    return {"upstream": found.info.run_id} if found else {}


@contextlib.contextmanager
def ship_progress(run: TrackedRun, progress: Progress, every: float = 10.0) -> Iterator[Progress]:
    """A progress that passes on to `progress`, and whose counts a thread sends to an MLflow run.

    For each stage: <stage>/tasks, and where they are known documents and bytes (in the finished tasks),
    documents_per_second and MB_per_second (of the last minute; at the end of the whole stage), and at the end
    seconds. The step is the seconds since the stage began. A server that is silent costs 5 s at the end.
    """
    paces: dict[str, Pace] = {}
    stop = threading.Event()

    def note(stage: str, done: int, total: int, documents: int = 0, size: int = 0, /) -> None:
        paces.setdefault(stage, Pace()).note(done, total, documents, size)
        progress(stage, done, total, documents, size)

    def work() -> None:
        sent: dict[str, bool] = {}
        while True:
            last = stop.wait(every)
            for stage, pace in list(paces.items()):
                if not sent.get(stage):
                    sent[stage] = pace.end is not None
                    run.metrics(_speed_metrics(stage.replace(" ", "_"), pace), round(pace.seconds))
            if last:
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield note
    finally:
        stop.set()
        thread.join(timeout=5)


def _speed_metrics(stage: str, pace: Pace) -> dict[str, float]:
    values: dict[str, float] = {"tasks": pace.done}
    if pace.documents:
        _, documents, size = pace.speeds()
        values |= {"documents": pace.documents, "bytes": pace.bytes}
        values |= {"documents_per_second": documents, "MB_per_second": size / 1e6}
    if pace.end is not None:
        values["seconds"] = pace.seconds
    return {f"{stage}/{name}": value for name, value in values.items()}


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values under names joined by dots."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
