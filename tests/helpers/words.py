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
    inside = False
    for character in text.lower().translate(PASSED):
        is_word = re.match(r"\w", character) is not None or unicodedata.category(character)[0] == "M"
        if not is_word:
            gaps[-1] += character
        elif inside:
            found[-1] += character
        else:
            found.append(character)
            gaps.append("")
        inside = is_word
    return found, gaps
