"""What compiled kernels share: how they are compiled, bytes as words, UTF-8, SplitMix64.

A kernel is a function that numba compiles when it is first called, for the types it is called with, and keeps
on the disk (base/compiled.py). All have the decorator `kernel`, or `inlined`: put into their callers before
LLVM sees them. Their annotations are for people and for mypy: arrays are `np.ndarray`, whose elements mypy
takes as they come, and to mypy a call of a kernel gives anything.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

kernel = numba.njit(cache=True, nogil=True)
inlined = numba.njit(cache=True, nogil=True, inline="always")

EVERY_BYTE = np.uint64(0x0101010101010101)
"""A number below 256 times this stands in each byte of a word."""
HIGH_BITS = np.uint64(0x8080808080808080)
"""The bits of a word of eight bytes that are set where a byte is not ASCII."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio, odd: the step of SplitMix64."""

_CONTINUATION = 0x3F


@intrinsic
def load64(typingctx: Any, data: Any, offset: Any) -> Any:
    """The 8 bytes of a uint8 array at a byte offset as a little-endian uint64, aligned or not."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = builder.load(_word_at(context, builder, signature, arguments))
        loaded.align = 1
        return loaded

    return types.uint64(data, types.int64), generate


@intrinsic
def store64(typingctx: Any, data: Any, offset: Any, value: Any) -> Any:
    """Write a uint64 into a uint8 array at a byte offset, little-endian, aligned or not."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stored = builder.store(arguments[2], _word_at(context, builder, signature, arguments))
        stored.align = 1
        return context.get_dummy_value()

    return types.void(data, types.int64, types.uint64), generate


def _word_at(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """A pointer to 64 bits at a byte offset of an array, the first two arguments of an intrinsic."""
    array = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())


@intrinsic
def trailing_zeros(typingctx: Any, value: Any) -> Any:
    """How many low bits of a uint64 are zero, int64; 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def multiply_high(typingctx: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of the 128-bit product of two uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def byte_swap(typingctx: Any, value: Any) -> Any:
    """The bytes of a uint64 in reverse order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return types.uint64(types.uint64), generate


@kernel
def decode(data: np.ndarray, at: int) -> tuple[np.int64, int]:
    """(code point, bytes) of the character at `at` of well-formed UTF-8."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, 1
    second = np.int64(data[at + 1] & _CONTINUATION)
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, 2
    third = np.int64(data[at + 2] & _CONTINUATION)
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    return (first & 0x07) << 18 | second << 12 | third << 6 | np.int64(data[at + 3] & _CONTINUATION), 4


@inlined
def utf8_length(data: np.ndarray, at: int, end: int) -> int:
    """Bytes of the well-formed UTF-8 sequence at `at` (Unicode 16, table 3-7), or 0 if it is not one."""
    first = data[at]
    if first < 0x80:
        return 1
    if first < 0xC2 or first > 0xF4:
        return 0
    if first < 0xE0:
        return 2 if at + 1 < end and data[at + 1] & 0xC0 == 0x80 else 0
    second = data[at + 1] if at + 1 < end else 0
    if first < 0xF0:
        if at + 2 >= end or second & 0xC0 != 0x80 or data[at + 2] & 0xC0 != 0x80:
            return 0
        if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F):
            return 0
        return 3
    if at + 3 >= end or second & 0xC0 != 0x80 or data[at + 2] & 0xC0 != 0x80 or data[at + 3] & 0xC0 != 0x80:
        return 0
    if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F):
        return 0
    return 4


def splitmix64(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) of each of an array of uint64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


splitmix64_kernel = inlined(splitmix64)
"""`splitmix64` of one number, for kernels."""
