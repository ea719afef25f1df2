"""Which documents a window holds, and which windows hold a document."""

from dataclasses import dataclass

import numpy as np

from model.streams import Streams


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens of one document within a sample."""

    document_id: bytes
    """16 bytes."""
    source: str
    shard: str
    """Path of the shard below <storage>/corpus/versions."""
    row: int
    """Row of the document in the shard, and in its origins file."""
    first: int
    """First token of the document that is in the sample."""
    stop: int
    """One past the last token of the document that is in the sample."""
    position: int
    """Where in the sample the span starts."""


def spans_of(streams: Streams, source: int, window: int) -> list[Span]:
    """The documents of a window of a source, in the order of their tokens; together they cover it."""
    shards, positions = streams.positions(np.array([source]), np.array([window]))
    shard, position = int(shards[0]), int(positions[0])
    spans: list[Span] = []
    filled = 0
    while filled <= streams.sequence_length:
        number = int(streams.numbers[shard])
        path = streams.corpus.shards[number].path
        offsets, identifiers = streams.corpus.documents(number)
        begin = position + filled - int(streams.starts[shard]) + int(offsets[0])
        stop = min(begin + streams.sequence_length + 1 - filled, int(offsets[-1]))
        first_row = int(np.searchsorted(offsets, begin, side="right")) - 1
        last_row = int(np.searchsorted(offsets, stop, side="left"))
        for row in range(first_row, last_row):
            start, end = int(offsets[row]), int(offsets[row + 1])
            low, high = max(begin, start), min(stop, end)
            if high > low:
                spans.append(
                    Span(
                        document_id=identifiers[row].as_py(),
                        source=streams.names[source],
                        shard=path,
                        row=row,
                        first=low - start,
                        stop=high - start,
                        position=filled + low - begin,
                    )
                )
        filled += stop - begin
        shard += 1
    return spans


def windows_of(streams: Streams, shard: int, row: int) -> tuple[int, list[int]] | None:
    """The source of a document, and the windows that stand for those that hold tokens of it.

    shard: position in the manifest; row: of the document in it. None for shards that are not trained on,
    damaged ones that are skipped among them.
    """
    places = np.flatnonzero(streams.numbers == shard)
    if not len(places) or streams.left_out(int(places[0])):
        return None
    index = int(places[0])
    source = int(np.searchsorted(streams.first_shard, index, side="right")) - 1
    offsets = streams.corpus.documents(shard).offsets
    origin = int(streams.starts[index] - streams.first_token[source]) - int(offsets[0])
    first, stop = origin + int(offsets[row]), origin + int(offsets[row + 1])
    length, size = streams.sequence_length, int(streams.windows[source])
    # Window w holds the tokens from w · length to w · length + length inclusive.
    windows = range(max(-(-(first - length) // length), 0), min((stop - 1) // length, size - 1) + 1)
    return source, [drawn for window in windows for drawn in streams.replaced_by(source, window)]
