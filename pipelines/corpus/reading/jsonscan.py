"""One pass over JSON lines: check each line's grammar, find two string fields and unescape them.

The grammar is RFC 8259. A line the scanner does not accept is not therefore wrong: numbers out of the
ordinary, a key given twice, escapes in a key and the like are left to `json.loads`. What it accepts has
the same text as `json.loads` gives.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from base.kernels import (
    EVERY_BYTE,
    HIGH_BITS,
    inlined,
    kernel,
    load64,
    store64,
    trailing_zeros,
    utf8_length,
)
from dedup.hashing import string_buffers

FOUND, BLANK, TROUBLE = 0, 1, 2
_DEEPEST = 60
_LONGEST_NUMBER = 300
_TRUE, _FALSE, _NULL = (np.frombuffer(word, np.uint8) for word in (b"true", b"false", b"null"))
_QUOTES = np.uint64(0x2222222222222222)
_SLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES = np.uint64(0x2020202020202020)


@inlined
def _hex4(data: np.ndarray, at: int, end: int) -> int:
    """The number of four hexadecimal digits, or -1."""
    if at + 4 > end:
        return -1
    value = 0
    for i in range(at, at + 4):
        c = data[i]
        if 48 <= c <= 57:
            value = value * 16 + c - 48
        elif 65 <= (c & 0xDF) <= 70:
            value = value * 16 + (c & 0xDF) - 55
        else:
            return -1
    return value


@kernel
def _string(data: np.ndarray, at: int, end: int, out: np.ndarray, put: int) -> tuple[int, int]:
    """Unescape the string whose first character is at `at` into `out` from `put`.

    Returns (index after the closing quote, index after the last byte written); the first is -1 if the
    string is not well-formed. `out` needs 8 bytes more room than the string has.
    """
    while True:
        while at + 8 <= end:
            word = load64(data, at)
            store64(out, put, word)
            quote = word ^ _QUOTES
            slash = word ^ _SLASHES
            # The high bit of a byte is set where it is a quote, a backslash, a control character or not
            # ASCII; bytes above the first such byte may be flagged wrongly, which does not matter.
            stop = (
                ((quote - EVERY_BYTE) & ~quote)
                | ((slash - EVERY_BYTE) & ~slash)
                | ((word - _SPACES) & ~word)
                | word
            ) & HIGH_BITS
            if stop == 0:
                at += 8
                put += 8
                continue
            step = trailing_zeros(stop) >> 3
            at += step
            put += step
            break
        if at >= end:
            return -1, put
        c = data[at]
        if c == 34:
            return at + 1, put
        if c == 92:
            if at + 1 >= end:
                return -1, put
            e = data[at + 1]
            at += 2
            if e == 110:
                out[put] = 10
            elif e == 34 or e == 92 or e == 47:
                out[put] = e
            elif e == 116:
                out[put] = 9
            elif e == 114:
                out[put] = 13
            elif e == 98:
                out[put] = 8
            elif e == 102:
                out[put] = 12
            elif e == 117:
                code = _hex4(data, at, end)
                at += 4
                if code < 0 or 0xDC00 <= code < 0xE000:
                    return -1, put
                if 0xD800 <= code < 0xDC00:
                    if at + 6 > end or data[at] != 92 or data[at + 1] != 117:
                        return -1, put
                    low = _hex4(data, at + 2, end)
                    if low < 0xDC00 or low >= 0xE000:
                        return -1, put
                    at += 6
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                    out[put] = 0xF0 | (code >> 18)
                    out[put + 1] = 0x80 | ((code >> 12) & 0x3F)
                    out[put + 2] = 0x80 | ((code >> 6) & 0x3F)
                    out[put + 3] = 0x80 | (code & 0x3F)
                    put += 3
                elif code < 0x80:
                    out[put] = code
                elif code < 0x800:
                    out[put] = 0xC0 | (code >> 6)
                    out[put + 1] = 0x80 | (code & 0x3F)
                    put += 1
                else:
                    out[put] = 0xE0 | (code >> 12)
                    out[put + 1] = 0x80 | ((code >> 6) & 0x3F)
                    out[put + 2] = 0x80 | (code & 0x3F)
                    put += 2
            else:
                return -1, put
            put += 1
            continue
        if c < 0x20:
            return -1, put
        if c < 0x80:
            out[put] = c
            put += 1
            at += 1
            continue
        # Characters that are not ASCII come in runs.
        while at < end and data[at] >= 0x80:
            length = utf8_length(data, at, end)
            if length == 0:
                return -1, put
            for _ in range(length):
                out[put] = data[at]
                put += 1
                at += 1


@inlined
def _equal(data: np.ndarray, at: int, other: np.ndarray, first: int, count: int) -> bool:
    """Whether `count` bytes of `data` from `at` and of `other` from `first` are equal."""
    for i in range(count):  # noqa: SIM110 (numba has no all())
        if data[at + i] != other[first + i]:
            return False
    return True


@inlined
def _begins(data: np.ndarray, at: int, end: int, word: np.ndarray) -> Any:
    return at + len(word) <= end and _equal(data, at, word, 0, len(word))


@kernel
def _scalar(data: np.ndarray, at: int, end: int) -> int:
    """The index after the number, true, false or null at `at`, or -1."""
    c = data[at]
    if c == _TRUE[0]:
        return at + len(_TRUE) if _begins(data, at, end, _TRUE) else -1
    if c == _NULL[0]:
        return at + len(_NULL) if _begins(data, at, end, _NULL) else -1
    if c == _FALSE[0]:
        return at + len(_FALSE) if _begins(data, at, end, _FALSE) else -1
    start = at
    if c == 45:
        at += 1
    first = at
    while at < end and 48 <= data[at] <= 57:
        at += 1
    if at == first or (data[first] == 48 and at - first > 1):
        return -1
    if at < end and data[at] == 46:
        at += 1
        first = at
        while at < end and 48 <= data[at] <= 57:
            at += 1
        if at == first:
            return -1
    if at < end and data[at] & 0xDF == 69:
        at += 1
        if at < end and (data[at] == 43 or data[at] == 45):
            at += 1
        first = at
        while at < end and 48 <= data[at] <= 57:
            at += 1
        if at == first:
            return -1
    return at if at - start <= _LONGEST_NUMBER else -1


@inlined
def _space(data: np.ndarray, at: int, end: int) -> int:
    """The index of the next byte that is neither space, tab nor carriage return."""
    while at < end and (data[at] == 32 or data[at] == 9 or data[at] == 13):
        at += 1
    return at


@kernel
def _is_key(
    data: np.ndarray, start: int, stop: int, keys: np.ndarray, key_ends: np.ndarray, number: int
) -> bool:
    """Whether data[start:stop] is the key `number` of a path."""
    if number >= len(key_ends):
        return False
    first = key_ends[number - 1] + 1 if number > 0 else 0
    if stop - start != key_ends[number] - first:
        return False
    same: bool = _equal(data, start, keys, first, stop - start)
    return same


@kernel
def _is_path(data: np.ndarray, start: int, stop: int, keys: np.ndarray, key_ends: np.ndarray) -> bool:
    """Whether data[start:stop] is a path of several keys, dots and all."""
    if len(key_ends) < 2 or stop - start != key_ends[-1]:
        return False
    same: bool = _equal(data, start, keys, 0, stop - start)
    return same


@kernel
def _line(
    data: np.ndarray,
    at: int,
    end: int,
    text_keys: np.ndarray,
    text_ends: np.ndarray,
    name_keys: np.ndarray,
    name_ends: np.ndarray,
    text: np.ndarray,
    text_put: int,
    names: np.ndarray,
    name_put: int,
) -> tuple[int, int, int, bool]:
    """Scan one line from `at`.

    Returns (index of the line end, or -1 for trouble; index after the text, or -1 if it was not found;
    index after the name; whether a name was found).
    """
    depth = 0
    objects = np.uint64(0)  # bit d is set if the container at depth d + 1 is an object
    text_matched = name_matched = 0  # path components that lead to the current container
    # Bit d is set if a key of the path was seen at depth d, bit 0 if one that is the whole path.
    text_seen = name_seen = np.uint64(0)
    text_stop = -1
    name_stop = name_put
    named = False
    trouble = (-1, -1, name_put, False)
    expect_key = False
    while True:
        # A value comes next, or (expect_key) a key, its colon and a value.
        is_text = is_name = False
        text_inner = name_inner = False
        at = _space(data, at, end)
        if at >= end:
            return trouble
        if expect_key:
            if data[at] != 34:
                return trouble
            start = at + 1
            # Scratch room: nothing is kept of what is written here.
            scratch = text_stop if text_stop >= 0 else text_put
            at, stop = _string(data, start, end, text, scratch)
            if at < 0:
                return trouble
            if stop - scratch != at - 1 - start:
                return trouble
            stop = at - 1
            at = _space(data, at, end)
            if at >= end or data[at] != 58:
                return trouble
            at = _space(data, at + 1, end)
            if at >= end:
                return trouble
            bit = np.uint64(1) << np.uint64(depth)
            if text_matched == depth - 1 and _is_key(data, start, stop, text_keys, text_ends, depth - 1):
                if text_seen & (bit | np.uint64(1)):
                    return trouble
                text_seen |= bit
                is_text = depth == len(text_ends)
                text_inner = not is_text
            if name_matched == depth - 1 and _is_key(data, start, stop, name_keys, name_ends, depth - 1):
                if name_seen & (bit | np.uint64(1)):
                    return trouble
                name_seen |= bit
                is_name = depth == len(name_ends)
                name_inner = not is_name
            if depth == 1 and _is_path(data, start, stop, text_keys, text_ends):
                if text_seen:
                    return trouble
                text_seen = np.uint64(1)
                is_text = True
            if depth == 1 and _is_path(data, start, stop, name_keys, name_ends):
                if name_seen:
                    return trouble
                name_seen = np.uint64(1)
                is_name = True
        c = data[at]
        opened = False
        if is_text:
            if c != 34:
                return trouble
            begin = at + 1
            at, text_stop = _string(data, begin, end, text, text_put)
            if at < 0 or is_name:
                return trouble
        elif c == 34:
            if is_name:
                at, name_stop = _string(data, at + 1, end, names, name_put)
                named = True
            else:
                scratch = text_stop if text_stop >= 0 else text_put
                at, _ = _string(data, at + 1, end, text, scratch)
            if at < 0:
                return trouble
        elif c == 123 or c == 91:
            if depth == _DEEPEST or (depth == 0 and c == 91):
                return trouble
            bit = np.uint64(1) << np.uint64(depth)
            objects = objects | bit if c == 123 else objects & ~bit
            if c == 123 and text_inner:
                text_matched = depth
            if c == 123 and name_inner:
                name_matched = depth
            depth += 1
            at = _space(data, at + 1, end)
            if at >= end:
                return trouble
            opened = data[at] != c + 2
            expect_key = c == 123
        else:
            begin = at
            at = _scalar(data, at, end)
            if at < 0 or (is_name and c == 45):
                return trouble
            if is_name:
                digits = 0
                while begin + digits < at and 48 <= data[begin + digits] <= 57:
                    names[name_put + digits] = data[begin + digits]
                    digits += 1
                if begin + digits == at:
                    named = True
                    name_stop = name_put + digits
        if opened:
            continue
        # The value is complete: close containers until there is another value.
        while True:
            at = _space(data, at, end)
            if depth == 0:
                if at < end and data[at] != 10:
                    return trouble
                return at, text_stop, name_stop, named
            if at >= end:
                return trouble
            inside_object = (objects >> np.uint64(depth - 1)) & np.uint64(1) == 1
            if data[at] == 44:
                at += 1
                expect_key = inside_object
                break
            if data[at] != (125 if inside_object else 93):
                return trouble
            at += 1
            depth -= 1
            text_matched = min(text_matched, max(depth - 1, 0))
            name_matched = min(name_matched, max(depth - 1, 0))


@kernel
def scan(
    data: np.ndarray,
    text_keys: np.ndarray,
    text_ends: np.ndarray,
    name_keys: np.ndarray,
    name_ends: np.ndarray,
    text: np.ndarray,
    names: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    status: np.ndarray,
    text_offsets: np.ndarray,
    name_offsets: np.ndarray,
    named: np.ndarray,
) -> int:
    """Scan all lines of `data` (uint8, whole lines; the last may lack its line end).

    text_keys, text_ends: the UTF-8 keys of the path to the text, joined by dots, and where each ends;
    likewise for the name (no key: no name), which may be a whole number too. A key of the object that is the
    whole path goes before the path. Written: the unescaped fields into text and names (each 16 bytes longer
    than data), and for each line its first byte, the byte after its last without the line end,
    FOUND, BLANK or TROUBLE, and where its fields end in text and names (offsets start with a 0 that is
    there already; a line without the field gets an empty one). Returns the number of lines.
    """
    size = len(data)
    at = 0
    line = 0
    text_put = name_put = 0
    while at < size:
        starts[line] = at
        named[line] = False
        first = _space(data, at, size)
        if first == size or data[first] == 10:
            stop = first
            status[line] = BLANK
        else:
            stop, text_stop, name_stop, has_name = _line(
                data, at, size, text_keys, text_ends, name_keys, name_ends, text, text_put, names, name_put
            )
            if stop < 0 or text_stop < 0:
                status[line] = TROUBLE
                stop = at if stop < 0 else stop
                while stop < size and data[stop] != 10:
                    stop += 1
            else:
                status[line] = FOUND
                text_put = text_stop
                if has_name:
                    name_put = name_stop
                    named[line] = True
        ends[line] = stop - 1 if stop > at and data[stop - 1] == 13 else stop
        text_offsets[line + 1] = text_put
        name_offsets[line + 1] = name_put
        line += 1
        at = stop + 1
    return line


@kernel
def _valid_utf8(data: np.ndarray, offsets: np.ndarray, valid: np.ndarray) -> None:
    for row in range(len(valid)):
        at, end = offsets[row], offsets[row + 1]
        valid[row] = True
        while at < end:
            if at + 8 <= end and load64(data, at) & HIGH_BITS == 0:
                at += 8
                continue
            length = utf8_length(data, at, end)
            if length == 0:
                valid[row] = False
                break
            at += length


def valid_utf8(column: pa.Array) -> np.ndarray:
    """Whether each value of a large_binary array is UTF-8 (bool); null is."""
    valid = np.empty(len(column), np.bool_)
    _valid_utf8(*string_buffers(column.view(pa.large_string())), valid)
    return valid
