"""xxh3-128 of every string of an Arrow column, and ids as numbers.

The hash is XXH3 128-bit with seed 0 and the default secret
(https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), equal to `xxhash.xxh3_128_digest`.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from base.kernels import byte_swap, inlined, kernel, load64, multiply_high

_SECRET_BYTES = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
        "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
        "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    dtype=np.uint8,
)
# Every 8-byte little-endian word of the secret, by byte offset.
_SECRET = np.array(
    [int.from_bytes(_SECRET_BYTES[i : i + 8].tobytes(), "little") for i in range(len(_SECRET_BYTES) - 7)],
    dtype=np.uint64,
)

_P32_1 = np.uint64(0x9E3779B1)
_P32_2 = np.uint64(0x85EBCA77)
_P32_3 = np.uint64(0xC2B2AE3D)
_P64_1 = np.uint64(0x9E3779B185EBCA87)
_P64_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P64_3 = np.uint64(0x165667B19E3779F9)
_P64_4 = np.uint64(0x85EBCA77C2B2AE63)
_P64_5 = np.uint64(0x27D4EB2F165667C5)
_MIX_1 = np.uint64(0x165667919E3779F9)
_MIX_2 = np.uint64(0x9FB21C651E98DF25)
_LOW32 = np.uint64(0xFFFFFFFF)


@inlined
def mix64(h: np.uint64) -> Any:
    """The 64-bit finaliser of MurmurHash3: a bijection that spreads every bit."""
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@inlined
def _fold(a: np.uint64, b: np.uint64) -> Any:
    return (a * b) ^ multiply_high(a, b)


@inlined
def _avalanche(h: np.uint64) -> Any:
    h ^= h >> np.uint64(37)
    h *= _MIX_1
    return h ^ (h >> np.uint64(32))


@inlined
def _avalanche64(h: np.uint64) -> Any:
    h ^= h >> np.uint64(33)
    h *= _P64_2
    h ^= h >> np.uint64(29)
    h *= _P64_3
    return h ^ (h >> np.uint64(32))


@inlined
def _mix16(data: np.ndarray, at: int, secret: np.ndarray, key: int) -> Any:
    return _fold(load64(data, at) ^ secret[key], load64(data, at + 8) ^ secret[key + 8])


@inlined
def _mix32(
    low: np.uint64, high: np.uint64, data: np.ndarray, a: int, b: int, secret: np.ndarray, key: int
) -> Any:
    low += _mix16(data, a, secret, key)
    low ^= load64(data, b) + load64(data, b + 8)
    high += _mix16(data, b, secret, key + 16)
    high ^= load64(data, a) + load64(data, a + 8)
    return low, high


@inlined
def _finish_middle(low: np.uint64, high: np.uint64, length: np.uint64) -> Any:
    upper = low * _P64_1 + high * _P64_4 + length * _P64_2
    return _avalanche(low + high), np.uint64(0) - _avalanche(upper)


@kernel
def _load_short(data: np.ndarray, at: int, count: int) -> np.uint64:
    """`count` bytes, at most 8, as a little-endian number, without reading past them."""
    value = np.uint64(0)
    for i in range(count):
        value |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return value


@kernel
def _short(data: np.ndarray, at: int, count: int, secret: np.ndarray) -> Any:
    """Up to 16 bytes."""
    length = np.uint64(count)
    if count > 8:
        first = load64(data, at)
        last = load64(data, at + count - 8)
        key = first ^ last ^ secret[32] ^ secret[40]
        low = key * _P64_1
        high = multiply_high(key, _P64_1)
        low += (length - np.uint64(1)) << np.uint64(54)
        last ^= secret[48] ^ secret[56]
        high += last + (last & _LOW32) * (_P32_2 - np.uint64(1))
        low ^= byte_swap(high)
        return _avalanche(low * _P64_2), _avalanche(multiply_high(low, _P64_2) + high * _P64_2)
    if count > 3:
        both = _load_short(data, at, 4) + (_load_short(data, at + count - 4, 4) << np.uint64(32))
        key = both ^ secret[16] ^ secret[24]
        factor = _P64_1 + (length << np.uint64(2))
        low = key * factor
        high = multiply_high(key, factor)
        high += low << np.uint64(1)
        low ^= high >> np.uint64(3)
        low ^= low >> np.uint64(35)
        low *= _MIX_2
        low ^= low >> np.uint64(28)
        return low, _avalanche(high)
    if count > 0:
        a = np.uint64(data[at])
        b = np.uint64(data[at + (count >> 1)])
        c = np.uint64(data[at + count - 1])
        low = (a << np.uint64(16)) | (b << np.uint64(24)) | c | (length << np.uint64(8))
        swapped = byte_swap(low) >> np.uint64(32)
        high = ((swapped << np.uint64(13)) | (swapped >> np.uint64(19))) & _LOW32
        low ^= (secret[0] ^ secret[4]) & _LOW32
        high ^= (secret[8] ^ secret[12]) & _LOW32
        return _avalanche64(low), _avalanche64(high)
    return _avalanche64(secret[64] ^ secret[72]), _avalanche64(secret[80] ^ secret[88])


@kernel
def _middle(data: np.ndarray, at: int, count: int, secret: np.ndarray) -> Any:
    """17 to 240 bytes."""
    length = np.uint64(count)
    low = length * _P64_1
    high = np.uint64(0)
    end = at + count
    if count <= 128:
        for i in range((count - 1) // 32, -1, -1):
            low, high = _mix32(low, high, data, at + 16 * i, end - 16 * (i + 1), secret, 32 * i)
        return _finish_middle(low, high, length)
    for i in range(4):
        low, high = _mix32(low, high, data, at + 32 * i, at + 32 * i + 16, secret, 32 * i)
    low = _avalanche(low)
    high = _avalanche(high)
    for i in range(4, count // 32):
        low, high = _mix32(low, high, data, at + 32 * i, at + 32 * i + 16, secret, 3 + 32 * (i - 4))
    low, high = _mix32(low, high, data, end - 16, end - 32, secret, 103)
    return _finish_middle(low, high, length)


@inlined
def _lane(value: np.uint64, key: np.uint64) -> Any:
    mixed = value ^ key
    return (mixed & _LOW32) * (mixed >> np.uint64(32))


@inlined
def _scramble(lane: np.uint64, key: np.uint64) -> Any:
    return (lane ^ (lane >> np.uint64(47)) ^ key) * _P32_1


@inlined
def _merge(
    a: np.uint64,
    b: np.uint64,
    c: np.uint64,
    d: np.uint64,
    e: np.uint64,
    f: np.uint64,
    g: np.uint64,
    h: np.uint64,
    secret: np.ndarray,
    key: int,
    start: np.uint64,
) -> Any:
    total = start + _fold(a ^ secret[key], b ^ secret[key + 8])
    total += _fold(c ^ secret[key + 16], d ^ secret[key + 24])
    total += _fold(e ^ secret[key + 32], f ^ secret[key + 40])
    total += _fold(g ^ secret[key + 48], h ^ secret[key + 56])
    return _avalanche(total)


@kernel
def _long(data: np.ndarray, at: int, count: int, secret: np.ndarray) -> Any:
    """More than 240 bytes: 8 lanes over stripes of 64 bytes, scrambled after every 16 stripes."""
    length = np.uint64(count)
    a, b, c, d = _P32_3, _P64_1, _P64_2, _P64_3
    e, f, g, h = _P64_4, _P32_2, _P64_5, _P32_1
    stripes = (count - 1) // 64
    for stripe in range(stripes + 1):
        if stripe < stripes:
            p = at + 64 * stripe
            k = 8 * (stripe & 15)
        else:
            p = at + count - 64
            k = 121
        v0, v1, v2, v3 = load64(data, p), load64(data, p + 8), load64(data, p + 16), load64(data, p + 24)
        p += 32
        v4, v5, v6, v7 = load64(data, p), load64(data, p + 8), load64(data, p + 16), load64(data, p + 24)
        a += v1 + _lane(v0, secret[k])
        b += v0 + _lane(v1, secret[k + 8])
        c += v3 + _lane(v2, secret[k + 16])
        d += v2 + _lane(v3, secret[k + 24])
        e += v5 + _lane(v4, secret[k + 32])
        f += v4 + _lane(v5, secret[k + 40])
        g += v7 + _lane(v6, secret[k + 48])
        h += v6 + _lane(v7, secret[k + 56])
        if (stripe & 15) == 15 and stripe < stripes:
            a, b = _scramble(a, secret[128]), _scramble(b, secret[136])
            c, d = _scramble(c, secret[144]), _scramble(d, secret[152])
            e, f = _scramble(e, secret[160]), _scramble(f, secret[168])
            g, h = _scramble(g, secret[176]), _scramble(h, secret[184])
    low = _merge(a, b, c, d, e, f, g, h, secret, 11, length * _P64_1)
    high = _merge(a, b, c, d, e, f, g, h, secret, 117, ~(length * _P64_2))
    return low, high


@kernel
def xxh3_128(data: np.ndarray, at: int, count: int, secret: np.ndarray) -> Any:
    """(low, high) 64-bit halves of the hash of `count` bytes of a uint8 array from `at`."""
    if count <= 16:
        return _short(data, at, count, secret)
    if count <= 240:
        return _middle(data, at, count, secret)
    return _long(data, at, count, secret)


@kernel
def _hash_all(
    data: np.ndarray, offsets: np.ndarray, prefix: np.ndarray, secret: np.ndarray, out: np.ndarray
) -> None:
    skip = len(prefix)
    scratch = np.empty(0, np.uint8)
    for i in range(len(offsets) - 1):
        start = offsets[i]
        count = offsets[i + 1] - start
        if skip == 0:
            low, high = xxh3_128(data, start, count, secret)
        else:
            if len(scratch) < skip + count:
                scratch = np.empty(2 * (skip + count), np.uint8)
                scratch[:skip] = prefix
            scratch[skip : skip + count] = data[start : start + count]
            low, high = xxh3_128(scratch, 0, skip + count, secret)
        out[i, 0] = byte_swap(high)
        out[i, 1] = byte_swap(low)


@kernel
def keep_distinct(values: np.ndarray, first: int, last: int) -> int:
    """Move the distinct ones of the sorted values[first:last] to its front; returns where they end."""
    used = first
    for i in range(first, last):
        if i == first or values[i] != values[used - 1]:
            values[used] = values[i]
            used += 1
    return used


def secret_words() -> np.ndarray:
    """The default secret as kernels take it: 185 uint64, one for each byte offset."""
    return _SECRET


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one contiguous array; copies only if it has several chunks."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def string_buffers(text: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(bytes uint8, offsets int64 of n + 1) of a string column; large_string and large_binary are not copied.

    A null counts as the empty string. Chunked columns are joined first.
    """
    text = one_array(text)
    if text.type not in (pa.large_string(), pa.large_binary()):
        text = text.cast(pa.large_string())
    if text.null_count:
        text = text.fill_null("")
    _, offset_buffer, data_buffer = text.buffers()
    if len(text) == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(offset_buffer, np.int64, len(text) + 1, text.offset * 8)
    empty = data_buffer is None or data_buffer.size == 0
    return np.empty(0, np.uint8) if empty else np.frombuffer(data_buffer, np.uint8), offsets


def hash128(text: pa.Array | pa.ChunkedArray, prefix: bytes = b"") -> pa.FixedSizeBinaryArray:
    """xxh3-128 of `prefix` + the UTF-8 of every string, as `xxhash.xxh3_128_digest` gives it.

    Returns fixed_size_binary(16), one for each string. With a prefix each text is copied once.
    """
    data, offsets = string_buffers(text)
    out = np.empty((len(offsets) - 1, 2), np.uint64)
    _hash_all(data, offsets, np.frombuffer(prefix, np.uint8), _SECRET, out)
    return ids_from_bytes(out)


def ids_from_bytes(rows: np.ndarray) -> pa.FixedSizeBinaryArray:
    """An array of n rows of 16 bytes, of any dtype, as fixed_size_binary(16)."""
    return pa.Array.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])


def id_bytes(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """fixed_size_binary(16) as an (n, 16) uint8 array, without copying one chunk."""
    ids = one_array(ids)
    if len(ids) == 0:
        return np.empty((0, 16), np.uint8)
    return np.frombuffer(ids.buffers()[1], np.uint8, 16 * len(ids), 16 * ids.offset).reshape(-1, 16)


def id_words(ids: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(high, low) halves of 128-bit big-endian ids as native uint64; they order as the ids do."""
    words = id_bytes(ids).view(">u8")
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)


def ids_from_words(high: np.ndarray, low: np.ndarray) -> pa.FixedSizeBinaryArray:
    """The inverse of `id_words`."""
    words = np.empty((len(high), 2), ">u8")
    words[:, 0] = high
    words[:, 1] = low
    return ids_from_bytes(words)


def add_ordinals(ids: pa.Array | pa.ChunkedArray, ordinals: np.ndarray) -> pa.FixedSizeBinaryArray:
    """Each id as a 128-bit big-endian integer plus its ordinal (int, >= 0), modulo 2^128."""
    high, low = id_words(ids)
    total = low + np.asarray(ordinals).astype(np.uint64)
    return ids_from_words(high + (total < low), total)


def prefix(hashes: np.ndarray, bits: int) -> np.ndarray:
    """The first `bits` bits of uint64 hashes, as int64."""
    if bits == 0:
        return np.zeros(len(hashes), np.int64)
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)
