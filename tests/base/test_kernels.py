"""What kernels share, against Python's own."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from base.kernels import decode, kernel, splitmix64, splitmix64_kernel, utf8_length


@settings(max_examples=100, deadline=None)
@given(st.characters(codec="utf-8"))
def test_characters_are_decoded_as_python_does(character):
    data = np.frombuffer(character.encode(), np.uint8)
    assert decode(data, 0) == (ord(character), len(data))
    assert utf8_length(data, 0, len(data)) == len(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=4))
def test_a_sequence_is_well_formed_if_python_takes_it(content):
    length = utf8_length(np.frombuffer(content, np.uint8), 0, len(content))
    good = [size for size in range(1, len(content) + 1) if _decodes(content[:size])]
    assert length == (good[0] if good else 0)


def _decodes(content):
    try:
        return len(content.decode()) == 1
    except UnicodeDecodeError:
        return False


@kernel
def _mix(value: np.uint64) -> np.uint64:
    mixed: np.uint64 = splitmix64_kernel(value)
    return mixed


def test_splitmix64_gives_the_published_numbers_in_both_forms():
    # The first numbers of the generator with seed 1234567 (Vigna's splitmix64.c, as in Rosetta Code).
    states = np.array([1234567], np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, 3, dtype=np.uint64)
    expected = [6457827717110365317, 3203168211198807973]
    assert splitmix64(states).tolist() == expected
    assert [int(_mix(state)) for state in states] == expected
