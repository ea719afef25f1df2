"""Cleaning text without changing what it says, every change counted.

The rules, in this order; everything else stays as it is, the indentation, trailing blanks of lines and
repeated blank lines of code and manual pages included.

mojibake    UTF-8 that was read as Windows-1252 or Latin-1 ("â€™" for "’") is repaired by ftfy's
            `fix_encoding`, in documents where at least half of the non-ASCII characters form such sequences
            (the share keeps documents that only show an example in other non-ASCII text).
windows_1252  Windows-1252 that was read as Latin-1: the C1 control characters U+0080 to U+009F become the
            quotation marks, dashes, euro signs and letters that their bytes stand for, as browsers and ftfy
            read them. Not in a text with one of the five bytes that stand for nothing: that is no
            Windows-1252. U+0085 is an ellipsis where others are with it, else NEL.
newline     CR LF, CR and NEL (U+0085) become LF.
nul         U+0000 is removed. Apart from the other control characters, since text with NUL in it is often
            good text, and text with many other control characters is none.
control     C0 and C1 control characters other than tab and LF, DEL included, are removed.
zero_width  U+200B, U+2060 and U+FEFF are removed. The joiners U+200C and U+200D and the direction marks
            carry meaning and stay, and so does U+200B between letters of Thai, Lao, Khmer, Burmese and their
            kin, where it is what divides words.
whitespace  Blank lines before the first character are removed. Spaces, tabs and line ends after the last
            one become a single LF if there is an LF among them, and are removed otherwise.
nfc         Unicode NFC (UAX 15).

U+FFFD stays and is counted as n_replacement.
"""

import functools
import unicodedata
from typing import Any

import ftfy
import numpy as np
import pyarrow as pa

from base.kernels import EVERY_BYTE, HIGH_BITS, decode, inlined, kernel, load64, utf8_length
from dedup.hashing import string_buffers
from pipelines.corpus.text import compose

REASONS = ("mojibake", "windows_1252", "newline", "nul", "control", "zero_width", "whitespace", "nfc")
_WINDOWS, _NEWLINE, _NUL, _CONTROL, _ZERO_WIDTH, _WHITESPACE, _REPLACEMENT = range(7)
_EDIT, _NFC, _MOJIBAKE = np.uint8(1), np.uint8(2), np.uint8(4)
_SPACES = np.uint64(0x6060606060606060)
_LINE_ENDS = np.uint64(0x0A0A0A0A0A0A0A0A)
_TABS = np.uint64(0x0909090909090909)
_MOST = np.uint64(0x7F7F7F7F7F7F7F7F)
_NFC_LIMIT = 0x30000

# Class of each byte: 0 ordinary, 1 to edit, 2 not ASCII.
_CLASSES = np.zeros(256, np.uint8)
_CLASSES[:32] = 1
_CLASSES[[9, 10]] = 0
_CLASSES[127] = 1
_CLASSES[128:] = 2


def normalise(text: pa.LargeStringArray) -> tuple[pa.LargeStringArray, dict[str, np.ndarray]]:
    """Clean documents by the rules above.

    Returns the cleaned texts and int64 columns of one number a document: n_<reason> (characters changed
    or removed; for mojibake the sequences found, for nfc 1), n_replacement, and delta_<reason>, the signed
    change in UTF-8 bytes: bytes as cleaned = bytes as read + the sum of all delta columns. Without
    anything to change the result is `text` itself.
    """
    text, columns = _pass(text)
    edits = [columns[f"n_{reason}"] for reason in REASONS if reason != "mojibake"]
    rows = np.flatnonzero(sum(edits))
    # What was removed may have stood within mojibake, which only shows now.
    while len(rows):
        flags, _, _ = _examine(text.take(pa.array(rows)))
        rows = rows[(flags & _MOJIBAKE) != 0]
        part, more = _pass(text.take(pa.array(rows)))
        changed = more["n_mojibake"] > 0
        rows = rows[changed]
        for name, column in more.items():
            columns[name][rows] = column[changed] + (0 if name == "n_replacement" else columns[name][rows])
        new = dict(zip(rows.tolist(), part.filter(pa.array(changed)).to_pylist(), strict=True))
        text = _replace(text, new, np.zeros(len(text), np.int64), np.zeros(len(text), np.int64))
    return text, columns


def _pass(text: pa.LargeStringArray) -> tuple[pa.LargeStringArray, dict[str, np.ndarray]]:
    """`normalise`, each rule applied once."""
    columns = {
        f"{kind}_{reason}": np.zeros(len(text), np.int64) for reason in REASONS for kind in ("n", "delta")
    }
    flags, sequences, c1 = _examine(text)
    suspects = np.flatnonzero(flags & _MOJIBAKE)
    repaired = {row: _repair(text[row].as_py()) for row in suspects.tolist()}
    touched = np.zeros(len(text), np.int64)
    text = _replace(text, repaired, columns["delta_mojibake"], touched)
    if touched.any():
        columns["n_mojibake"] = touched * sequences
        flags, _, c1 = _examine(text)
    counts = np.zeros((len(text), 7), np.int64)
    deltas = np.zeros((len(text), 6), np.int64)
    if (flags & _EDIT).any():
        data, offsets = string_buffers(text)
        # A character of Windows-1252 takes up to three bytes for the two of a control character.
        room = offsets[-1] - offsets[0] + c1.sum()
        out = np.empty(room, np.uint8)
        out_offsets = np.zeros(len(offsets), np.int64)
        _edit(data, offsets, flags, c1, *_windows_1252(), out, out_offsets, counts, deltas)
        text = _large_strings(out, out_offsets)
    for number, reason in enumerate(REASONS[1:7]):
        columns[f"n_{reason}"] = np.ascontiguousarray(counts[:, number])
        columns[f"delta_{reason}"] = np.ascontiguousarray(deltas[:, number])
    columns["n_replacement"] = np.ascontiguousarray(counts[:, _REPLACEMENT])
    suspects = np.flatnonzero(flags & _NFC)
    composed = {row: compose.nfc(text[row].as_py()) for row in suspects.tolist()}
    text = _replace(text, composed, columns["delta_nfc"], columns["n_nfc"])
    return text, columns


def _repair(text: str) -> str:
    """`text` with mojibake repaired, each line by itself: ftfy's time grows faster than the length."""
    lines = text.split("\n")
    return "\n".join(line if line.isascii() else ftfy.fix_encoding(line) for line in lines)


def _large_strings(data: np.ndarray, offsets: np.ndarray) -> pa.LargeStringArray:
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data[: offsets[-1]])]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)


def _replace(
    text: pa.LargeStringArray, replacements: dict[int, str], delta: np.ndarray, touched: np.ndarray
) -> pa.LargeStringArray:
    """`text` with rows replaced; adds to `delta` the change in bytes, to `touched` 1 for each changed."""
    pieces = []
    done = 0
    for row, new in replacements.items():
        old = text[row].as_py()
        if new == old:
            continue
        delta[row] += len(new.encode()) - len(old.encode())
        touched[row] += 1
        pieces += [text.slice(done, row - done), pa.array([new], pa.large_string())]
        done = row + 1
    return pa.concat_arrays([*pieces, text.slice(done)]) if pieces else text


@functools.cache
def _cp1252_bytes() -> np.ndarray:
    """The byte 0x80 to 0xFF that Windows-1252 (undefined bytes as in Latin-1) shows as a code point, or 0."""
    table = np.zeros(0x2123, np.uint8)
    table[0x80:0x100] = np.arange(0x80, 0x100)
    for byte in range(0x80, 0xA0):
        table[ord(bytes([byte]).decode("sloppy-windows-1252"))] = byte
    return table


@functools.cache
def _windows_1252() -> tuple[np.ndarray, np.ndarray]:
    """(UTF-8 of the characters of the bytes 0x80 to 0x9F in Windows-1252, offsets); some are none."""
    characters = [bytes([byte]).decode("windows-1252", "ignore").encode() for byte in range(0x80, 0xA0)]
    offsets = np.cumsum([0, *(len(character) for character in characters)])
    return np.frombuffer(b"".join(characters), np.uint8), offsets


@functools.cache
def _nfc_suspects() -> np.ndarray:
    """Whether a text with this code point may not be in NFC: the quick check answers No or Maybe, or the
    character has a combining class.
    """
    suspect = np.zeros(_NFC_LIMIT, np.bool_)
    for code in range(0x300, _NFC_LIMIT):
        character = chr(code)
        suspect[code] = unicodedata.combining(character) != 0 or (
            not 0xD800 <= code < 0xE000 and unicodedata.normalize("NFC", character) != character
        )
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            suspect[int(parts[1], 16)] = True
    suspect[0x1161:0x1176] = suspect[0x11A8:0x11C3] = True  # conjoining Hangul vowels and final consonants
    return suspect


def _examine(text: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each document may need (flags), its mojibake sequences and its characters of Windows-1252."""
    data, offsets = string_buffers(text)
    flags = np.zeros(len(text), np.uint8)
    sequences = np.zeros(len(text), np.int64)
    c1 = np.zeros(len(text), np.int64)
    _flag(data, offsets, _CLASSES, _cp1252_bytes(), _nfc_suspects(), flags, sequences, c1)
    return flags, sequences, c1


@inlined
def _blank(byte: int) -> bool:
    return byte == 32 or byte == 10 or byte == 9


@kernel
def _ends_untidily(data: np.ndarray, start: int, end: int) -> Any:
    """Whether the whitespace rule changes data[start:end]."""
    if start == end:
        return False
    at = start
    while at < end and _blank(data[at]):
        if data[at] == 10:
            return True
        at += 1
    if at == end:
        return True
    if not _blank(data[end - 1]):
        return False
    return data[end - 1] != 10 or _blank(data[end - 2])


@kernel
def _classes_in(data: np.ndarray, start: int, end: int, classes: np.ndarray) -> np.uint8:
    """The classes of all bytes of data[start:end], joined by or."""
    seen = np.uint8(0)
    at = start
    while at < end:
        if at + 8 <= end:
            word = load64(data, at)
            if word & HIGH_BITS == 0:
                # In each byte, which is below 0x80, the high bit of a sum says: at least a space, not LF,
                # not a tab, not below DEL.
                control = ~(word + _SPACES) & ((word ^ _LINE_ENDS) + _MOST) & ((word ^ _TABS) + _MOST)
                if (control | (word + EVERY_BYTE)) & HIGH_BITS:
                    seen |= np.uint8(1)
                at += 8
                continue
            for i in range(at, at + 8):
                seen |= classes[data[i]]
            at += 8
        else:
            seen |= classes[data[at]]
            at += 1
    return seen


@kernel
def _flag(
    data: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    cp1252: np.ndarray,
    suspects: np.ndarray,
    flags: np.ndarray,
    sequences: np.ndarray,
    c1: np.ndarray,
) -> None:
    for row in range(len(flags)):
        start, end = offsets[row], offsets[row + 1]
        seen = _classes_in(data, start, end, classes)
        if seen & np.uint8(1) or _ends_untidily(data, start, end):
            flags[row] |= _EDIT
        if not seen & np.uint8(2):
            continue
        foreign = 0
        nel = 0
        undefined = False
        expected = 0  # characters still missing of a mojibake sequence
        length = 0
        in_sequences = 0
        at = start
        while at < end:
            if data[at] < 0x80:
                expected = 0
                if at + 8 <= end and load64(data, at) & HIGH_BITS == 0:
                    at += 8
                else:
                    at += 1
                continue
            code, size = decode(data, at)
            at += size
            foreign += 1
            if code < 0xA0 or code == 0x200B or code == 0x2060 or code == 0xFEFF or code == 0xFFFD:
                flags[row] |= _EDIT
                if code < 0xA0:
                    nel += code == 0x85
                    undefined |= code in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
                    c1[row] += code != 0x85
            if code >= 0x300 and (code >= len(suspects) or suspects[code]) and code < 0x30000:
                flags[row] |= _NFC
            byte = cp1252[code] if code < len(cp1252) else 0
            if expected > 0 and 0x80 <= byte < 0xC0:
                expected -= 1
                if expected == 0:
                    in_sequences += length
                    sequences[row] += 1
            elif 0xC2 <= byte < 0xF5:
                expected = 1 if byte < 0xE0 else (2 if byte < 0xF0 else 3)
                length = expected + 1
            else:
                expected = 0
        c1[row] = 0 if undefined or c1[row] == 0 else c1[row] + nel
        if in_sequences > 0 and 2 * in_sequences >= foreign:
            flags[row] |= _MOJIBAKE


@kernel
def _divided_by_zero_width(code: int) -> bool:
    """Whether U+200B divides the words of a character's script: those of South-East Asia without spaces."""
    return (
        0xE00 <= code < 0xF00
        or 0x1000 <= code < 0x10A0
        or 0x1780 <= code < 0x1800
        or 0x1950 <= code < 0x1AB0
        or 0xA9E0 <= code < 0xAA00
        or 0xAA60 <= code < 0xAAE0
    )


@kernel
def _divides_words(data: np.ndarray, at: int, end: int, out: np.ndarray, first: int, put: int) -> Any:
    """Whether a U+200B that ends at `at` stands between letters whose words it divides.

    out[first:put] is what stands before it.
    """
    before = put - 1
    while before > first and out[before] & 0xC0 == 0x80:
        before -= 1
    if before < first or at >= end or data[at] < 0xE0:
        return False
    return _divided_by_zero_width(decode(out, before)[0]) and _divided_by_zero_width(decode(data, at)[0])


@kernel
def _edit(
    data: np.ndarray,
    offsets: np.ndarray,
    flags: np.ndarray,
    c1: np.ndarray,
    windows: np.ndarray,
    windows_offsets: np.ndarray,
    out: np.ndarray,
    out_offsets: np.ndarray,
    counts: np.ndarray,
    deltas: np.ndarray,
) -> None:
    """Apply windows_1252, newline, nul, control, zero_width and whitespace to the flagged rows."""
    put = 0
    for row in range(len(flags)):
        start, end = offsets[row], offsets[row + 1]
        first = put
        if not flags[row] & _EDIT:
            out[put : put + end - start] = data[start:end]
            out_offsets[row + 1] = put = put + end - start
            continue
        at = start
        while at < end:
            byte = data[at]
            if byte >= 0x80:
                size = utf8_length(data, at, end)
                if byte == 0xC2 and data[at + 1] < 0xA0:
                    first_byte = windows_offsets[data[at + 1] - 0x80]
                    end_byte = windows_offsets[data[at + 1] - 0x7F]
                    if c1[row]:
                        for i in range(first_byte, end_byte):
                            out[put] = windows[i]
                            put += 1
                        counts[row, _WINDOWS] += 1
                        deltas[row, _WINDOWS] += end_byte - first_byte - 2
                    elif data[at + 1] == 0x85:
                        out[put] = 10
                        put += 1
                        counts[row, _NEWLINE] += 1
                        deltas[row, _NEWLINE] -= 1
                    else:
                        counts[row, _CONTROL] += 1
                        deltas[row, _CONTROL] -= 2
                    at += 2
                    continue
                if size == 3:
                    b, c = data[at + 1], data[at + 2]
                    word_joiner = byte == 0xE2 and b == 0x81 and c == 0xA0
                    order_mark = byte == 0xEF and b == 0xBB and c == 0xBF
                    space = byte == 0xE2 and b == 0x80 and c == 0x8B
                    if space:
                        space = not _divides_words(data, at + 3, end, out, first, put)
                    if word_joiner or order_mark or space:
                        counts[row, _ZERO_WIDTH] += 1
                        deltas[row, _ZERO_WIDTH] -= 3
                        at += 3
                        continue
                    if byte == 0xEF and b == 0xBF and c == 0xBD:
                        counts[row, _REPLACEMENT] += 1
                for _ in range(size):
                    out[put] = data[at]
                    put += 1
                    at += 1
                continue
            at += 1
            if byte == 13:
                counts[row, _NEWLINE] += 1
                if at < end and data[at] == 10:
                    at += 1
                    deltas[row, _NEWLINE] -= 1
                out[put] = 10
                put += 1
            elif (byte < 32 and byte != 10 and byte != 9) or byte == 127:
                reason = _CONTROL if byte else _NUL
                counts[row, reason] += 1
                deltas[row, reason] -= 1
            else:
                out[put] = byte
                put += 1
        full = put
        has_newline = False
        while put > first and _blank(out[put - 1]):
            put -= 1
            has_newline |= out[put] == 10
        if has_newline and put > first:
            out[put] = 10
            put += 1
        indent = first
        line = first
        while indent < put and _blank(out[indent]):
            if out[indent] == 10:
                line = indent + 1
            indent += 1
        if line > first:
            for i in range(put - line):
                out[first + i] = out[line + i]
            put -= line - first
        counts[row, _WHITESPACE] = full - put
        deltas[row, _WHITESPACE] = put - full
        out_offsets[row + 1] = put
