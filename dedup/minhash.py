r"""MinHash signatures, exact shingle sets and the text hash of Arrow string columns.

*Shingles.* Words are those of dedup/words.py; a shingle is `ngram` consecutive words, or, for character
shingles, `ngram` consecutive code points of the lower-cased text with white space of any length as one space
and none at the ends. A document with fewer has one shingle of all it has; a document without any has none
and is never a candidate. A shingle's hash is 64 bits: a polynomial over the 64-bit hashes of its words,
finished with the mixer of MurmurHash3.

*Sets* are what decides whether a candidate goes, and see more than the signature: a word shingle also holds
what stands between its words, so that 2 + 3 and 2 - 3 differ. That is every character but white space; those
that only look different are one, and commas, full stops, colons and semicolons count only where something
follows at once (1.5, a.b, x::y; dedup/words.py, `symbols`). What stands before the first word and behind the
last is in the first and last shingle of texts of at most EDGE_SHINGLES. A changed word changes as many
shingles as without the symbols beside it, so that texts that differ in words are as similar as their words.

*Signatures* (Broder 1997). Permutation i is x -> a_i x + b_i mod 2^32, a_i odd, of the upper 32 bits of the
shingle hash. Linear permutations are not min-wise independent on adversarial sets, but are on sets of
well-mixed values (Bohman, Cooper, Frieze 2000, "Min-wise independent linear permutations"), which hashes are.
Two documents of n shingles share a minimum by chance with probability about n / 2^32; a false candidate
costs a verification and never a document. Band hashes are 64 bits over the band's `rows` minima.
"""

import functools

import numpy as np
import pyarrow as pa

from base.kernels import GOLDEN, decode, inlined, kernel, splitmix64
from dedup.config import MinHashConfig
from dedup.hashing import ids_from_words, keep_distinct, mix64, secret_words, string_buffers, xxh3_128
from dedup.words import (
    ALONE,
    CUT,
    DIVIDES,
    DOT_ABOVE,
    DOTTED_I,
    ENDS,
    FINAL_SIGMA,
    LOWER,
    PASSED,
    POLYNOMIAL_BASE,
    SIGMA,
    SPACE,
    SYMBOL,
    WORD,
    WORD_PRIME,
    WORD_SEED,
    code_points,
    sigma_is_final,
    symbols,
    unspaced_word,
)

_BUFFER = 4096
_LANES = 64
EDGE_SHINGLES = 64
"""Of longer texts one shingle decides nothing, and excerpts begin and end with any symbol."""
# Fields of the state of a fill: rolling polynomial, tokens so far, what stands before the next word, the same
# with the marks of prose behind it, what stands before the first word.
_ROLLING, _COUNT, _GAP, _HELD, _LEAD = range(5)


@inlined
def _push(
    token: np.uint64, ring: np.ndarray, state: np.ndarray, power: np.uint64, out: np.ndarray, filled: int
) -> int:
    """Append a token to the rolling shingle; returns the new number of hashes in `out`."""
    n = np.uint64(len(ring))
    at = state[_COUNT] % n
    if state[_COUNT] >= n:
        state[_ROLLING] -= ring[at] * power
    ring[at] = token
    state[_ROLLING] = state[_ROLLING] * POLYNOMIAL_BASE + token
    state[_COUNT] += np.uint64(1)
    if state[_COUNT] >= n:
        out[filled] = mix64(state[_ROLLING])
        return filled + 1
    return filled


@kernel
def _fill_words(
    data: np.ndarray,
    p: int,
    start: int,
    end: int,
    table: np.ndarray,
    ascii_words: np.ndarray,
    ring: np.ndarray,
    state: np.ndarray,
    power: np.uint64,
    out: np.ndarray,
) -> tuple[int, int]:
    """Hash word shingles from byte p until `out` is full or the text ends; returns (next byte, hashes)."""
    filled = 0
    h = WORD_SEED
    while p < end:
        c = ascii_words[data[p]]
        if c != 255:
            p += 1
            if c != 0:
                h = (h ^ np.uint64(c)) * WORD_PRIME
                continue
        else:
            code, size = decode(data, p)
            flags = table[code]
            if flags & (ALONE | CUT):
                if h != WORD_SEED:
                    filled = _push(mix64(h), ring, state, power, out, filled)
                    h = WORD_SEED
                    if filled == len(out):
                        return p, filled
                h, p = unspaced_word(data, p, end, table)
                filled = _push(mix64(h), ring, state, power, out, filled)
                h = WORD_SEED
                if filled == len(out):
                    return p, filled
                continue
            if flags & WORD:
                lower = flags & LOWER
                if code == SIGMA and sigma_is_final(data, p, start, end, table):
                    lower = np.uint32(FINAL_SIGMA)
                h = (h ^ np.uint64(lower)) * WORD_PRIME
                if code == DOTTED_I:
                    h = (h ^ np.uint64(DOT_ABOVE)) * WORD_PRIME
                p += size
                continue
            p += size
            if flags & PASSED:
                continue
        if h != WORD_SEED:
            filled = _push(mix64(h), ring, state, power, out, filled)
            h = WORD_SEED
            if filled == len(out):
                return p, filled
    if h != WORD_SEED:
        filled = _push(mix64(h), ring, state, power, out, filled)
    return p, filled


@inlined
def _push_after_gap(
    token: np.uint64,
    ring: np.ndarray,
    gaps: np.ndarray,
    state: np.ndarray,
    power: np.uint64,
    out: np.ndarray,
    filled: int,
) -> int:
    """`_push` of a word with what stands before it: no part of a shingle that begins with the word."""
    n = np.uint64(len(ring))
    gap = state[_HELD] if state[_HELD] else state[_GAP]
    if gap:
        gap = mix64(gap)
    if state[_COUNT] == 0:
        state[_LEAD] = gap
        gap = np.uint64(0)
    at = state[_COUNT] % n
    if state[_COUNT] >= n:
        state[_ROLLING] -= ring[at] * power
    ring[at] = token + gap
    gaps[at] = gap
    state[_ROLLING] = state[_ROLLING] * POLYNOMIAL_BASE + token + gap
    state[_COUNT] += np.uint64(1)
    state[_GAP] = state[_HELD] = 0
    if state[_COUNT] >= n:
        value = state[_ROLLING]
        if n > 1:
            value -= gaps[state[_COUNT] % n] * power
        out[filled] = mix64(value)
        return filled + 1
    return filled


@inlined
def _add_symbol(state: np.ndarray, symbol: np.uint32) -> None:
    """Add a character that stands between words to what stands before the next one."""
    if symbol & DIVIDES:
        before = state[_HELD] if state[_HELD] else state[_GAP]
        state[_HELD] = (before ^ np.uint64(symbol & SYMBOL)) * WORD_PRIME
    elif symbol:
        if not symbol & ENDS and state[_HELD]:
            state[_GAP] = state[_HELD]
        state[_HELD] = 0
        if symbol & SYMBOL:
            state[_GAP] = (state[_GAP] ^ np.uint64(symbol & SYMBOL)) * WORD_PRIME


@kernel
def _fill_words_and_symbols(
    data: np.ndarray,
    p: int,
    start: int,
    end: int,
    table: np.ndarray,
    ascii_words: np.ndarray,
    symbols: np.ndarray,
    ring: np.ndarray,
    gaps: np.ndarray,
    state: np.ndarray,
    power: np.uint64,
    out: np.ndarray,
) -> tuple[int, int]:
    """`_fill_words` with what stands between the words."""
    filled = 0
    h = WORD_SEED
    while p < end:
        c = ascii_words[data[p]]
        if c != 255:
            code = np.int64(data[p])
            p += 1
            if c != 0:
                h = (h ^ np.uint64(c)) * WORD_PRIME
                continue
        else:
            code, size = decode(data, p)
            flags = table[code]
            if flags & (ALONE | CUT):
                if h != WORD_SEED:
                    filled = _push_after_gap(mix64(h), ring, gaps, state, power, out, filled)
                    h = WORD_SEED
                    if filled == len(out):
                        return p, filled
                h, p = unspaced_word(data, p, end, table)
                filled = _push_after_gap(mix64(h), ring, gaps, state, power, out, filled)
                h = WORD_SEED
                if filled == len(out):
                    return p, filled
                continue
            if flags & WORD:
                lower = flags & LOWER
                if code == SIGMA and sigma_is_final(data, p, start, end, table):
                    lower = np.uint32(FINAL_SIGMA)
                h = (h ^ np.uint64(lower)) * WORD_PRIME
                if code == DOTTED_I:
                    h = (h ^ np.uint64(DOT_ABOVE)) * WORD_PRIME
                p += size
                continue
            p += size
            if flags & PASSED:
                continue
        full = False
        if h != WORD_SEED:
            filled = _push_after_gap(mix64(h), ring, gaps, state, power, out, filled)
            h = WORD_SEED
            full = filled == len(out)
        _add_symbol(state, symbols[code])
        if full:
            return p, filled
    if h != WORD_SEED:
        filled = _push_after_gap(mix64(h), ring, gaps, state, power, out, filled)
    return p, filled


@kernel
def _fill_characters(
    data: np.ndarray,
    p: int,
    start: int,
    end: int,
    table: np.ndarray,
    ring: np.ndarray,
    state: np.ndarray,
    power: np.uint64,
    out: np.ndarray,
) -> tuple[int, int]:
    """Hash character shingles from byte p until `out` is nearly full or the text ends."""
    filled = 0
    while p < end:
        code, size = decode(data, p)
        flags = table[code]
        p += size
        if flags & PASSED:
            continue
        if flags & SPACE:
            while p < end and table[decode(data, p)[0]] & (SPACE | PASSED):
                p += decode(data, p)[1]
            if state[_COUNT] == 0 or p == end:
                continue
            lower = np.uint32(32)
        else:
            lower = flags & LOWER
            if code == SIGMA and sigma_is_final(data, p - size, start, end, table):
                lower = np.uint32(FINAL_SIGMA)
        filled = _push(mix64(WORD_SEED ^ np.uint64(lower)), ring, state, power, out, filled)
        if code == DOTTED_I:
            filled = _push(mix64(WORD_SEED ^ np.uint64(DOT_ABOVE)), ring, state, power, out, filled)
        if filled >= len(out) - 1:
            break
    return p, filled


@inlined
def _fill_short(ring: np.ndarray, state: np.ndarray, out: np.ndarray, filled: int) -> int:
    """Hash all tokens of a document that has fewer than a shingle."""
    if 0 < state[_COUNT] < len(ring):
        out[filled] = mix64(state[_ROLLING])
        return filled + 1
    return filled


@kernel
def _fill(
    data: np.ndarray,
    p: int,
    start: int,
    end: int,
    character: bool,
    table: np.ndarray,
    ascii_words: np.ndarray,
    ring: np.ndarray,
    state: np.ndarray,
    power: np.uint64,
    out: np.ndarray,
) -> tuple[int, int]:
    if p == start:
        state[:] = 0
    if character:
        p, filled = _fill_characters(data, p, start, end, table, ring, state, power, out)
    else:
        p, filled = _fill_words(data, p, start, end, table, ascii_words, ring, state, power, out)
    return p, _fill_short(ring, state, out, filled) if p >= end else filled


@kernel
def _minima(
    hashes: np.ndarray, count: int, narrow: np.ndarray, a: np.ndarray, b: np.ndarray, minima: np.ndarray
) -> None:
    """Lower `minima` by all permutations of `count` hashes; the inner loop is a vector minimum."""
    padded = (count + _LANES - 1) // _LANES * _LANES
    for j in range(count):
        narrow[j] = np.uint32(hashes[j] >> np.uint64(32))
    # A repeated hash changes no minimum and spares the scalar remainder.
    for j in range(count, padded):
        narrow[j] = narrow[0]
    for i in range(len(a)):
        factor = a[i]
        shift = b[i]
        least = minima[i]
        for j in range(padded):
            least = min(least, np.uint32(np.uint32(factor * narrow[j]) + shift))
        minima[i] = least


@kernel
def _power(n: int) -> np.uint64:
    """The factor with which the oldest of n tokens is in the rolling polynomial."""
    power = np.uint64(1)
    for _ in range(n - 1):
        power *= POLYNOMIAL_BASE
    return power


@kernel
def _signatures(
    data: np.ndarray,
    offsets: np.ndarray,
    n: int,
    character: bool,
    table: np.ndarray,
    ascii_words: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    rows: int,
    bands: np.ndarray,
    shingles: np.ndarray,
) -> None:
    ring = np.zeros(n, np.uint64)
    state = np.zeros(2, np.uint64)
    hashes = np.empty(_BUFFER, np.uint64)
    narrow = np.empty(_BUFFER + _LANES, np.uint32)
    minima = np.empty(len(a), np.uint32)
    power = _power(n)
    for document in range(len(offsets) - 1):
        start = offsets[document]
        end = offsets[document + 1]
        minima[:] = np.uint32(0xFFFFFFFF)
        total = 0
        p = start
        while p < end:
            p, filled = _fill(data, p, start, end, character, table, ascii_words, ring, state, power, hashes)
            if filled:
                _minima(hashes, filled, narrow, a, b, minima)
                total += filled
        shingles[document] = total
        for band in range(bands.shape[1]):
            h = np.uint64(band + 1) * WORD_PRIME
            for row in range(band * rows, (band + 1) * rows):
                h = mix64(h ^ np.uint64(minima[row])) + WORD_PRIME
            bands[document, band] = h


@kernel
def _sort(values: np.ndarray, scratch: np.ndarray, places: np.ndarray) -> None:
    """Sort hashes: into buckets by their upper bits, few in each since hashes are even, then each bucket.

    scratch: as long as values. places: a power of two of int64, and one.
    """
    count = len(values)
    if count < 64:
        values.sort()
        return
    bits = 6
    while (2 << bits) <= count and (1 << bits) < len(places) - 1:
        bits += 1
    shift = np.uint64(64 - bits)
    places[: (1 << bits) + 1] = 0
    for i in range(count):
        places[(values[i] >> shift) + np.uint64(1)] += 1
    for i in range(1 << bits):
        places[i + 1] += places[i]
    for i in range(count):
        bucket = values[i] >> shift
        scratch[places[bucket]] = values[i]
        places[bucket] += 1
    # Each place is now the end of its bucket.
    start = 0
    for bucket in range(1 << bits):
        end = places[bucket]
        if end - start > 32:
            scratch[start:end].sort()
        else:
            for i in range(start + 1, end):
                value = scratch[i]
                j = i
                while j > start and scratch[j - 1] > value:
                    scratch[j] = scratch[j - 1]
                    j -= 1
                scratch[j] = value
        start = end
    values[:] = scratch[:count]


@kernel
def _shingle_sets(
    data: np.ndarray,
    offsets: np.ndarray,
    n: int,
    character: bool,
    table: np.ndarray,
    ascii_words: np.ndarray,
    symbols: np.ndarray,
    set_offsets: np.ndarray,
) -> np.ndarray:
    ring = np.zeros(n, np.uint64)
    gaps = np.zeros(n, np.uint64)
    state = np.zeros(5, np.uint64)
    power = _power(n)
    hashes = np.empty(_BUFFER, np.uint64)
    values = np.empty(1024, np.uint64)
    scratch = np.empty(1024, np.uint64)
    places = np.empty((1 << 16) + 1, np.int64)
    used = 0
    for document in range(len(offsets) - 1):
        start = offsets[document]
        end = offsets[document + 1]
        first = used
        p = start
        state[:] = 0
        while p < end:
            if character:
                p, filled = _fill_characters(data, p, start, end, table, ring, state, power, hashes)
            else:
                p, filled = _fill_words_and_symbols(
                    data, p, start, end, table, ascii_words, symbols, ring, gaps, state, power, hashes
                )
            if p >= end:
                filled = _fill_short(ring, state, hashes, filled)
            if used + filled > len(values):
                grown = np.empty(2 * (used + filled), np.uint64)
                grown[:used] = values[:used]
                values = grown
            values[used : used + filled] = hashes[:filled]
            used += filled
        if first < used <= first + EDGE_SHINGLES:
            values[first] ^= state[_LEAD]
            if state[_GAP]:
                values[used - 1] = mix64(values[used - 1] + state[_GAP])
        if used - first > len(scratch):
            scratch = np.empty(2 * (used - first), np.uint64)
        _sort(values[first:used], scratch, places)
        used = keep_distinct(values, first, used)
        set_offsets[document + 1] = used
    return values[:used]


@functools.cache
def _permutations(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(odd factors, shifts), uint32, from SplitMix64 (Steele, Lea, Flood 2014): the same for ever."""
    start = np.array([seed % 2**64], np.uint64)
    numbers = splitmix64(start + GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    factors = (numbers >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    return factors, (numbers & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def candidate_probability(similarity: np.ndarray, config: MinHashConfig) -> np.ndarray:
    """Probability that documents of these Jaccard similarities agree in a band: 1 - (1 - s^rows)^bands.

    Source: Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4.2.
    """
    probability: np.ndarray = 1 - (1 - np.asarray(similarity, np.float64) ** config.rows) ** config.bands
    return probability


def signatures(text: pa.Array | pa.ChunkedArray, config: MinHashConfig) -> tuple[np.ndarray, np.ndarray]:
    """Band hashes (n, bands) uint64 and shingle counts (n,) int32 (not distinct) of a string column.

    The band hashes of a document with 0 shingles mean nothing.
    """
    data, offsets = string_buffers(text)
    table, ascii_words = code_points()
    a, b = _permutations(config.seed, config.bands * config.rows)
    bands = np.empty((len(offsets) - 1, config.bands), np.uint64)
    shingles = np.empty(len(offsets) - 1, np.int32)
    character = config.shingle == "character"
    _signatures(
        data, offsets, config.ngram, character, table, ascii_words, a, b, config.rows, bands, shingles
    )
    return bands, shingles


def shingle_sets(text: pa.Array | pa.ChunkedArray, config: MinHashConfig) -> tuple[np.ndarray, np.ndarray]:
    """The set of shingle hashes of each document: (offsets int64 (n + 1), values uint64).

    Document i's set is values[offsets[i]:offsets[i + 1]], sorted and distinct. Needs 8 bytes a shingle.
    """
    data, offsets = string_buffers(text)
    table, ascii_words = code_points()
    set_offsets = np.zeros(len(offsets), np.int64)
    character = config.shingle == "character"
    values = _shingle_sets(data, offsets, config.ngram, character, table, ascii_words, symbols(), set_offsets)
    return set_offsets, values


@kernel
def compare_sets(
    offsets: np.ndarray,
    values: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    containment: bool,
    out: np.ndarray,
) -> None:
    """Similarity of sets `left[i]` and `right[i]` (as from `shingle_sets`) into out float32.

    Jaccard |A∩B| / |A∪B|, or containment |A∩B| / min(|A|, |B|); 0 where that divides by 0.
    """
    for i in range(len(left)):
        p, p_end = offsets[left[i]], offsets[left[i] + 1]
        q, q_end = offsets[right[i]], offsets[right[i] + 1]
        one, other = p_end - p, q_end - q
        shared = 0
        while p < p_end and q < q_end:
            x = values[p]
            y = values[q]
            shared += x == y
            p += x <= y
            q += y <= x
        total = min(one, other) if containment else one + other - shared
        out[i] = shared / total if total else 0.0


@kernel
def _text_hash(
    data: np.ndarray,
    offsets: np.ndarray,
    table: np.ndarray,
    secret: np.ndarray,
    high: np.ndarray,
    low: np.ndarray,
) -> None:
    scratch = np.empty(0, np.uint8)
    for i in range(len(offsets) - 1):
        p = offsets[i]
        end = offsets[i + 1]
        if len(scratch) < end - p:
            scratch = np.empty(2 * (end - p), np.uint8)
        used = 0
        gap = False
        while p < end:
            c = data[p]
            size = 1
            if c < 128:
                space = c == 32 or 9 <= c <= 13 or 28 <= c <= 31
            else:
                code, size = decode(data, p)
                space = table[code] & SPACE != 0
            if space:
                gap = True
            else:
                if gap and used:
                    scratch[used] = 32
                    used += 1
                gap = False
                for k in range(size):
                    scratch[used + k] = data[p + k]
                used += size
            p += size
        low[i], high[i] = xxh3_128(scratch, 0, used, secret)


def text_hash(text: pa.Array | pa.ChunkedArray) -> pa.FixedSizeBinaryArray:
    """xxh3-128 of each text with white space normalised: `" ".join(text.split())` in UTF-8.

    Documents with equal text hashes are exact duplicates. Case is kept: what differs in case or marks
    of prose only is left to MinHash, where it has similarity 1.
    """
    data, offsets = string_buffers(text)
    high = np.empty(len(offsets) - 1, np.uint64)
    low = np.empty(len(offsets) - 1, np.uint64)
    _text_hash(data, offsets, code_points()[0], secret_words(), high, low)
    return ids_from_words(high, low)
