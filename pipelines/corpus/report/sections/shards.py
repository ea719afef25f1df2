"""The token shards of the version."""

from dataclasses import dataclass

from base.contents import ShardEntry

MAX_SHARDS = 1000
"""Shards that are shown."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The first shards and the number of all."""

    count: int
    rows: list[ShardEntry]


def section(shards: list[ShardEntry]) -> Shards:
    """The first shards of a version."""
    return Shards(count=len(shards), rows=shards[:MAX_SHARDS])
