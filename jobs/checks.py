"""What would stop a command after hours, looked for before a cluster starts and without Ray.

A check is a function of the configuration that raises UserError. CHECKS says which commands need it; what
depends on their arguments (a version, a model, a run) commands look at themselves.
"""

import os
from collections.abc import Callable, Iterable

from base import files, manifest
from base.errors import UserError
from base.mixture import check_names
from pipelines.config import Config
from pipelines.corpus.inputs import check_sources
from pipelines.corpus.stages import score
from pipelines.corpus.text import decontaminate, language, plugins, redact
from pipelines.corpus.text import tokenizer as tokenizers
from pipelines.runtime.tracking import Tracking

Listing = set[tuple[str, str]]
"""(source, file URL) of every file of the sources."""
Check = Callable[[Config], Listing | None]


def check(command: str, config: Config) -> Listing:
    """Run the checks of a command; raises UserError for the first that fails.

    Returns the files of the sources, where they are among what was looked at.
    """
    listing: Listing = set()
    for function, commands in CHECKS:
        if command in commands:
            listing |= function(config) or set()
    return listing


def storage(config: Config) -> None:
    """The storage of the project can be written."""
    writable(config.storage)


def tracking(config: Config) -> None:
    """It is known where MLflow's runs go."""
    Tracking.of(config)


def sources(config: Config) -> Listing:
    """Every URL of a source matches files."""
    return check_sources(config.sources)


def redaction(config: Config) -> None:
    """No replacement of personal data is itself replaced."""
    redact.check(config.redact)


def benchmarks(config: Config) -> None:
    """Every benchmark has files, and its first record the configured fields."""
    decontaminate.check(config.decontaminate)


def tokenizer(config: Config) -> None:
    """The tokenizer is one, and has the end-of-document token."""
    if config.tokenize.tokenizer:
        tokenizers.check(files.absolute(config.tokenize.tokenizer), config.tokenize.end_of_document)


def mixture(config: Config) -> None:
    """The mixture names sources of the configuration."""
    _check_mixture(config, ())


def parent(config: Config) -> None:
    """There is a version to build on, and the mixture names sources of it or of the configuration."""
    _check_mixture(config, manifest.require(config.storage).manifest.sources)


def languages(config: Config) -> None:
    """The languages that are kept are ones that the model knows."""
    language.check(config.language)


def score_models(config: Config) -> None:
    """The models that score are there, and have the label."""
    score.check(config.score, config.storage)


def own_code(config: Config) -> None:
    """The filters and edits of one's own can be imported, and say their name and version."""
    plugins.check(config.plugins)


def prompts(config: Config) -> None:
    """It is said where the prompts are."""
    if config.infer.prompts is None:
        raise UserError("infer.prompts is missing: give the URL of a prompts file")


RECORDED = frozenset({"prepare", "refresh", "merge", "train", "evaluate", "infer"})
"""Commands that MLflow has runs of."""
BUILDS = frozenset({"prepare", "refresh", "dedup"})
"""Commands that read sources. jobs.dedup begins what jobs.prepare ends, so it looks for the same."""
FIRST = BUILDS - {"refresh"}
"""Those that build on no version. A refresh has the tokenizer of its parent, whatever became of the file."""
CHECKS: list[tuple[Check, frozenset[str]]] = [
    (storage, RECORDED | {"dedup", "dedup --against", "verify --rebuild"}),
    (tracking, RECORDED),
    (sources, BUILDS),
    (redaction, BUILDS),
    (benchmarks, BUILDS),
    (tokenizer, FIRST),
    (mixture, FIRST),
    (parent, frozenset({"refresh"})),
    (languages, BUILDS),
    (score_models, BUILDS),
    (own_code, BUILDS),
    (prompts, frozenset({"infer"})),
]


def writable(url: str) -> None:
    """Raise UserError if nothing can be written below `url`, or it would vanish with a Ray job."""
    if "/runtime_resources/working_dir_files/" in url:
        raise UserError(
            f"storage = {url!r} lies in the job's own copy of the working directory; "
            "under `ray job submit` give an absolute path or URL: --set storage=/data/…"
        )
    probe = files.join(url, f".writable-{os.getpid()}")
    try:
        files.write_bytes(probe, b"")
        files.remove(probe)
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"storage = {url!r} cannot be written: {reason}") from None


def _check_mixture(config: Config, more: Iterable[str]) -> None:
    """Raise UserError if the mixture names a source that is neither in the configuration nor among `more`."""
    # Where records name their source, only reading tells which there are; the build looks then.
    if any(source.name_field for source in config.sources):
        return
    known = {*(source.name for source in config.sources), *more}
    check_names("mixture", config.mixture, known)
    check_names("mixture_epochs", config.mixture_epochs, known)
