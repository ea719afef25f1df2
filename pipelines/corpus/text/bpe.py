r"""Byte-level BPE over Arrow buffers: the ids that Hugging Face `tokenizers` gives.

A document passes four steps, the first three the same as in `tokenizers`:

1. Added tokens that match the text as it is (special tokens) are cut out, leftmost and longest first; from
   what is left the added tokens that match normalised text (NeoX's runs of spaces).
2. What is left is cut into words by the pattern of GPT-2 (Radford et al. 2019), here a scan over UTF-8:
   ``'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+``
3. The bytes of each word are merged, the pair of lowest rank first and of those the leftmost (Sennrich et al.
   2016).
4. Before step 3 the word is looked up in a cache of fixed size, which changes the time and never the ids.
"""

from typing import Any

import numpy as np

from base.kernels import EVERY_BYTE, GOLDEN, HIGH_BITS, decode, kernel, load64, trailing_zeros
from pipelines.corpus.text.pretokenize import code_point_classes

CACHE_SLOTS = 2**17
"""Words in the cache of one encoder; a slot is one cache line of 64 bytes, so this is 8 MiB."""
CACHED_BYTES = 31
"""Longer words are merged anew each time."""
CACHED_IDS = 7
"""Words of more ids are merged anew each time."""
WAYS = 4
"""Slots that a word may take."""
SHORT = 64
"""Up to this many symbols the best pair is found by scanning, above by a heap."""

_NONE = np.uint64(2**64 - 1)
_LOW = np.uint64(2**32 - 1)
_32 = np.uint64(32)


class BytePairEncoder:
    """Tables of one tokenizer and its word cache, which is the only thing that changes; not thread-safe."""

    def __init__(
        self,
        vocabulary: dict[str, int],
        merges: list[list[str]],
        special: dict[str, int],
        added: dict[str, int],
        cache_slots: int = CACHE_SLOTS,
    ) -> None:
        """Build the tables.

        vocabulary and merges are those of the model, in the byte alphabet of GPT-2; special are the added
        tokens that match the text as it is, added those that match normalised text. cache_slots is a power of
        two.
        """
        count = len(merges)
        left = np.fromiter((vocabulary[first] for first, _ in merges), np.uint64, count)
        right = np.fromiter((vocabulary[second] for _, second in merges), np.uint64, count)
        merged = np.fromiter((vocabulary[first + second] for first, second in merges), np.uint64, count)
        size = 1 << max(4, (4 * count - 1).bit_length())
        self._pairs = np.full(size, _NONE, dtype=np.uint64)
        _fill_pairs(self._pairs, left, right, merged)
        self._bytes = np.array([vocabulary.get(name, -1) for name in byte_alphabet()], dtype=np.int64)
        self._special, self._special_ids = _trie(special)
        self._added, self._added_ids = _trie(added)
        self._classes = code_point_classes()
        # A slot that straddles two cache lines would cost two misses.
        memory = np.zeros(cache_slots * 8 + 8, dtype=np.uint64)
        start = (-memory.ctypes.data % 64) // 8
        self._cache = memory[start : start + cache_slots * 8]

    def encode(
        self, data: np.ndarray, offsets: np.ndarray, skip: np.ndarray, end: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the documents data[offsets[i]:offsets[i + 1]] (uint8, UTF-8) and their offsets.

        Documents with skip[i] get no ids at all, the others are followed by `end` unless it is None. Returns
        ids uint32[n] and offsets int64[documents + 1].
        """
        documents = len(offsets) - 1
        bound = int(offsets[-1] - offsets[0]) + documents + 1
        ids = np.empty(bound, dtype=np.uint32)
        ends = np.zeros(documents + 1, dtype=np.int64)
        _encode(
            _read_only(data),
            _read_only(offsets),
            skip,
            self._classes,
            self._bytes,
            self._pairs,
            self._special,
            self._special_ids,
            self._added,
            self._added_ids,
            self._cache,
            -1 if end is None else end,
            ids,
            ends,
        )
        return ids[: ends[-1]], ends

    def flags(self, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """For every document the flags of pretokenize that any of its code points has: uint8[documents]."""
        found = np.zeros(len(offsets) - 1, dtype=np.uint8)
        _flags(_read_only(data), _read_only(offsets), self._classes, found)
        return found


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    characters |= {byte: chr(256 + rank) for rank, byte in enumerate(hidden)}
    return [characters[byte] for byte in range(256)]


def unsupported(specification: dict[str, Any]) -> str | None:
    """Why this encoder cannot stand in for a `tokenizers` JSON, or None if it can."""
    model = specification["model"]
    if model.get("type", "BPE") != "BPE":
        return f"its model is {model['type']}, not BPE"
    options = "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "byte_fallback"
    for option in options:
        if model.get(option):
            return f"its model has {option} = {model[option]!r}"
    # Without an unknown token, bytes without an entry vanish; C0, C1 and F5 to FF are never in UTF-8.
    alphabet = [name for byte, name in enumerate(byte_alphabet()) if byte < 0xF5 and byte not in (0xC0, 0xC1)]
    if model.get("unk_token") and not all(name in model["vocab"] for name in alphabet):
        return "its vocabulary lacks some bytes"
    normalizer = specification.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        return f"its normalizer is {normalizer['type']}"
    splitter = specification.get("pre_tokenizer") or {"type": "absent"}
    if splitter["type"] != "ByteLevel":
        return f"its pre-tokenizer is {splitter['type']}"
    if splitter.get("add_prefix_space") or not splitter.get("use_regex", True):
        return "its ByteLevel pre-tokenizer adds a prefix space or has no pattern"
    for token in specification.get("added_tokens", []):
        for option in ("single_word", "lstrip", "rstrip"):
            if token.get(option):
                return f"its added token {token['content']!r} has {option}"
    return None


def _read_only(array: np.ndarray) -> np.ndarray:
    # Numba compiles writable and read-only arrays apart; Arrow buffers may be either.
    view = array.view()
    view.flags.writeable = False
    return view


def _trie(tokens: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """A byte trie: child int32[nodes, 256] (0 for none), id of the token that ends at a node int64[nodes]."""
    children: list[dict[int, int]] = [{}]
    ids = [-1]
    for content, number in tokens.items():
        node = 0
        for byte in content.encode():
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
                ids.append(-1)
            node = children[node][byte]
        ids[node] = number
    table = np.zeros((len(children), 256), dtype=np.int32)
    for node, edges in enumerate(children):
        for byte, child in edges.items():
            table[node, byte] = child
    return table, np.array(ids, dtype=np.int64)


@kernel
def _pair_slot(pairs: np.ndarray, key: np.uint64) -> Any:
    """Slot of a pair in the open-addressing table (key, rank << 32 | merged id), or the free one for it."""
    mask = np.uint64(len(pairs) // 2 - 1)
    mixed = key * GOLDEN
    slot = (mixed ^ (mixed >> np.uint64(29))) >> np.uint64(7) & mask
    while pairs[2 * slot] != key and pairs[2 * slot] != _NONE:
        slot = (slot + np.uint64(1)) & mask
    return 2 * slot


@kernel
def _fill_pairs(pairs: np.ndarray, left: np.ndarray, right: np.ndarray, merged: np.ndarray) -> None:
    for rank in range(len(left)):
        key = left[rank] << _32 | right[rank]
        slot = _pair_slot(pairs, key)
        pairs[slot] = key
        pairs[slot + 1] = np.uint64(rank) << _32 | merged[rank]


@kernel
def _merge_of(pairs: np.ndarray, left: np.uint64, right: np.uint64) -> Any:
    """Rank << 32 | merged id of a pair of ids; all ones if they do not merge."""
    return pairs[_pair_slot(pairs, left << _32 | right) + 1]


@kernel
def _merge_short(pairs: np.ndarray, symbols: np.ndarray, merges: np.ndarray, count: int) -> int:
    """Merge symbols[:count] in place and return how many are left; quadratic, but fast for words."""
    for i in range(count - 1):
        merges[i] = _merge_of(pairs, symbols[i], symbols[i + 1])
    while count > 1:
        best = merges[0]
        at = 0
        for i in range(1, count - 1):
            if merges[i] < best:
                best = merges[i]
                at = i
        if best == _NONE:
            break
        symbols[at] = best & _LOW
        count -= 1
        for i in range(at + 1, count):
            symbols[i] = symbols[i + 1]
            merges[i - 1] = merges[i]
        if at + 1 < count:
            merges[at] = _merge_of(pairs, symbols[at], symbols[at + 1])
        if at > 0:
            merges[at - 1] = _merge_of(pairs, symbols[at - 1], symbols[at])
    return count


@kernel
def _sift_down(heap: np.ndarray, start: int, size: int) -> None:
    value = heap[start]
    at = start
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@kernel
def _sift_up(heap: np.ndarray, start: int) -> None:
    value = heap[start]
    at = start
    while at > 0:
        parent = (at - 1) // 2
        if heap[parent] <= value:
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = value


@kernel
def _merge_long(pairs: np.ndarray, symbols: np.ndarray) -> int:
    """As _merge_short by a linked list and a heap of (rank, position): n log n for a word of n bytes."""
    count = len(symbols)
    following = np.arange(1, count + 1)
    preceding = np.arange(-1, count - 1)
    merges = np.full(count, _NONE, dtype=np.uint64)
    heap = np.empty(3 * count, dtype=np.uint64)
    size = 0
    for i in range(count - 1):
        merges[i] = _merge_of(pairs, symbols[i], symbols[i + 1])
        if merges[i] != _NONE:
            heap[size] = merges[i] & ~_LOW | np.uint64(i)
            size += 1
    for i in range(size // 2 - 1, -1, -1):
        _sift_down(heap, i, size)
    left = count
    while size > 0:
        top = heap[0]
        size -= 1
        if size > 0:
            heap[0] = heap[size]
            _sift_down(heap, 0, size)
        at = np.int64(top & _LOW)
        # An entry is stale when its pair is gone: one rank belongs to one pair.
        if merges[at] == _NONE or merges[at] >> _32 != top >> _32:
            continue
        gone = following[at]
        after = following[gone]
        symbols[at] = merges[at] & _LOW
        merges[gone] = _NONE
        following[at] = after
        merges[at] = _NONE
        left -= 1
        if after < count:
            preceding[after] = at
            merges[at] = _merge_of(pairs, symbols[at], symbols[after])
            if merges[at] != _NONE:
                heap[size] = merges[at] & ~_LOW | np.uint64(at)
                size += 1
                _sift_up(heap, size - 1)
        before = preceding[at]
        if before >= 0:
            merges[before] = _merge_of(pairs, symbols[before], symbols[at])
            if merges[before] != _NONE:
                heap[size] = merges[before] & ~_LOW | np.uint64(before)
                size += 1
                _sift_up(heap, size - 1)
    at = np.int64(0)
    for i in range(left):
        symbols[i] = symbols[at]
        at = following[at]
    return left


@kernel
def _class(data: np.ndarray, at: int, classes: np.ndarray) -> tuple[np.int64, int]:
    """Class (pretokenize.SPACE ... OTHER) of the code point at `at` and its length in bytes."""
    if data[at] < 0x80:
        return np.int64(classes[data[at]]), 1
    point, length = decode(data, at)
    return np.int64(classes[point]) & 3, length


@kernel
def _ascii_letters(data: np.ndarray, at: int) -> Any:
    """How many of the eight bytes at `at` are ASCII letters before the first that is not."""
    eight = load64(data, at)
    # Adding to seven bits carries into the eighth, and never into the next byte.
    lower = (eight | EVERY_BYTE * np.uint64(0x20)) & ~HIGH_BITS
    from_a = lower + EVERY_BYTE * np.uint64(0x80 - 0x61)
    above_z = lower + EVERY_BYTE * np.uint64(0x80 - 0x7B)
    others = ~(from_a & ~above_z & ~eight) & HIGH_BITS
    return trailing_zeros(others) >> 3


@kernel
def _space_end(data: np.ndarray, start: int, stop: int, classes: np.ndarray) -> int:
    r"""End of the white space at `start`: it leaves its last character to a word that follows (\s+(?!\S))."""
    at = start
    last_start = start
    while at < stop:
        kind, length = _class(data, at, classes)
        if kind != 0:
            return last_start if last_start > start else at
        last_start = at
        at += length
    return at


@kernel
def _word_end(data: np.ndarray, start: int, stop: int, classes: np.ndarray) -> Any:
    """End of the word that starts at `start` in the piece that ends at `stop`."""
    at = start
    if data[at] == 39 and at + 1 < stop:  # 's 't 'm 'd 're 've 'll
        after = data[at + 1]
        if after == 115 or after == 116 or after == 109 or after == 100:
            return at + 2
        if at + 2 < stop:
            last = data[at + 2]
            if (last == 101 and (after == 114 or after == 118)) or (last == 108 and after == 108):
                return at + 3
    kind, length = _class(data, at, classes)
    if data[at] == 32 and at + 1 < stop:
        after_kind, after_length = _class(data, at + 1, classes)
        if after_kind != 0:
            at += 1
            kind = after_kind
            length = after_length
    if kind == 0:
        return _space_end(data, at, stop, classes)
    at += length
    while at < stop:
        if kind == 1:
            while at + 8 <= stop:
                letters = _ascii_letters(data, at)
                at += letters
                if letters < 8:
                    break
            if at == stop:
                break
        next_kind, length = _class(data, at, classes)
        if next_kind != kind:
            break
        at += length
    return at


@kernel
def _next_match(
    data: np.ndarray, start: int, stop: int, trie: np.ndarray, ids: np.ndarray
) -> tuple[int, int, np.int64]:
    """Start, end and id of the leftmost-longest token in data[start:stop]; (stop, stop, -1) without one."""
    for first in range(start, stop):
        node = trie[0, data[first]]
        if node == 0:
            continue
        found = np.int64(-1)
        end = first
        at = first + 1
        while True:
            if ids[node] >= 0:
                found = ids[node]
                end = at
            if at == stop:
                break
            node = trie[node, data[at]]
            if node == 0:
                break
            at += 1
        if found >= 0:
            return first, end, found
    return stop, stop, np.int64(-1)


@kernel
def _flags(data: np.ndarray, offsets: np.ndarray, classes: np.ndarray, found: np.ndarray) -> None:
    for document in range(len(offsets) - 1):
        at = offsets[document]
        every = np.uint8(0)
        while at < offsets[document + 1]:
            if data[at] < 0xCC:  # below U+0300 no code point has a flag; continuation bytes are passed over
                at += 1
                continue
            point, length = decode(data, at)
            every |= classes[point]
            at += length
        found[document] = every & np.uint8(12)


@kernel
def _encode_words(
    data: np.ndarray,
    start: int,
    stop: int,
    classes: np.ndarray,
    byte_ids: np.ndarray,
    pairs: np.ndarray,
    cache: np.ndarray,
    symbols: np.ndarray,
    merges: np.ndarray,
    ids: np.ndarray,
    position: np.int64,
) -> np.int64:
    """Append the ids of a piece without added tokens to ids[position:]; returns the new position."""
    slots = np.uint64(len(cache) // 8 - 1)
    one = np.uint64(1)
    at = start
    while at < stop:
        end = _word_end(data, at, stop, classes)
        length = end - at
        if length == 1 and byte_ids[data[at]] >= 0:
            ids[position] = byte_ids[data[at]]
            position += 1
            at = end
            continue
        cached = length <= CACHED_BYTES and at + 32 <= len(data)
        home = np.uint64(0)
        key0 = key1 = key2 = key3 = np.uint64(0)
        if cached:
            rest = np.uint64(8 * (length & 7))
            mask = (one << rest) - one
            key0 = load64(data, at)
            if length < 8:
                key0 &= mask
            else:
                key1 = load64(data, at + 8)
                if length < 16:
                    key1 &= mask
                else:
                    key2 = load64(data, at + 16)
                    if length < 24:
                        key2 &= mask
                    else:
                        key3 = load64(data, at + 24) & mask
            key3 |= np.uint64(length) << np.uint64(56)
            mixed = key0 * GOLDEN
            mixed ^= mixed >> _32
            mixed ^= key1 * np.uint64(0xC2B2AE3D27D4EB4F)
            mixed ^= key2 * np.uint64(0x165667B19E3779F9)
            mixed ^= key3 * np.uint64(0x85EBCA77C2B2AE63)
            mixed *= np.uint64(0xD6E8FEB86659FD93)
            home = (mixed >> _32) & slots
            hit = False
            for way in range(WAYS):
                base = np.int64((home ^ np.uint64(way)) * np.uint64(8))
                same_tail = cache[base + 2] == key2 and cache[base + 3] == key3
                if same_tail and cache[base] == key0 and cache[base + 1] == key1:
                    hit = True
                    entry = cache[base + 4]
                    known = np.int64(entry & _LOW)
                    # Most words have one or two ids: no branch to guess wrong. The buffer has a spare place.
                    ids[position] = entry >> _32
                    ids[position + 1] = cache[base + 5]
                    for i in range(2, known):
                        ids[position + i] = cache[base + 4 + (i + 1) // 2] >> np.uint64(32 * ((i + 1) & 1))
                    position += known
                    break
                if cache[base + 3] == 0:
                    home ^= np.uint64(way)
                    break
            if hit:
                at = end
                continue
        if length <= SHORT:
            count = 0
            for i in range(at, end):
                if byte_ids[data[i]] >= 0:
                    symbols[count] = byte_ids[data[i]]
                    count += 1
            count = _merge_short(pairs, symbols, merges, count)
            for i in range(count):
                ids[position + i] = symbols[i]
            if cached and 0 < count <= CACHED_IDS:
                base = np.int64(home * np.uint64(8))
                cache[base] = key0
                cache[base + 1] = key1
                cache[base + 2] = key2
                cache[base + 3] = key3
                cache[base + 4] = symbols[0] << _32 | np.uint64(count)
                for i in range(count, CACHED_IDS):
                    symbols[i] = 0
                cache[base + 5] = symbols[2] << _32 | symbols[1]
                cache[base + 6] = symbols[4] << _32 | symbols[3]
                cache[base + 7] = symbols[6] << _32 | symbols[5]
        else:
            long_symbols = np.empty(length, dtype=np.uint64)
            count = 0
            for i in range(at, end):
                if byte_ids[data[i]] >= 0:
                    long_symbols[count] = byte_ids[data[i]]
                    count += 1
            count = _merge_long(pairs, long_symbols[:count])
            for i in range(count):
                ids[position + i] = long_symbols[i]
        position += count
        at = end
    return position


@kernel
def _encode(
    data: np.ndarray,
    offsets: np.ndarray,
    skip: np.ndarray,
    classes: np.ndarray,
    byte_ids: np.ndarray,
    pairs: np.ndarray,
    special: np.ndarray,
    special_ids: np.ndarray,
    added: np.ndarray,
    added_ids: np.ndarray,
    cache: np.ndarray,
    end: int,
    ids: np.ndarray,
    ends: np.ndarray,
) -> None:
    symbols = np.empty(SHORT, dtype=np.uint64)
    merges = np.empty(SHORT, dtype=np.uint64)
    position = 0
    for document in range(len(offsets) - 1):
        if skip[document]:
            ends[document + 1] = position
            continue
        at = offsets[document]
        stop = offsets[document + 1]
        while at < stop:
            special_start, special_end, special_id = _next_match(data, at, stop, special, special_ids)
            while at < special_start:
                added_start, added_end, added_id = _next_match(data, at, special_start, added, added_ids)
                position = _encode_words(
                    data, at, added_start, classes, byte_ids, pairs, cache, symbols, merges, ids, position
                )
                if added_id >= 0:
                    ids[position] = added_id
                    position += 1
                at = added_end
            if special_id >= 0:
                ids[position] = special_id
                position += 1
            at = special_end
        if end >= 0:
            ids[position] = end
            position += 1
        ends[document + 1] = position
