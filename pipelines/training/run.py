"""jobs.train below the command line: name the run, launch it, export the model, record all in MLflow."""

import contextlib
import functools
import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from base import claims, files
from base.claims import Claim
from base.credentials import hide
from base.errors import UserError
from base.layout import Layout
from base.manifest import Version
from model.journal import NAME, read
from model.run import RUN, RunDescription
from pipelines.config import Config
from pipelines.runtime import tracking
from pipelines.training import results
from pipelines.training.results import RECORDED, RunResult

ENTROPY_TOKENS = 20_000_000
PICTURE = "training.png"
CURVE_FIELDS = {
    "steps",
    "global_batch_size",
    "batch_warmup",
    "seed",
    "precision",
    "optimizer",
    "loss_scale",
    "guard",
    "deepspeed",
}
"""The training settings that decide the curve; others may change when a run is continued."""


log = logging.getLogger("piledriver.training")


def run_name(config: Config, version: Version) -> str:
    """The name of the run that this configuration makes on this corpus version."""
    train = config.train.model_dump(mode="json", include=CURVE_FIELDS)
    key = files.key_of(version.hash, config.model.model_dump(mode="json"), train, mixture(config, version))
    return f"{version.name}-{key[:8]}"


def mixture(config: Config, version: Version) -> dict[str, float]:
    """Weight by source name; with mixture_epochs, the tokens of a source times its epochs.

    Raises UserError when mixture_epochs does not name the sources of the version.
    """
    epochs = config.mixture_epochs
    if not epochs:
        return config.mixture
    tokens: dict[str, int] = {}
    for shard in version.shards:
        if shard.split == "train" and shard.tokens:
            tokens[shard.source] = tokens.get(shard.source, 0) + shard.tokens
    held = f"corpus {version.manifest_url} holds {', '.join(tokens)}"
    for name in sorted(set(epochs) - set(tokens)):
        raise UserError(f"mixture_epochs.{name}: there is no such source; {held}")
    for name in sorted(set(tokens) - set(epochs)):
        raise UserError(f"mixture_epochs has no epochs for source {name}; 0 leaves it out; {held}")
    return {name: count * epochs[name] for name, count in tokens.items()}


def check_fits(config: Config, version: Version, run: str) -> None:
    """Raise UserError if the corpus cannot train this model, the run was begun with another one, or the disk
    has no room for its first checkpoint.
    """
    from model import checkpoint
    from model.job import TrainJob, check, missing_room

    _check_tokenizer(config, version)
    url, weights = Layout(config.storage).run(run), mixture(config, version)
    job = TrainJob(config.model, config.train, version.manifest_url, url, weights)
    check(job)
    if not checkpoint.steps(url):
        lacking = missing_room(job, version.manifest.tokenizer.vocab_size, config.train.precision)
        if lacking is not None:
            raise UserError(lacking)


def _check_tokenizer(config: Config, version: Version) -> None:
    """Raise UserError if the version has another tokenizer than the one that the configuration gives."""
    given, facts = config.tokenize, version.manifest.tokenizer
    if "vocab_size" in given.model_fields_set and facts.vocab_size > given.vocab_size:
        raise UserError(
            f"corpus {version.name} has a vocabulary of {facts.vocab_size} tokens, "
            f"tokenize.vocab_size is {given.vocab_size}; give the former or build the corpus again"
        )
    if given.tokenizer and files.exists(given.tokenizer):
        digest = hashlib.sha256(files.read_bytes(given.tokenizer)).hexdigest()
        if digest != facts.sha256:
            raise UserError(
                f"corpus {version.name} was not tokenized by tokenize.tokenizer = {given.tokenizer!r}: "
                "its tokenizer.json is another file; leave the setting out or build the corpus again"
            )


@contextlib.contextmanager
def claimed(config: Config, run: str, tell: Callable[[str], None] = log.warning) -> Iterator[Claim]:
    """Claim a run while the block lasts; whether it has finished is looked at within.

    tell: gets a sentence about whom the command waits for. Raises UserError if another command trains it.
    """
    url, fenced = Layout(config.storage).run(run), ("checkpoints", "hf")
    with claims.held(url, "jobs.train", config.claims, fenced=fenced, tell=tell) as claim:
        yield claim


def train(
    config: Config,
    version: Version,
    run: str,
    on_line: Callable[[dict[str, Any]], None] | None = None,
    *,
    claim: Claim,
) -> tuple[RunResult, bool]:
    """Train to the last step, or find the finished run; on_line gets each line of the journal.

    A finished run that is asked for more steps goes on.

    Returns the run's result, and whether it was made now.
    """
    found = results.finished(config.storage, run)
    place = tracking.Tracking.of(config)
    if found is not None and found.manifest_hash != version.hash:
        raise UserError(f"run {run} was trained on another corpus version ({found.version})")
    if found is not None and found.step >= config.train.steps:
        mark = files.join(Layout(config.storage).run(run), RECORDED)
        if not files.exists(mark) or files.read_bytes(mark) != hide(place.uri).encode():
            with tracking.run(place, "train", run, _tags(config, version, run), again=True) as opened:
                _record(opened, place, config, version, run, found)
        return found, False
    # Imported here because Ray Train takes seconds, and check_fits should not.
    from pipelines.training import shipping
    from pipelines.training.launch import launch

    url = Layout(config.storage).run(run)
    with tracking.run(place, "train", run, _tags(config, version, run)) as opened:
        _record_start(opened, config, version, run)
        ship = functools.partial(shipping.ship_journal, place, opened.id) if opened.id else None
        weights = mixture(config, version)
        settled = config.model_copy(update={"mixture": weights, "mixture_epochs": {}})
        try:
            summary = launch(settled, version.manifest_url, url, ship, on_line, claim)
        finally:
            opened.follow()  # the workers may have begun another MLflow run
        if summary.hf_url is None:
            raise UserError(
                f"run {run} is at its last step, but the checkpoint there could not be written below {url}; "
                "make room and run the same command again"
            )
        result = RunResult(
            **summary.model_dump(),
            version=version.name,
            manifest_hash=version.hash,
            model=summary.hf_url,
            unigram_entropy=unigram_entropy(version, weights),
        )
        if found is not None:
            results.set_aside(config.storage, run)
        results.record(config.storage, run, result, claim)
        _record(opened, place, config, version, run, result)
    return result, True


def _tags(config: Config, version: Version, run: str) -> dict[str, str]:
    tags = {"training_run": run, "corpus": version.hash, "version": version.name}
    command = "refresh" if version.manifest.parent else "prepare"
    return tags | tracking.upstream(tracking.Tracking.of(config), command, corpus=version.hash)


def _record_start(opened: tracking.TrackedRun, config: Config, version: Version, run: str) -> None:
    """Put into MLflow what is known before the first step: settings, mixture and corpus."""
    settings = {"model": config.model.model_dump(), "train": config.train.model_dump()}
    opened.params({**settings, "mixture": _shares(config, version, run)})
    facts = version.manifest.name, version.hash, version.manifest_url
    opened.dataset(*facts, profile(version), "training")


def _record(
    opened: tracking.TrackedRun,
    place: tracking.Tracking,
    config: Config,
    version: Version,
    run: str,
    result: RunResult,
) -> None:
    """Draw the report of a finished run and put all of it into MLflow, whatever is there already.

    After an outage the next command of the run does it again.
    """
    # Imported here because matplotlib takes seconds, and check_fits should not.
    from pipelines.runtime import charts
    from pipelines.training import shipping

    url = Layout(config.storage).run(run)
    picture = files.join(url, PICTURE)
    title = f"{config.name} {run}"
    lines = [record.to_json() for record in read(url)]
    files.write_bytes(picture, charts.training(lines, title, result.unigram_entropy))
    if opened.id is None:
        return
    delivered = shipping.deliver(place, opened.id, files.join(url, NAME))
    opened.follow()
    _record_start(opened, config, version, run)
    opened.artifact(picture)
    opened.artifact(Layout(config.storage).result(run))
    opened.metrics({"unigram_entropy": result.unigram_entropy}, result.step)
    bits = [values.get("bits_per_byte", math.nan) for values in result.evaluation.values()]
    opened.model(config.name, result.model, sum(bits) / len(bits) if bits else None)
    if delivered and not opened.warned:
        files.write_bytes(files.join(url, RECORDED), hide(place.uri).encode())


def _shares(config: Config, version: Version, run: str) -> dict[str, float]:
    """Share of the samples of a run by source; none yet where they are by tokens and nothing was trained."""
    described = files.join(Layout(config.storage).run(run), RUN)
    if files.exists(described):
        return RunDescription.read(described).data.weights
    weights = mixture(config, version)
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def profile(version: Version) -> dict[str, Any]:
    """What MLflow shows of a corpus version: tokens, documents and bytes of text by source."""
    fields = ("tokens", "heldout_tokens", "documents", "text_bytes")
    sources = version.manifest.sources
    return {field: {name: getattr(totals, field) for name, totals in sources.items()} for field in fields}


def unigram_entropy(version: Version, mixture: dict[str, float]) -> float:
    """Entropy in nats a token of the training mixture's token frequencies.

    It is the lowest loss of a model that ignores all context. Sources are weighted as in training; at most
    ENTROPY_TOKENS of each are counted.
    """
    from model.corpus import Corpus

    corpus = Corpus.open(version.manifest_url)
    shares = np.zeros(version.manifest.tokenizer.vocab_size)
    for source in corpus.sources("train"):
        counts = np.zeros(len(shares))
        for number in corpus.shard_numbers(source, "train"):
            if counts.sum() < ENTROPY_TOKENS:
                counts += np.bincount(corpus.shard(number).tokens, minlength=len(shares))
        weight = mixture.get(source, 0.0) if mixture else counts.sum()
        shares += weight * counts / max(counts.sum(), 1)
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log(shares)).sum())
