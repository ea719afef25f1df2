"""How the version was made: configuration, input files, tokenizer and packages."""

from dataclasses import dataclass

import yaml

from base.contents import InputEntry
from base.manifest import Manifest, TokenizerFacts

MAX_INPUTS = 1000
"""Input files that are shown."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """How the version was made."""

    configuration: str
    """As YAML."""
    input_count: int
    """Of all input files."""
    inputs: list[InputEntry]
    tokenizer: TokenizerFacts
    packages: dict[str, str]
    """Versions of the packages that outputs depend on."""


def section(manifest: Manifest, inputs: list[InputEntry]) -> Configuration:
    """How a version was made, which inputs belong to."""
    return Configuration(
        configuration=yaml.safe_dump(manifest.config, sort_keys=False, allow_unicode=True),
        input_count=manifest.input_count,
        inputs=inputs[:MAX_INPUTS],
        tokenizer=manifest.tokenizer,
        packages=manifest.packages,
    )
