import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import order


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_permutation_is_a_bijection_and_has_an_inverse(size: int, key: int, epoch: int) -> None:
    elements = [order.permute(position, size, key, epoch) for position in range(size)]
    assert sorted(elements) == list(range(size))
    assert [order.unpermute(element, size, key, epoch) for element in elements] == list(range(size))


def test_permutations_differ_by_key_and_epoch_and_spread() -> None:
    def first(key: int, epoch: int) -> list[int]:
        return [order.permute(position, 10**9, key, epoch) for position in range(2000)]

    one = first(1, 0)
    assert len({*map(tuple, [one, first(1, 1), first(2, 0)])}) == 3
    counts = np.histogram(one, bins=10, range=(0, 10**9))[0]
    assert counts.min() > 140 and counts.max() < 260
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.08


def _locate(samples: np.ndarray, weights: list[float], windows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    source, window = np.empty_like(samples), np.empty_like(samples)
    keys = np.arange(len(weights), dtype=np.int64)
    order.locate(samples, order.build_tree(weights), np.array(windows, np.int64), keys, source, window)
    return source, window


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=40), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_prefix_of_the_mixture_keeps_the_shares(weights: list[float], offset: int) -> None:
    samples = np.arange(4000, dtype=np.int64)
    source, _ = _locate(samples, weights, [10**9] * len(weights))
    shares = np.array(weights) / sum(weights)
    ranks = np.arange(1, 4001)
    for number, share in enumerate(shares):
        counted = np.cumsum(source == number)
        assert np.abs(counted - share * ranks).max() <= np.ceil(np.log2(len(weights))) + 1
    assert np.array_equal(_locate(samples[100:], weights, [10**9] * len(weights))[0], source[100:])


def test_each_epoch_sees_every_window_once() -> None:
    windows = [7, 40, 13]
    source, window = _locate(np.arange(600, dtype=np.int64), [0.2, 0.5, 0.3], windows)
    for number, size in enumerate(windows):
        seen = window[source == number]
        epochs = [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]
        assert len(epochs) >= 4
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("number", [0, 2**33, 2**45])
def test_large_sample_numbers_are_exact(number: int) -> None:
    tree = order.build_tree([3.0, 1.0])
    source, _ = _locate(np.arange(number, number + 4000, dtype=np.int64), [3.0, 1.0], [10**12, 10**12])
    assert abs(int((source == 0).sum()) - 3000) <= 1
    assert tree[0, 0] == 3 * 2**30


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=40), st.integers(0, 2**50))
@settings(max_examples=60, deadline=None)
def test_the_mixture_can_be_inverted(weights: list[float], offset: int) -> None:
    samples = np.arange(offset, offset + 300, dtype=np.int64)
    tree = order.build_tree(weights)
    huge = np.full(len(weights), 2**62, np.int64)
    source, window = np.empty_like(samples), np.empty_like(samples)
    order.locate(samples, tree, huge, np.arange(len(weights), dtype=np.int64), source, window)
    for sample, chosen, place in zip(samples.tolist(), source.tolist(), window.tolist(), strict=True):
        number = int(order.unpermute(place, 2**62, chosen, 0))
        assert order.unlocate(chosen, number, tree) == sample
