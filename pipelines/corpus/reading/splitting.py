"""Where a large file can be cut into ranges that are read on their own."""

from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.ingest import UnknownFormat, file_format
from pipelines.corpus.reading.settings import SourceConfig


def starts(url: str, source: SourceConfig, size: int, split_bytes: int) -> list[int]:
    """The first bytes of the ranges of a file of `size` bytes, about `split_bytes` each; [0] for one range.

    Which files can be cut, and where, is a matter of their format (formats.FORMATS).
    """
    count = round(size / split_bytes)
    if count < 2:
        return [0]
    try:
        format = file_format(url, source)
    except (UnknownFormat, decompress.DamagedFile):
        return [0]  # one reject
    if not format.ranges or decompress.unread(url):
        return [0]
    wanted = [number * size // count for number in range(1, count)]
    return format.as_range_reader().cuts(url, size, wanted)


def nearest(places: list[int], wanted: list[int]) -> list[int]:
    """0 and for each wanted place the first of the possible ones that does not lie before it."""
    chosen = {0}
    at = 0
    for place in wanted:
        while at < len(places) and places[at] < place:
            at += 1
        if at < len(places):
            chosen.add(places[at])
    return sorted(chosen)
