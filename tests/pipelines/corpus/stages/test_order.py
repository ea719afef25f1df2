"""The order of documents and the split, by arithmetic on Python's integers."""

import random

import numpy as np
import pyarrow as pa
import pytest

from pipelines.corpus.stages.order import is_heldout, shuffle_keys

MASK = 2**64 - 1


def mixed(value: int) -> int:
    """The finaliser of SplitMix64."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


_CHOOSE = random.Random(5)
IDS = [_CHOOSE.randbytes(16) for _ in range(20_000)]


def words(identifier: bytes) -> tuple[int, int]:
    return int.from_bytes(identifier[:8], "big"), int.from_bytes(identifier[8:], "big")


@pytest.mark.parametrize("seed", [0, 42, 2**40])
def test_keys_are_these_numbers(seed: int) -> None:
    keys = shuffle_keys(pa.array(IDS[:500], pa.binary(16)), seed)
    expected = [mixed(mixed(high + mixed(seed) & MASK) ^ low) for high, low in map(words, IDS[:500])]
    assert keys.tolist() == expected


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3])
def test_the_split_is_by_these_numbers_and_of_that_share(fraction: float) -> None:
    chosen = is_heldout(pa.array(IDS, pa.binary(16)), fraction)
    limit = int(fraction * 2**64)
    expected = [mixed(low ^ mixed(high ^ 0x68656C646F7574)) < limit for high, low in map(words, IDS)]
    assert chosen.tolist() == expected
    assert abs(chosen.mean() - fraction) < 4 * np.sqrt(fraction / len(IDS)) + 1e-9
