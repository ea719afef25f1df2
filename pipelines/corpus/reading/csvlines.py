"""Comma-separated values with a header: the documents of a file, a block of records at a time."""

import csv
import io
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa

from base.errors import UserError
from pipelines.corpus.reading import csvscan, decompress
from pipelines.corpus.reading.records import (
    BOM,
    SAMPLE_BYTES,
    Batch,
    Reject,
    column_batch,
    damaged,
    rejected,
    source_names,
    string_array,
    too_long,
)
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

DELIMITERS = ",\t;|"
_TAB_SEPARATED = re.compile(r"\.(tsv|tab)(\.[a-z0-9]+)?", re.IGNORECASE)
_QUOTE, _NO_BYTE = ord('"'), 256
_ALL = 2**62


def read(url: str, source: SourceConfig, config: IngestConfig) -> Iterator[Batch]:
    """Read a file whose first record names the columns; records count from 0 after it.

    The header is the first line that is not empty, its delimiter the one of `,`, tab, `;`, `|` (in a .tsv
    file tab before `,`) that makes text_field a column. Where it ends in CR alone, all lines may. Of files
    that were put together, byte order marks and headers behind them are framing. A record with a misplaced
    quote reaches to the end of the line of the mistake and is
    rejected, as is one with other than the header's number of columns. A quote that nothing closes before the
    end of the file, or within max_document_bytes or batch_bytes, the larger, costs its own line. Raises
    UserError if no delimiter gives a column text_field.
    """
    longest = _longest(config)
    parser: _Parser | None = None
    held = b""
    skipped = 0  # bytes passed of a record that is too long to hold, of which only `sample` is kept
    sample = b""
    final = False
    damage: decompress.DamagedFile | None = None
    pieces = decompress.pieces(url)
    first = True
    while not final:
        block = [held]
        size = len(held)
        while size < config.batch_bytes or len(block) == 1:
            try:
                piece = next(pieces, b"")
            except decompress.DamagedFile as error:
                damage, piece = error, b""
            if not piece:
                final = True
                break
            if first and piece.startswith(BOM):
                yield rejected([], len(BOM))
                piece = piece[len(BOM) :]
            first = False
            block.append(piece)
            size += len(piece)
        held = b"".join(block)
        if skipped and parser:
            cut = parser.line_end_in(held)
            skipped += len(held) if cut < 0 else cut
            if cut < 0 and not final:
                held = b""
                continue
            yield parser.too_long(skipped, sample, framing=int(cut >= 0))
            skipped, held = 0, held[cut + 1 :] if cut >= 0 else b""
        if parser is None:
            blank = len(held) - len(held.lstrip(b"\r\n"))
            if blank:
                yield rejected([], blank)
                held = held[blank:]
        if parser is None and held:
            whole = final or len(held) > longest
            parser = _Parser.of_header(url, held, whole, source, config)
            if parser is None:
                continue
            yield rejected([], parser.header_bytes)
            held = held[parser.header_bytes :]
        if parser is None or not held:
            continue
        size = len(held)
        held = parser.without_marks(held)
        if len(held) < size:
            yield rejected([], size - len(held))
        batch, used = parser.parse(held, final and damage is None)
        yield batch
        held = held[used:]
        # So long, no quote is open: the record ends with the line.
        if len(held) > longest:
            skipped, sample, held = len(held), held[:SAMPLE_BYTES], b""
    if damage is not None:
        yield damaged(
            url, parser.record if parser else 0, damage, held or sample, skipped or len(held), config
        )


def _longest(config: IngestConfig) -> int:
    """Bytes after which a record with an open quote is taken for one that nothing closes."""
    return max(config.max_document_bytes, config.batch_bytes)


class _Parser:
    """Parses blocks of records; counts the records of the file."""

    def __init__(
        self,
        delimiter: str,
        line_end: int,
        names: list[str],
        header: bytes,
        source: SourceConfig,
        config: IngestConfig,
    ) -> None:
        self.delimiter = ord(delimiter)
        self.quote = _QUOTE if source.csv_quotes else _NO_BYTE
        self.line_end = line_end
        self.columns = len(names)
        self.text = names.index(source.text_field)
        self.name = names.index(source.name_field) if source.name_field in names else -1
        self.header = header
        self.header_bytes = len(header)
        self.config = config
        self.longest = _longest(config)
        self.what = f"Column {source.text_field}"
        self.record = 0

    @classmethod
    def of_header(
        cls, url: str, data: bytes, final: bool, source: SourceConfig, config: IngestConfig
    ) -> "_Parser | None":
        """A parser for the file that begins with `data`; None if its header goes on after it."""
        seen: list[list[str]] = []
        tabs = _TAB_SEPARATED.search(decompress.file_name(url))
        quote = _QUOTE if source.csv_quotes else _NO_BYTE
        array = np.frombuffer(data, np.uint8)
        for line_end in (csvscan.CR, csvscan.LF):
            for delimiter in "\t,;|" if tabs else DELIMITERS:
                count, used = csvscan.scan(
                    array, ord(delimiter), quote, line_end, 0, -1, -1, final, 1, _ALL, *_arrays(data, 1)
                )
                if not count:
                    continue
                if line_end == csvscan.CR and not _ends_in_cr(data, used):
                    break
                header = data[:used].decode("utf-8", "replace")
                lines = io.StringIO(header, newline="")
                quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if source.csv_quotes else csv.QUOTE_NONE
                names = next(csv.reader(lines, delimiter=delimiter, quoting=quoting), [])
                if source.text_field in names:
                    return cls(delimiter, line_end, names, data[:used], source, config)
                seen.append(names)
        if not seen:
            return None
        found = ", ".join(name[:40] for name in seen[0][:20])
        raise UserError(f"input file {url} has no column {source.text_field}; it has {found}")

    def line_end_in(self, data: bytes) -> int:
        """Where the first line of some bytes ends, -1 if it does not."""
        ends = [data.find(end) for end in {csvscan.LF.to_bytes(), self.line_end.to_bytes()}]
        return min((end for end in ends if end >= 0), default=-1)

    def without_marks(self, data: bytes) -> bytes:
        """Records without the byte order marks before them and the headers behind these."""
        line_ends = {csvscan.LF, self.line_end}
        if not data.startswith(BOM) and not _begins_a_line(BOM[0], data, line_ends):
            return data
        for mark in (BOM + self.header, BOM):
            data = data.removeprefix(mark)
            for end in line_ends:
                data = data.replace(end.to_bytes() + mark, end.to_bytes())
        return data

    def too_long(self, size: int, sample: bytes, framing: int) -> Batch:
        """The reject for a record that was never held whole."""
        self.record += 1
        return rejected([too_long(self.record - 1, size, sample, self.config)], framing)

    def parse(self, block: bytes, final: bool) -> tuple[Batch, int]:
        """Documents and rejects of the whole records of a block, and the bytes that they take."""
        data = np.frombuffer(block, np.uint8)
        lines = int(np.count_nonzero(data == csvscan.LF)) + 1
        if self.line_end != csvscan.LF:
            lines += int(np.count_nonzero(data == self.line_end))
        text, names, starts, ends, status, text_offsets, name_offsets = arrays = _arrays(block, lines)
        count, used = csvscan.scan(
            data, self.delimiter, self.quote, self.line_end, self.columns, self.text, self.name,
            final, _ALL, self.longest, *arrays,
        )  # fmt: skip
        starts, ends, status = starts[:count], ends[:count], status[:count]
        sizes = ends - starts
        found = np.flatnonzero(status == csvscan.FOUND)
        raw = string_array(text, text_offsets[: count + 1], pa.large_binary()).take(pa.array(found))
        named = string_array(names, name_offsets[: count + 1], pa.large_binary()).take(pa.array(found))
        batch = column_batch(
            self.record + found,
            raw,
            sizes[found],
            source_names(named),
            self.what,
            self.config,
        )
        rejects = []
        for row in np.flatnonzero(status >= csvscan.BAD_QUOTE).tolist():
            sample = block[starts[row] : starts[row] + min(sizes[row], SAMPLE_BYTES)]
            if sizes[row] > self.config.max_document_bytes:
                rejects.append(too_long(self.record + row, int(sizes[row]), sample, self.config))
                continue
            quote = status[row] == csvscan.BAD_QUOTE
            detail = (
                "A quote is opened and not closed, or closed inside a field."
                if quote
                else f"The record has not {self.columns} columns."
            )
            rejects.append(
                Reject(
                    self.record + row,
                    "invalid_csv" if quote else "wrong_columns",
                    detail,
                    int(sizes[row]),
                    sample,
                )
            )
        others = rejected(rejects).rejects
        self.record += count
        framing = used - int(sizes[status != csvscan.BLANK].sum())
        every = pa.concat_tables([batch.rejects, others]).sort_by("record")
        return Batch(batch.documents, every, framing), used


def _begins_a_line(byte: int, data: bytes, line_ends: set[int]) -> bool:
    """Whether a byte stands behind a line end; to search for both together takes three times as long."""
    if byte not in data:
        return False
    array = np.frombuffer(data, np.uint8)
    here = array[1:] == byte
    return any(bool((here & (array[:-1] == end)).any()) for end in line_ends)


def _ends_in_cr(data: bytes, used: int) -> bool:
    """Whether a header of `used` bytes ends in CR, and in no LF with some before it."""
    return data[used - 1 : used] == b"\r" and not data[used:].lstrip(b"\r").startswith(b"\n")


def _arrays(block: bytes, records: int) -> tuple[np.ndarray, ...]:
    """Room for what csvscan.scan writes."""
    return (
        np.empty(len(block), np.uint8),
        np.empty(len(block), np.uint8),
        np.empty(records, np.int64),
        np.empty(records, np.int64),
        np.empty(records, np.uint8),
        np.zeros(records + 1, np.int64),
        np.zeros(records + 1, np.int64),
    )
