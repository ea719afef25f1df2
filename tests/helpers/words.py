"""Words as dedup/words.py has them, by Python's own `re` and `unicodedata`."""

import re
import unicodedata

from dedup import words

PASSED = dict.fromkeys(code for first, last in words._PASSED for code in range(first, last + 1))
"""For `str.translate`: removes what is neither part of a word nor between words."""


def split(text: str) -> tuple[list[str], list[str]]:
    """Words of a text in lower case, and what stands before, between and behind them."""
    found: list[str] = []
    gaps = [""]
    flags = words.code_points()[0]
    letter = None
    """The letter before, with its flags; None: no word character is."""
    for character in text.lower().translate(PASSED):
        is_mark = unicodedata.category(character)[0] == "M"
        if not is_mark and re.match(r"\w", character) is None:
            gaps[-1] += character
            letter = None
            continue
        kind = int(flags[ord(character)]) & (words.ALONE | words.CUT)
        goes_on = letter is not None and (
            is_mark
            or (kind == letter[1] == 0)
            or (kind == letter[1] == words.CUT and not words._ends_word(letter[0], ord(character)))
        )
        if goes_on:
            found[-1] += character
        else:
            found.append(character)
            gaps.append("")
        if not is_mark or letter is None:
            letter = ord(character), kind
    return found, gaps
