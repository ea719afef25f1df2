"""Which window of which source is the n-th training sample: pure functions of integers.

The mixture is a balanced binary tree over the sources. A node gives floor(n · p) of its first n samples to
its left child and the rest to its right one, so that a sample's source and its number within the source
follow from about log2(sources) multiplications, any prefix of the order holds each source within
log2(sources) + 1 samples of its share, and nothing is stored. Within an epoch of a source, windows come in
the order of a Feistel permutation with cycle walking (Black & Rogaway 2002, "Ciphers with Arbitrary Finite
Domains"), which needs no index array.
"""

from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from base.kernels import GOLDEN, inlined, kernel
from base.kernels import splitmix64_kernel as mix

ROUNDS = 6
SHARE_BITS = 32


def build_tree(weights: list[float]) -> NDArray[np.int64]:
    """The mixture tree of positive `weights`: one row a node, the root first.

    Columns: the left child's share in units of 2^-32, left child, right child; a child c ≥ 0 is a node and
    c < 0 is source -c - 1. One source alone gives zero rows.
    """
    rows: list[list[int]] = []
    # Sources of like weight share a node: small shares then have small siblings and lose no precision.
    order = sorted(range(len(weights)), key=lambda source: (-weights[source], source))

    def grow(first: int, stop: int) -> int:
        if stop - first == 1:
            return -order[first] - 1
        middle = (first + stop) // 2
        left = sum(weights[source] for source in order[first:middle])
        total = left + sum(weights[source] for source in order[middle:stop])
        share = min(max(round(left / total * 2**SHARE_BITS), 1), 2**SHARE_BITS - 1)
        node = len(rows)
        rows.append([share, 0, 0])
        rows[node][1] = grow(first, middle)
        rows[node][2] = grow(middle, stop)
        return node

    grow(0, len(weights))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def source_key(seed: int, manifest_hash: str, source: str) -> int:
    """The 63-bit key of a source's permutations."""
    return int(xxhash.xxh3_64_intdigest(f"{seed}\0{manifest_hash}\0{source}".encode())) >> 1


@kernel
def _half_bits(size: int) -> Any:
    half = 1
    while (np.int64(1) << np.int64(2 * half)) < size:
        half += 1
    return half


@kernel
def permute(position: int, size: int, key: int, epoch: int) -> Any:
    """The element at `position` of the permutation of 0 … size - 1 that (key, epoch) chooses."""
    half = np.uint64(_half_bits(size))
    mask = (np.uint64(1) << half) - np.uint64(1)
    base = mix(np.uint64(key) ^ mix(np.uint64(epoch) + GOLDEN))
    value = np.uint64(position)
    while True:
        left, right = value >> half, value & mask
        for number in range(ROUNDS):
            left, right = right, left ^ (mix(base + right * np.uint64(ROUNDS) + np.uint64(number)) & mask)
        value = (left << half) | right
        if value < np.uint64(size):
            return np.int64(value)


@kernel
def unpermute(element: int, size: int, key: int, epoch: int) -> Any:
    """The position at which `permute` yields `element`."""
    half = np.uint64(_half_bits(size))
    mask = (np.uint64(1) << half) - np.uint64(1)
    base = mix(np.uint64(key) ^ mix(np.uint64(epoch) + GOLDEN))
    value = np.uint64(element)
    while True:
        left, right = value >> half, value & mask
        for number in range(ROUNDS - 1, -1, -1):
            left, right = right ^ (mix(base + left * np.uint64(ROUNDS) + np.uint64(number)) & mask), left
        value = (left << half) | right
        if value < np.uint64(size):
            return np.int64(value)


@inlined
def _scale(count: int, share: int) -> Any:
    """floor(count · share / 2^32) without overflow for counts below 2^62."""
    high, low = count >> 32, count & np.int64(0xFFFFFFFF)
    return high * share + np.int64((np.uint64(low) * np.uint64(share)) >> np.uint64(32))


@kernel
def locate(
    samples: NDArray[np.int64],
    tree: NDArray[np.int64],
    windows: NDArray[np.int64],
    keys: NDArray[np.int64],
    source: NDArray[np.int64],
    window: NDArray[np.int64],
) -> None:
    """Fill `source` and `window` for global sample numbers.

    samples: [n] global sample numbers; tree: from `build_tree`; windows, keys: [sources] windows in an epoch
    and permutation keys; source, window: [n] results.
    """
    for row in range(len(samples)):
        number = samples[row]
        node = np.int64(0) if len(tree) else np.int64(-1)
        while node >= 0:
            before = _scale(number, tree[node, 0])
            if _scale(number + 1, tree[node, 0]) > before:
                number, node = before, tree[node, 1]
            else:
                number, node = number - before, tree[node, 2]
        chosen = -node - 1
        size = windows[chosen]
        source[row] = chosen
        window[row] = permute(number % size, size, keys[chosen], number // size)


def unlocate(source: int, number: int, tree: NDArray[np.int64]) -> int:
    """The global sample number of the `number`-th sample of a source: the inverse of the mixture.

    tree: from `build_tree`. Integers of any size.
    """
    whole = 2**SHARE_BITS
    child = -source - 1
    while child != 0 and len(tree):
        node = int(np.flatnonzero((tree[:, 1] == child) | (tree[:, 2] == child))[0])
        share = int(tree[node, 0])
        if int(tree[node, 1]) == child:
            # The left child's k-th sample is where floor(n · p) first reaches k + 1.
            number = -(-(number + 1) * whole // share) - 1
        else:
            number = number * whole // (whole - share)
        child = node
    return number
