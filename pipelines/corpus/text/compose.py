"""NFC of texts that somebody may have made to take long."""

import re
import unicodedata
from functools import cache

LONG = 64
"""Combining marks in a row that no text has, and that normalisation would sort in quadratic time."""


@cache
def _marks() -> frozenset[str]:
    """The combining marks."""
    return frozenset(
        chr(code)
        for code in range(0x300, 0x1F000)
        if not 0xD800 <= code < 0xE000 and unicodedata.combining(unicodedata.normalize("NFD", chr(code))[0])
    )


@cache
def _long_runs() -> re.Pattern[str]:
    return re.compile(f"[{re.escape(''.join(sorted(_marks())))}]{{{LONG},}}")


def nfc(text: str) -> str:
    """A text in NFC, in a time that grows with its length alone."""

    def in_order(run: re.Match[str]) -> str:
        marks = "".join(unicodedata.normalize("NFD", mark) for mark in run[0])
        return "".join(sorted(marks, key=unicodedata.combining))

    # A long run has a character at one of these places.
    if not _marks().isdisjoint(text[LONG - 1 :: LONG]):
        text = _long_runs().sub(in_order, text)
    return unicodedata.normalize("NFC", text)
