"""NFC of texts that somebody may have made to take long."""

import re
import unicodedata
from functools import cache


@cache
def _long_runs() -> re.Pattern[str]:
    """Runs of combining marks longer than any text has, which normalisation would sort in quadratic time."""
    marks = [
        chr(code)
        for code in range(0x300, 0x1F000)
        if not 0xD800 <= code < 0xE000 and unicodedata.combining(unicodedata.normalize("NFD", chr(code))[0])
    ]
    return re.compile(f"[{re.escape(''.join(marks))}]{{64,}}")


def nfc(text: str) -> str:
    """A text in NFC, in a time that grows with its length alone."""

    def in_order(run: re.Match[str]) -> str:
        marks = "".join(unicodedata.normalize("NFD", mark) for mark in run[0])
        return "".join(sorted(marks, key=unicodedata.combining))

    return unicodedata.normalize("NFC", _long_runs().sub(in_order, text))
