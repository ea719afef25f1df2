"""The pictures of the corpus report: they are drawn whatever the numbers, and say what they should."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pipelines import pictures

NAMES = ["books", "web <b>& more", "a-source-with-a-name-of-more-than-forty-letters"]
RANDOM = np.random.default_rng(1)
LENGTHS = {name: RANDOM.lognormal(6, 2, 500) for name in NAMES}
PICTURES = {
    "nothing to show": lambda: pictures.funnel(["input"], {"bytes": ({}, pictures.short_bytes)}),
    "funnel": lambda: pictures.funnel(
        ["input", "reading"], {"documents": ({name: [5, 4] for name in NAMES}, pictures.short_count)}
    ),
    "ridges": lambda: pictures.ridges({**LENGTHS, "none": np.zeros(0)}, "bytes", pictures.short_bytes),
    "empty documents": lambda: pictures.ridges({"a": np.zeros(3)}, "bytes", pictures.short_bytes),
    "sizes": lambda: pictures.sizes(RANDOM.zipf(1.5, 5000) + 1, "documents in a cluster"),
    "one size": lambda: pictures.sizes(np.array([2]), "documents in a cluster"),
    "histogram": lambda: pictures.histogram(RANDOM.uniform(0.8, 1, 500), 0.8, 1.0, "similarity"),
    "equal values": lambda: pictures.histogram(np.ones(5), 1.0, 1.0, "similarity"),
    "distributions": lambda: pictures.distributions(
        {"q_zero": np.zeros(4), "q_words": RANDOM.lognormal(9, 4, 500), "q_below": -RANDOM.random(50)},
        {"q_words": [("min", 50), ("max", 1e9)], "q_zero": [("max", 0)]},
    ),
    "shares": lambda: pictures.shares(NAMES, [70.0, 30.0, 0.0], [0.0, 50.0, 50.0]),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_every_number_has_a_place_in_the_picture(draw):
    text = draw()
    picture = ElementTree.fromstring(text)
    width, height = (float(value) for value in picture.get("viewBox").split()[2:])
    assert not re.search(r"\bnan\b|\binf\b", text)
    for element in picture.iter("text"):
        assert 0 <= float(element.get("x")) <= width and 0 <= float(element.get("y")) <= height
    for bar in picture.iter("rect"):
        assert 0 <= float(bar.get("x")) <= float(bar.get("x")) + float(bar.get("width")) <= width


def test_what_a_reader_looks_for_is_written():
    def words(name):
        return [element.text for element in ElementTree.fromstring(PICTURES[name]()).iter("text")]

    assert {"15", "12", "input", "documents", "web <b>& more"} <= {
        text.partition(" ·")[0] for text in words("funnel")
    }
    assert {"70.0 %", "share of the mixture", "a-source-with-a-name-of-more-th…"} <= set(words("shares"))
    assert {"words  (≥ 50, ≤ 1e+09)", "zero  (≤ 0)", "below", "0.25"} <= set(words("distributions"))
    assert {"0.80", "0.95", "1.00", "similarity"} <= set(words("histogram"))
    assert sum(text.startswith("median ") for text in words("ridges")) == len(NAMES)
