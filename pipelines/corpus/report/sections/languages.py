"""The languages of the documents."""

from dataclasses import dataclass

from pipelines.corpus.ledger import add_counts
from pipelines.corpus.report.bysource import ALL, largest
from pipelines.corpus.report.numbers import percentage

MAX_LANGUAGES = 15
"""Languages that are shown over all sources."""
MAX_OF_SOURCE = 5
"""Languages that are shown of one source."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """Documents in a language, and their share in per cent."""

    language: str
    documents: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Languages:
    """The most frequent languages."""

    count: int
    """Of all languages."""
    rows: list[Language]
    sources: dict[str, list[Language]]


def section(counts: dict[str, dict[str, int]]) -> Languages | None:
    """The most frequent languages over all sources and of each; `counts` are by source and language."""
    total: dict[str, dict[str, int]] = {ALL: {}}
    for languages in counts.values():
        add_counts(total, {ALL: languages})
    if not total[ALL]:
        return None
    return Languages(
        count=len(total[ALL]),
        rows=most_frequent(total[ALL], MAX_LANGUAGES),
        sources={
            source: most_frequent(languages, MAX_OF_SOURCE) for source, languages in largest(counts).items()
        },
    )


def most_frequent(languages: dict[str, int], most: int) -> list[Language]:
    """The languages with most documents."""
    whole = sum(languages.values())
    order = sorted(languages.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [Language(language=name, documents=n, share=percentage(n, whole)) for name, n in order]
