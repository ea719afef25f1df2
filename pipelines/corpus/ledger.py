"""Conservation of documents and bytes: what entered each stage left it or was dropped for a reason."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

STAGES = (
    "read",
    "normalise",
    "quality",
    "exact",
    "fuzzy",
    "spans",
    "lines",
    "decontaminate",
    "redact",
    "tokenize",
)


@dataclass
class Stage:
    """Counts of one source in one stage; bytes are those of the text, or of the file entering read."""

    documents_in: int = 0
    bytes_in: int = 0
    bytes_delta: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    documents_out: int = 0
    bytes_out: int = 0

    def drop(self, reason: str, documents: int, size: int) -> None:
        """Count dropped documents and their bytes under a reason."""
        if documents or size:
            entry = self.dropped.setdefault(reason, {"documents": 0, "bytes": 0})
            entry["documents"] += documents
            entry["bytes"] += size

    def change(self, reason: str, size: int) -> None:
        """Count bytes added to (positive) or removed from documents that stay."""
        if size:
            self.bytes_delta[reason] = self.bytes_delta.get(reason, 0) + size

    def add(self, other: "Stage") -> None:
        """Add the counts of another part of the same source and stage."""
        self.documents_in += other.documents_in
        self.bytes_in += other.bytes_in
        self.documents_out += other.documents_out
        self.bytes_out += other.bytes_out
        for reason, size in other.bytes_delta.items():
            self.change(reason, size)
        for reason, entry in other.dropped.items():
            self.drop(reason, entry["documents"], entry["bytes"])

    @property
    def documents_dropped(self) -> int:
        """Documents dropped for any reason."""
        return sum(entry["documents"] for entry in self.dropped.values())

    @property
    def bytes_dropped(self) -> int:
        """Bytes of the documents dropped for any reason."""
        return sum(entry["bytes"] for entry in self.dropped.values())


class LedgerError(RuntimeError):
    """The counts of a stage disagree: documents or bytes were lost or invented."""


class Ledger:
    """Stage counts by source and stage."""

    def __init__(self) -> None:
        """An empty ledger."""
        self.sources: dict[str, dict[str, Stage]] = {}

    def stage(self, source: str, stage: str) -> Stage:
        """The counts of one source in one stage, created at zero."""
        return self.sources.setdefault(source, {}).setdefault(stage, Stage())

    def add(self, other: "Ledger") -> None:
        """Add all counts of another ledger."""
        for source, stages in other.sources.items():
            for name, counts in stages.items():
                self.stage(source, name).add(counts)

    def check(self) -> None:
        """Raise LedgerError naming the source and stage whose sums disagree."""
        for source, stages in self.sources.items():
            previous: tuple[str, Stage] | None = None
            for name in STAGES:
                if name not in stages:
                    continue
                counts = stages[name]
                documents = counts.documents_out + counts.documents_dropped
                if counts.documents_in != documents:
                    raise LedgerError(
                        f"source {source}, stage {name}: {counts.documents_in} documents in, "
                        f"{counts.documents_out} out and {counts.documents_dropped} dropped"
                    )
                size = counts.bytes_out + counts.bytes_dropped - sum(counts.bytes_delta.values())
                if counts.bytes_in != size:
                    raise LedgerError(
                        f"source {source}, stage {name}: {counts.bytes_in} bytes in but {size} accounted for"
                    )
                if previous and (previous[1].documents_out, previous[1].bytes_out) != (
                    counts.documents_in,
                    counts.bytes_in,
                ):
                    raise LedgerError(
                        f"source {source}: {previous[0]} let out {previous[1].documents_out} documents "
                        f"({previous[1].bytes_out} bytes) but {name} took in {counts.documents_in} "
                        f"({counts.bytes_in} bytes)"
                    )
                previous = name, counts

    def to_json(self) -> dict[str, Any]:
        """A JSON value with sources and reasons in sorted order, stages in theirs."""
        return {
            source: [
                {
                    "stage": name,
                    "documents_in": counts.documents_in,
                    "bytes_in": counts.bytes_in,
                    "bytes_delta": dict(sorted(counts.bytes_delta.items())),
                    "dropped": dict(sorted(counts.dropped.items())),
                    "documents_out": counts.documents_out,
                    "bytes_out": counts.bytes_out,
                }
                for name in STAGES
                if (counts := stages.get(name)) is not None
            ]
            for source, stages in sorted(self.sources.items())
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Iterable[dict[str, Any]]]) -> "Ledger":
        """The ledger that `to_json` wrote."""
        ledger = cls()
        for source, stages in value.items():
            for entry in stages:
                fields = {key: content for key, content in entry.items() if key != "stage"}
                ledger.stage(source, entry["stage"]).add(Stage(**fields))
        return ledger


def add_counts(totals: dict[str, dict[str, int]], counts: dict[str, dict[str, int]]) -> None:
    """Add counts by source and name to `totals`."""
    for source, names in counts.items():
        mine = totals.setdefault(source, {})
        for name, count in names.items():
            mine[name] = mine.get(name, 0) + count
