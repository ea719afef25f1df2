"""NFC in a time that grows with the length of a text alone."""

import random
import unicodedata

import pytest

from pipelines.corpus.text.compose import nfc

MARKS = "\u0301\u0327\u0345\u05b0\u064b\u0f71\u0f73\u0344\u3099\U0001d165"


@pytest.mark.parametrize("seed", range(20))
def test_long_runs_of_marks_are_composed_as_others(seed: int) -> None:
    choose = random.Random(seed)
    runs = ["".join(choose.choices(MARKS, k=choose.choice((3, 63, 64, 300)))) for _ in range(5)]
    text = "".join(choose.choice("aéか가 ") + run for run in runs)
    assert nfc(text) == unicodedata.normalize("NFC", text)


@pytest.mark.timeout(20)
def test_a_million_alternating_marks() -> None:
    """Sorting them by insertion takes hours."""
    text = "a" + "\u0301\u0327" * 500_000
    assert nfc(text) == "\u00e1" + "\u0327" * 500_000 + "\u0301" * 499_999
