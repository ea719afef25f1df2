r"""Characters and words of UTF-8 bytes, for numba kernels.

Words are runs of word characters of the lower-cased text: what `\w` of Python's `re` is, and combining
marks, which are the vowels of Indic and South-East Asian scripts. What is not there in reading (`_PASSED`) is
passed over: the optional points of Arabic, Hebrew and Syriac, joiners, direction marks, variation selectors.

Scripts without spaces have words too. Each ideograph is one. Kana and the letters of Thai, Lao, Khmer,
Burmese and their kin are cut into words of two letters on average (`_ends_word`): where depends on two
neighbouring letters and nothing else, so that equal passages have equal words wherever they stand. Were each
letter a word, thirteen words would be a turn of phrase that any text may have.

The hash of a word starts from `WORD_SEED`; each code point is added by `h = (h ^ code) * WORD_PRIME`, and
`mix64` finishes it. (The loops over bytes are in the kernels: with a function that gives one word at a time
they take half as long again.)

A kernel takes the two tables of `code_points` as arguments; one that also looks at what stands between words
takes `symbols`.
"""

import functools
import re
import sys
import unicodedata
from typing import Any

import numpy as np

from base.kernels import GOLDEN, HIGH_BITS, decode, kernel, load64
from dedup.hashing import mix64

WORD = 1 << 28
"""Flag of `code_points`: a word character."""
SPACE = 1 << 29
"""Flag of `code_points`: white space."""
ALONE = 1 << 24
"""Flag of `code_points`: an ideograph, a word of its own."""
CUT = 1 << 25
"""Flag of `code_points`: a letter of another script without spaces."""
MARK = 1 << 26
"""Flag of `code_points`: a combining mark; it belongs to the letter before it."""
PASSED = 1 << 27
"""Flag of `code_points`: neither part of a word nor between words."""
_CASED = 1 << 30
_IGNORABLE = 1 << 31
LOWER = (1 << 21) - 1
"""Mask of the lower case in `code_points`."""

SIGMA = 0x3A3
FINAL_SIGMA = 0x3C2
DOTTED_I = 0x130
"""The one code point whose lower case is two: an i and `DOT_ABOVE`."""
DOT_ABOVE = 0x307

WORD_SEED = np.uint64(0xCBF29CE484222325)
WORD_PRIME = GOLDEN
POLYNOMIAL_BASE = np.uint64(0xD6E8FEB86659FD93)
"""Base of the polynomial over word hashes that is the hash of several words, before `mix64`."""

DIVIDES = 1 << 28
"""Flag of `symbols`: a mark of prose (a comma, a full stop) where white space or a closing mark follows."""
ENDS = 1 << 29
"""Flag of `symbols`: white space, quotation marks and closing brackets, before which such a mark is prose."""
SYMBOL = (1 << 21) - 1
"""Mask of the character itself in `symbols`; 0: none that counts."""

_PASSED = (
    (0xAD, 0xAD), (0x34F, 0x34F), (0x591, 0x5BD), (0x5BF, 0x5BF), (0x5C1, 0x5C2), (0x5C4, 0x5C5),
    (0x5C7, 0x5C7), (0x610, 0x61A), (0x61C, 0x61C), (0x640, 0x640), (0x64B, 0x652), (0x656, 0x65F),
    (0x670, 0x670), (0x6D6, 0x6DC), (0x6DF, 0x6E4), (0x6E7, 0x6E8), (0x6EA, 0x6ED), (0x711, 0x711),
    (0x730, 0x74A), (0x8D3, 0x8E1), (0x8E3, 0x8FF), (0x180B, 0x180F), (0x200C, 0x200F), (0x202A, 0x202E),
    (0x2060, 0x2064), (0x2066, 0x206F), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xE0100, 0xE01EF),
)  # fmt: skip
_IDEOGRAPHS = (
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x16FF0, 0x18CFF), (0x20000, 0x3FFFF),
)  # fmt: skip
_LETTERS_CUT = (
    (0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F),
    (0x3031, 0x3035), (0x3041, 0x30FF), (0x31F0, 0x31FF), (0xA000, 0xA48C), (0xA980, 0xA9FF),
    (0xAA60, 0xAADF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F),
)  # fmt: skip
_PROSE_MARKS = ".,;:…·،؛۔।॥။၊።፣፤፥"
_IDEOGRAPHIC_PROSE_MARKS = "。、，．；：｡､"
_SAME_SYMBOLS = {'"': "“”„‟«»″〝〞", "'": "‘’‚‛′", "-": "‐‑‒–—―−"}
_FORMS = ("<wide>", "<narrow>", "<small>", "<vertical>")


@functools.cache
def symbols() -> np.ndarray:
    """What stands between words, by code point: the character and flags, uint32.

    What only looks different is the same character: kinds of dashes and of quotation marks, full width.
    White space, controls and the marks of prose in scripts without spaces count for nothing.
    """
    table = np.zeros(sys.maxunicode + 1, np.uint32)
    for first, end in ((0, 0x4E00), (0xA000, 0xAC00), (0xE000, 0x20000)):  # Between them are letters alone.
        for code in range(first, end):
            character = chr(code).lower()[0]  # Ⓐ is a symbol
            kind = unicodedata.category(character)
            if character.isspace() or kind in ("Cc", "Zs"):
                table[code] = ENDS
            elif kind[0] in "PS":
                form, *parts = unicodedata.decomposition(character).split() or [""]
                table[code] = int(parts[0], 16) if form in _FORMS and len(parts) == 1 else ord(character)
                if kind in ("Pe", "Pf"):
                    table[code] |= ENDS
    for character, others in _SAME_SYMBOLS.items():
        table[[ord(other) for other in character + others]] = ord(character)
    for quote in "\"'":
        table[[ord(other) for other in quote + _SAME_SYMBOLS[quote]]] |= np.uint32(ENDS)
    table[[0xFFFC, 0xFFFD]] = 0  # They stand for what is not there.
    table[[ord(mark) for mark in _PROSE_MARKS]] |= np.uint32(DIVIDES)
    table[[ord(mark) for mark in _IDEOGRAPHIC_PROSE_MARKS]] = ENDS
    return table


@functools.cache
def code_points() -> tuple[np.ndarray, np.ndarray]:
    """(by code point: flags and lower case, uint32; by byte: lower case of a word byte, else 0, uint8).

    Bytes above 127 have 255 in the second table.

    Flags are what Python's own `str.lower`, `re` and `unicodedata` do, so that words are theirs by
    construction.
    """
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    word, category = re.compile(r"\w").match, unicodedata.category
    for first, end in ((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xE0200)):
        characters = [chr(code) for code in range(first, end)]
        lower = [c.lower()[0] for c in characters]
        block = np.array([ord(c) for c in lower], np.uint32)
        marks = np.array([category(c)[0] == "M" for c in characters], np.bool_)
        of_words = np.array([word(c) is not None for c in lower], np.bool_) | marks
        block |= of_words.astype(np.uint32) * np.uint32(WORD)
        block |= marks.astype(np.uint32) * np.uint32(MARK)
        block |= np.array([c.isspace() for c in characters], np.uint32) * np.uint32(SPACE)
        # The final form of sigma asks which characters are cased and which are ignored; str.lower tells.
        cased = np.array([(c + "Σ").lower()[-1] == "ς" for c in characters], np.bool_)
        ignorable = np.array([("A" + c + "Σ").lower()[-1] == "ς" for c in characters], np.bool_) & ~cased
        block |= cased.astype(np.uint32) * np.uint32(_CASED)
        block |= ignorable.astype(np.uint32) * np.uint32(_IGNORABLE)
        table[first:end] = block
    for ranges, flag in ((_IDEOGRAPHS, ALONE), (_LETTERS_CUT, CUT)):
        for first, last in ranges:
            codes = range(first, min(last + 1, 0x40000))
            letters = np.array([category(chr(code)) in ("Lo", "Lm", "Nl") for code in codes], np.uint32)
            table[first : codes.stop] |= letters * np.uint32(flag)
    for first, last in _PASSED:
        table[first : last + 1] = table[first : last + 1] & ~np.uint32(WORD | MARK) | np.uint32(PASSED)
    ascii_words = np.full(256, 255, np.uint8)
    ascii_words[:128] = np.where(table[:128] & WORD, table[:128] & 127, 0)
    return table, ascii_words


@kernel
def sigma_is_final(data: np.ndarray, p: int, start: int, end: int, table: np.ndarray) -> bool:
    """Whether the capital sigma at p becomes the final form (Unicode's Final_Sigma, as in CPython)."""
    q = p
    before = False
    while q > start and not before:
        q -= 1
        while data[q] & 0xC0 == 0x80:
            q -= 1
        flags = table[decode(data, q)[0]]
        if flags & _CASED:
            before = True
        elif not flags & _IGNORABLE:
            return False
    if not before:
        return False
    q = p + 2
    while q < end:
        code, size = decode(data, q)
        flags = table[code]
        if flags & _CASED:
            return False
        if not flags & _IGNORABLE:
            return True
        q += size
    return True


@kernel
def _ends_word(letter: int, following: int) -> Any:
    """Whether a word ends between two letters of a script without spaces that is no ideographic one."""
    return mix64(np.uint64(letter) << np.uint64(21) | np.uint64(following)) & np.uint64(1) == 0


@kernel
def unspaced_word(data: np.ndarray, p: int, end: int, table: np.ndarray) -> tuple[np.uint64, int]:
    """(hash before `mix64`, end) of the word at p, which begins with a letter that is ALONE or CUT."""
    h = WORD_SEED
    code, size = decode(data, p)
    while True:
        flags = table[code]
        h = (h ^ np.uint64(flags & LOWER)) * WORD_PRIME
        p += size
        following = np.uint32(0)
        next_code = code
        while p < end:
            next_code, size = decode(data, p)
            following = table[next_code]
            if following & MARK:
                h = (h ^ np.uint64(following & LOWER)) * WORD_PRIME
            elif not following & PASSED:
                break
            following = np.uint32(0)
            p += size
        if not flags & CUT or not following & CUT or _ends_word(code, next_code):
            return h, p
        code = next_code


@kernel
def _count_unspaced(data: np.ndarray, offsets: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    for row in range(len(offsets) - 1):
        p, end = offsets[row], offsets[row + 1]
        while p < end:
            if data[p] < 0xE0:  # Scripts without spaces begin at U+0E00.
                p += 8 if p + 8 <= end and load64(data, p) & HIGH_BITS == 0 else 1
                continue
            code, size = decode(data, p)
            if not table[code] & (ALONE | CUT):
                p += size
                continue
            stop = unspaced_word(data, p, end, table)[1]
            out[row, 0] += 1
            for at in range(p, stop):
                out[row, 1] += data[at] & 0xC0 != 0x80
            p = stop


def count_unspaced(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Words and characters of each document that are in scripts without spaces: int64, documents × 2."""
    out = np.zeros((len(offsets) - 1, 2), np.int64)
    _count_unspaced(data, offsets, code_points()[0], out)
    return out
