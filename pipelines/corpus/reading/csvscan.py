"""One pass over comma-separated values: where each record ends, and two of its fields unescaped.

The grammar is RFC 4180 with any delimiter: a field that begins with a quote reaches to the closing quote,
over delimiters and line ends, two quotes standing for one; anywhere else a quote is a character. Lines end
in LF with any CR before it, or in CR, LF or CRLF where `line_end` is CR.
"""

import numpy as np

from base.kernels import kernel

FOUND, BLANK, BAD_QUOTE, BAD_COLUMNS = 0, 1, 2, 3
LF, CR = 10, 13


@kernel
def _field(
    data: np.ndarray,
    at: int,
    end: int,
    delimiter: int,
    quote: int,
    line_end: int,
    final: bool,
    until: int,
    out: np.ndarray,
    put: int,
    keep: bool,
) -> tuple[int, int, bool]:
    """Pass over one field from `at`, writing it to `out` from `put` if `keep`.

    A quote that is open at `until` is taken for one that nothing closes.

    Returns (index of the delimiter or line end after it, or `end`; index after the last byte written; whether
    the field is good). The index is -1 if the data end before that is known.
    """
    if at < end and data[at] == quote:
        opened = at
        at += 1
        while True:
            while at < end and at < until and data[at] != quote:
                if keep:
                    out[put] = data[at]
                    put += 1
                at += 1
            if at >= until or (at == end and final):
                # A quote that nothing closes costs its own line, not the rest of the file. Of the quotes
                # passed none is open when that is read again, so no line is passed a third time.
                at = opened
                while at < end and data[at] != LF and data[at] != line_end:
                    at += 1
                return (at, put, False) if at < end or final else (-1, put, False)
            if at == end:
                return -1, put, False
            if at + 1 < end and data[at + 1] == quote:
                if keep:
                    out[put] = quote
                    put += 1
                at += 2
                continue
            break
        at += 1
        after = at
        while after < end and data[after] == CR and line_end != CR:
            after += 1
        if after == end:
            return (end, put, True) if final else (-1, put, True)
        if data[at] == delimiter or data[at] == LF or data[at] == line_end:
            return at, put, True
        if data[after] == LF:
            return after, put, True
        # The record goes on to the end of the line in which the mistake stands.
        while at < end and data[at] != LF and data[at] != line_end:
            at += 1
        return (at, put, False) if at < end or final else (-1, put, False)
    start = at
    if line_end == LF:  # the usual one: another comparison would slow this loop by a quarter
        while at < end and data[at] != delimiter and data[at] != LF:
            if keep:
                out[put] = data[at]
                put += 1
            at += 1
    else:
        while at < end and data[at] != delimiter and data[at] != LF and data[at] != line_end:
            if keep:
                out[put] = data[at]
                put += 1
            at += 1
    if at == end and not final:
        return -1, put, True
    if keep and (at == end or data[at] == LF):
        last = at
        while last > start and data[last - 1] == CR:
            last -= 1
            put -= 1
    return at, put, True


@kernel
def scan(
    data: np.ndarray,
    delimiter: int,
    quote: int,
    line_end: int,
    columns: int,
    text_column: int,
    name_column: int,
    final: bool,
    most: int,
    longest: int,
    text: np.ndarray,
    names: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    status: np.ndarray,
    text_offsets: np.ndarray,
    name_offsets: np.ndarray,
) -> tuple[int, int]:
    """Scan at most `most` records of `data` (uint8) from its start; `final`: nothing comes after it.

    `quote`: the byte that fields may be in, or one that no data have; `line_end`: LF, or CR where a lone one
    ends lines. A quote that is open `longest` bytes after the start of its record is taken for one that
    nothing closes.
    columns: how many a record must have (0: any number); text_column, name_column: which are kept (-1:
    none). Written: the unescaped fields into text and names (each as long as data), and for each record its
    first byte, the byte after its last without the line end, FOUND, BLANK, BAD_QUOTE or BAD_COLUMNS, and
    where its fields end in text and names (offsets start with a 0 that is there already; a record that is
    not FOUND gets empty ones). Returns (records, bytes they and their line ends take).
    """
    size = len(data)
    at = 0
    record = 0
    text_put = name_put = 0
    while at < size and record < most:
        start = at
        until = start + longest
        text_at, name_at = text_put, name_put
        column = 0
        good = True
        while True:
            if column == text_column:
                at, text_put, good = _field(
                    data, at, size, delimiter, quote, line_end, final, until, text, text_put, True
                )
            elif column == name_column:
                at, name_put, good = _field(
                    data, at, size, delimiter, quote, line_end, final, until, names, name_put, True
                )
            else:
                at, _, good = _field(
                    data, at, size, delimiter, quote, line_end, final, until, text, text_put, False
                )
            column += 1
            if at < 0 or not good or at == size or data[at] == LF or data[at] == line_end:
                break
            at += 1
            if at == size and not final:
                at = -1
                break
        # Whether an LF belongs to a CR is not known before it is there.
        if at < 0 or (at == size - 1 and not final and line_end == CR and data[at] == CR):
            return record, start
        stop = at
        while stop > start and data[stop - 1] == CR:
            stop -= 1
        starts[record], ends[record] = start, stop
        if stop == start:
            status[record] = BLANK
        elif not good:
            status[record] = BAD_QUOTE
        elif columns > 0 and column != columns:
            status[record] = BAD_COLUMNS
        else:
            status[record] = FOUND
        if status[record] != FOUND:
            text_put, name_put = text_at, name_at
        text_offsets[record + 1] = text_put
        name_offsets[record + 1] = name_put
        record += 1
        if at < size - 1 and line_end == CR and data[at] == CR and data[at + 1] == LF:
            at += 1
        at = min(at + 1, size)
    return record, at
