"""What the tables of the report have in common that show one row a source.

They show the largest sources, and in a last row the sums of the others.
"""

from collections.abc import Iterable

from pipelines.corpus.ledger import Ledger, Stage, add_counts

MAX_SOURCES = 200
"""The largest sources, those that tables by source show; a last row sums the others."""
PICTURED = 30
"""The largest sources that a picture with a row for each shows."""
ALL = "all sources"
"""The label of the row that sums all sources."""
STAGE_TITLES = {
    "read": "reading",
    "normalise": "normalising",
    "quality": "quality rules",
    "exact": "exact dedup",
    "fuzzy": "fuzzy dedup",
    "spans": "repeated spans",
    "lines": "repeated lines",
    "decontaminate": "decontamination",
    "redact": "redaction",
    "tokenize": "tokenizing",
}

Stages = dict[str, Stage]
"""The counts of some sources by stage."""


def by_size(ledger: Ledger) -> list[str]:
    """The names of all sources, those that read most bytes first."""
    size = {name: stages.get("read", Stage()).bytes_in for name, stages in ledger.sources.items()}
    return sorted(size, key=lambda name: (-size[name], name))


def rows(names: list[str]) -> dict[str, list[str]]:
    """The sources that each row of a table is about, by its label; `names` begin with the largest source."""
    first, others = names[:MAX_SOURCES], names[MAX_SOURCES:]
    return {name: [name] for name in first} | ({and_more(others): others} if others else {})


def and_more(others: list[str]) -> str:
    """The label of the row that sums the sources without rows of their own."""
    return f"and {len(others):,} more"


def summed(ledger: Ledger, names: Iterable[str]) -> Stages:
    """The sums of the counts of some sources in every stage that one of them went through."""
    sums: Stages = {}
    for name in names:
        for stage, counts in ledger.sources[name].items():
            sums.setdefault(stage, Stage()).add(counts)
    return sums


def largest(counts: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """The counts of the MAX_SOURCES sources with the largest sums, by name, and the sums of the others."""
    order = sorted(counts, key=lambda name: (-sum(counts[name].values()), name))
    others = order[MAX_SOURCES:]
    shown = {name: counts[name] for name in sorted(order[:MAX_SOURCES])}
    for name in others:
        add_counts(shown, {and_more(others): counts[name]})
    return shown
