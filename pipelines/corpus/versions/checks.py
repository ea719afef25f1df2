"""What would stop a build after hours, looked for before it starts and without Ray."""

from base import files
from base.errors import UserError
from pipelines.config import Config
from pipelines.corpus.inputs import check_sources
from pipelines.corpus.text import decontaminate, redact, tokenizer


def check(config: Config) -> set[tuple[str, str]]:
    """Raise UserError for what a build of all sources needs and does not find.

    Returns what was listed for it: (source, file URL) of every file.

    Looked at: the files of sources and benchmarks, the tokenizer and its end-of-document token, replacements
    of personal data, and the sources that the mixture names; prepare.inputs_of looks at languages and models
    that score.
    """
    found = check_sources(config.sources)
    redact.check(config.redact)
    decontaminate.check(config.decontaminate)
    if config.tokenize.tokenizer:
        tokenizer.check(files.absolute(config.tokenize.tokenizer), config.tokenize.end_of_document)
    known = sorted(source.name for source in config.sources)
    # Where records name their source, only reading tells which there are (Build.check_mixture).
    if not any(source.name_field for source in config.sources):
        for section in ("mixture", "mixture_epochs"):
            for name in getattr(config, section):
                if name not in known:
                    raise UserError(f"{section}.{name}: there is no such source; they are {', '.join(known)}")
    return found
