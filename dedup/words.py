r"""Characters and words of UTF-8 bytes, for numba kernels.

Words are what `re.findall(r"\w+", text.lower())` finds. The hash of one starts from `WORD_SEED`; each
lower-case code point is added by `h = (h ^ code) * WORD_PRIME`, and `mix64` finishes it. (The loops over
bytes are in the kernels: with a function that gives one word at a time they take half as long again.)

A kernel takes the two tables of `code_points` as arguments.
"""

import functools
import re
import sys

import numpy as np

from base.kernels import GOLDEN, decode, kernel

WORD = 1 << 28
"""Flag of `code_points`: a word character."""
SPACE = 1 << 29
"""Flag of `code_points`: white space."""
_CASED = 1 << 30
_IGNORABLE = 1 << 31
LOWER = (1 << 21) - 1
"""Mask of the lower case in `code_points`."""

SIGMA = 0x3A3
FINAL_SIGMA = 0x3C2
DOTTED_I = 0x130
"""The one code point whose lower case is two: an i and a combining dot, which is no word character."""

WORD_SEED = np.uint64(0xCBF29CE484222325)
WORD_PRIME = GOLDEN
POLYNOMIAL_BASE = np.uint64(0xD6E8FEB86659FD93)
"""Base of the polynomial over word hashes that is the hash of several words, before `mix64`."""


@functools.cache
def code_points() -> tuple[np.ndarray, np.ndarray]:
    """(by code point: flags and lower case, uint32; by byte: lower case of a word byte, else 0, uint8).

    Bytes above 127 have 255 in the second table.

    Flags are what Python's own `str.lower` and `re` do, so that words are theirs by construction.
    """
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    word = re.compile(r"\w").match
    for first, end in ((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xE0200)):
        characters = [chr(code) for code in range(first, end)]
        lower = [c.lower()[0] for c in characters]
        block = np.array([ord(c) for c in lower], np.uint32)
        block |= np.array([word(c) is not None for c in lower], np.uint32) * np.uint32(WORD)
        block |= np.array([c.isspace() for c in characters], np.uint32) * np.uint32(SPACE)
        # The final form of sigma asks which characters are cased and which are ignored; str.lower tells.
        cased = np.array([(c + "Σ").lower()[-1] == "ς" for c in characters], np.bool_)
        ignorable = np.array([("A" + c + "Σ").lower()[-1] == "ς" for c in characters], np.bool_) & ~cased
        block |= cased.astype(np.uint32) * np.uint32(_CASED)
        block |= ignorable.astype(np.uint32) * np.uint32(_IGNORABLE)
        table[first:end] = block
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
