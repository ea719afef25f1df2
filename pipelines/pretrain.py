"""jobs.train below the command line: name the run, launch it, export the model, record all in MLflow."""

import functools
from typing import Any

import numpy as np

from base import files
from base.errors import UserError
from model.journal import NAME, read
from pipelines import tracking, trained
from pipelines.config import Config
from pipelines.manifest import Version

ENTROPY_TOKENS = 20_000_000
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
    for shard in version.manifest["shards"]:
        if shard["split"] == "train" and shard["tokens"]:
            tokens[shard["source"]] = tokens.get(shard["source"], 0) + shard["tokens"]
    held = f"corpus {version.manifest_url} holds {', '.join(tokens)}"
    for name in sorted(set(epochs) - set(tokens)):
        raise UserError(f"mixture_epochs.{name}: there is no such source; {held}")
    for name in sorted(set(tokens) - set(epochs)):
        raise UserError(f"mixture_epochs has no epochs for source {name}; 0 leaves it out; {held}")
    return {name: count * epochs[name] for name, count in tokens.items()}


def check_fits(config: Config, version: Version, run: str) -> None:
    """Raise UserError if the corpus cannot train this model, or the run was begun with another one."""
    from model.job import TrainJob, check

    check(
        TrainJob(
            config.model,
            config.train,
            version.manifest_url,
            trained.run_url(config.storage, run),
            mixture(config, version),
        )
    )


def pretrain(config: Config, version: Version, run: str) -> dict[str, Any]:
    """Train to the last step, or find the finished run.

    Returns the training summary with `version`, `manifest_hash`, `model` (the Hugging Face folder),
    `unigram_entropy` (nats a token, of the training mixture) and `new`.
    """
    found = trained.finished(config.storage, run)
    if found:
        if found["manifest_hash"] != version.hash:
            raise UserError(f"run {run} was trained on another corpus version ({found['version']})")
        _deliver_rest(config, run)
        return {**found, "new": False}
    # Imported here because Ray Train and matplotlib take seconds, and check_fits should not.
    from pipelines import charts, shipping
    from pipelines.training import run_training

    url = trained.run_url(config.storage, run)
    place = tracking.Tracking.of(config)
    tags = {"training_run": run, "corpus": version.hash, "version": version.name}
    command = "refresh" if version.manifest["parent"] else "prepare"
    tags |= tracking.upstream(place, command, corpus=version.hash)
    with tracking.run(place, "train", run, tags) as opened:
        opened.params({"model": config.model.model_dump(), "train": config.train.model_dump()})
        opened.dataset(
            version.manifest["name"], version.hash, version.manifest_url, profile(version), "training"
        )
        ship = functools.partial(shipping.ship_journal, place, opened.id) if opened.id else None
        weights = mixture(config, version)
        settled = config.model_copy(update={"mixture": weights, "mixture_epochs": {}})
        summary = run_training(settled, version.manifest_url, url, ship)
        if opened.id:
            shipping.deliver(place, opened.id, files.join(url, NAME))
        entropy = unigram_entropy(version, weights)
        picture = files.join(url, "training.png")
        title = f"{config.name} {run}"
        files.write_bytes(picture, charts.training(read(url), title, entropy))
        opened.artifact(picture)
        opened.metrics({"unigram_entropy": entropy})
        result = {
            **summary,
            "version": version.name,
            "manifest_hash": version.hash,
            "model": summary["hf_url"],
            "unigram_entropy": entropy,
        }
        losses = [values["loss"] for values in summary["evaluation"].values()]
        opened.model(config.name, result["model"], sum(losses) / len(losses) if losses else None)
        trained.record(config.storage, run, result)
        opened.artifact(files.join(url, "result.json"))
    return {**result, "new": True}


def profile(version: Version) -> dict[str, Any]:
    """What MLflow shows of a corpus version: tokens, documents and bytes of text by source."""
    fields = ("tokens", "heldout_tokens", "documents", "text_bytes")
    sources = version.manifest["sources"]
    return {field: {name: facts.get(field) for name, facts in sources.items()} for field in fields}


def _deliver_rest(config: Config, run: str) -> None:
    """Send to MLflow what an outage has kept back of a finished run."""
    from pipelines import shipping

    journal = files.join(trained.run_url(config.storage, run), NAME)
    if shipping.is_delivered(journal):
        return
    place = tracking.Tracking.of(config)
    found = tracking.find(place, "train", key=run)
    if found is not None:
        shipping.deliver(place, found.info.run_id, journal)
        return
    with tracking.run(place, "train", run, {"training_run": run}) as opened:
        if opened.id:
            shipping.deliver(place, opened.id, journal)


def unigram_entropy(version: Version, mixture: dict[str, float]) -> float:
    """Entropy in nats a token of the training mixture's token frequencies.

    It is the lowest loss of a model that ignores all context. Sources are weighted as in training; at most
    ENTROPY_TOKENS of each are counted.
    """
    from model.loader import Corpus

    corpus = Corpus.open(version.manifest_url)
    shares = np.zeros(corpus.tokenizer["vocab_size"])
    for source in corpus.sources("train"):
        counts = np.zeros(len(shares))
        for number in corpus.shard_numbers(source, "train"):
            if counts.sum() < ENTROPY_TOKENS:
                counts += np.bincount(corpus.shard(number).tokens, minlength=len(shares))
        weight = mixture.get(source, 0.0) if mixture else counts.sum()
        shares += weight * counts / max(counts.sum(), 1)
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log(shares)).sum())
