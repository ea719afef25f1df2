"""Excerpts of documents for the report, without personal data even where the corpus keeps it."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from base.contents import InputEntry
from base.manifest import Manifest
from pipelines.corpus.stages.survivors import document_texts
from pipelines.corpus.text import redact
from pipelines.corpus.text.settings import RedactConfig

EXCERPT_CHARACTERS = 300

Place = tuple[str, int]
"""(part, row) of a document."""


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """The beginning of a document's text, and the number of its record in the input file."""

    record: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The documents of the parts: where they came from and what they begin with."""

    urls: dict[str, str]
    """Documents file by part; the others' texts are not at hand."""
    origins: dict[str, str]
    """Input file by part."""
    redaction: RedactConfig

    @classmethod
    def of(cls, manifest: Manifest, inputs: list[InputEntry], urls: dict[str, str]) -> Self:
        """The documents of a version made of some inputs, whose texts are in these files by part."""
        return cls(
            urls=urls,
            origins={item.part: item.file for item in inputs},
            redaction=RedactConfig.model_validate(manifest.config.get("redact", {})),
        )

    def origin(self, part: str) -> str:
        """The input file of a part, or the part's name where the manifest does not list it."""
        return self.origins.get(part, part)

    def excerpts(self, places: list[Place]) -> dict[Place, Excerpt]:
        """Excerpts of those documents whose texts are at hand."""
        found: dict[Place, Excerpt] = {}
        for part in sorted({part for part, _ in places if part in self.urls}):
            rows = np.unique([row for name, row in places if name == part])
            for positions, table in document_texts(self.urls[part], rows):
                column = table["text"].combine_chunks()
                texts = redact.excerpts(column, EXCERPT_CHARACTERS, self.redaction).to_pylist()
                records = table["record"].to_pylist()
                for row, record, text in zip(rows[positions].tolist(), records, texts, strict=True):
                    found[part, row] = Excerpt(record=record, text=text)
        return found


def hexadecimal(identifier: bytes | int) -> str:
    """A document's id as the report writes it."""
    return identifier.hex() if isinstance(identifier, bytes) else str(identifier)
