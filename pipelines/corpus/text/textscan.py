"""Numba kernel of `quality.measure`: one scan over a document's pieces and lines, then its repeated n-grams.

A piece is what stands between white space; `words.split` cuts it into words (a word may be a mark). What the
rules need of a piece is kept with its words in a cache of common pieces. Two kinds of line are measured, as
datatrove has them: those between line feeds (repetition, FineWeb), and those of Python's `splitlines` (Gopher
quality, C4).
"""

import threading
from typing import Any

import numpy as np
from numba.core import cgutils
from numba.core.imputils import impl_ret_untracked
from numba.extending import intrinsic

from base.kernels import decode, kernel
from dedup.hashing import mix64, secret_words, xxh3_128
from pipelines.corpus.text import words
from pipelines.corpus.text.words import (
    ALPHABETIC,
    CODES,
    KINDS,
    LINE,
    PIECE_BYTES,
    PRIME,
    PUNCTUATION,
    SENTENCE,
    SPACE,
    STARTS,
    SYMBOL,
    TERMINAL,
)

# Columns of the kernel's output, in order.
COLUMNS = (
    "characters",
    "words",
    "tokens",
    "word_characters",
    "alphabetic_words",
    "hashes",
    "ellipses",
    "stop_words",
    "replacements",
    "newlines",
    "lines",
    "bullet_lines",
    "ellipsis_lines",
    "gopher_lines",
    "duplicate_lines",
    "duplicate_line_characters",
    "paragraphs",
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
    "full_lines",
    "terminal_lines",
    "short_lines",
    "duplicate_full_line_characters",
    "c4_lines",
    "c4_sentences",
    "c4_javascript_lines",
    "c4_policy_lines",
    "c4_lorem_ipsum",
    "c4_curly_bracket",
    "top_2gram_characters",
    "top_3gram_characters",
    "top_4gram_characters",
    "duplicate_5gram_characters",
    "duplicate_6gram_characters",
    "duplicate_7gram_characters",
    "duplicate_8gram_characters",
    "duplicate_9gram_characters",
    "duplicate_10gram_characters",
)
(
    _CHARACTERS, _WORDS, _TOKENS, _WORD_CHARACTERS, _ALPHABETIC_WORDS, _HASHES, _ELLIPSES, _STOP_WORDS,
    _REPLACEMENTS, _NEWLINES, _LINES, _BULLET_LINES, _ELLIPSIS_LINES, _GOPHER_LINES, _DUPLICATE_LINES,
    _DUPLICATE_LINE_CHARACTERS, _PARAGRAPHS, _DUPLICATE_PARAGRAPHS, _DUPLICATE_PARAGRAPH_CHARACTERS,
    _FULL_LINES, _TERMINAL_LINES, _SHORT_LINES, _DUPLICATE_FULL_LINE_CHARACTERS, _C4_LINES, _C4_SENTENCES,
    _C4_JAVASCRIPT_LINES, _C4_POLICY_LINES, _C4_LOREM_IPSUM, _C4_CURLY_BRACKET, _TOP_2GRAM,
) = range(30)  # fmt: skip
_DUPLICATE_5GRAM = _TOP_2GRAM + 3

_STOP = ("the", "be", "to", "of", "and", "that", "have", "with")
_STOP_KEYS = np.array([words.hash_word(word) for word in _STOP], np.uint64)
_LONGEST_C4_WORD = 1000
_C4_WORDS = 3
_SHORT_LINE = 30
_SECRET = secret_words()

# What the rules need of a piece. _P_SENTENCES and the field after it: for each state of the sentence splitter
# (whether a sentence has ended) the sentences that begin in the piece, shifted left, with the state after it.
(
    _P_CHARACTERS, _P_TOKENS, _P_WORDS, _P_WORD_CHARACTERS, _P_ALPHABETIC, _P_HASHES, _P_ELLIPSES,
    _P_REPLACEMENTS, _P_STOPS, _P_SENTENCES, _, _P_FLAGS, _P_FIELDS,
) = range(13)  # fmt: skip
# A row of the cache, 64 bytes: a piece's first 8 bytes and the next, the fields above in two (a byte each,
# the flags apart) with its length, the lengths of its words, a byte each, and their hashes.
_C_LOW, _C_HIGH, _C_FIRST, _C_SECOND, _C_LENGTHS, _C_WORDS = range(6)
_C_FIELDS = 8
(
    _BULLET, _ENDS_TERMINAL, _ENDS_C4, _ENDS_ELLIPSIS, _JAVASCRIPT, _CURLY, _CITATION, _LONG, _ENDS_TERMS,
    _ENDS_OWNER, _ENDS_USE, _ENDS_USES, _IS_OF, _ENDS_LOREM, _BEGINS_USE, _BEGINS_POLICY, _BEGINS_COOKIES,
    _BEGINS_IPSUM, _POLICY, _LOREM,
) = (1 << i for i in range(20))  # fmt: skip
_BEGINS = _BEGINS_USE | _BEGINS_POLICY | _BEGINS_COOKIES | _BEGINS_IPSUM

_SLOTS = 2**16
_CACHED_BYTES = 16
_CACHED_TOKENS = _C_FIELDS - _C_WORDS


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


_WORD_JAVASCRIPT = _bytes("javascript")
_WORD_TERMS, _WORD_PRIVACY, _WORD_COOKIE = _bytes("terms"), _bytes("privacy"), _bytes("cookie")
_WORD_USE, _WORD_USES, _WORD_OF = _bytes("use"), _bytes("uses"), _bytes("of")
_WORD_POLICY, _WORD_COOKIES = _bytes("policy"), _bytes("cookies")
_WORD_LOREM, _WORD_IPSUM = _bytes("lorem"), _bytes("ipsum")
_EDIT, _CITATION_OPEN, _CITATION_NEEDED = _bytes("[edit]"), _bytes("[citation"), _bytes("[citation needed]")


def _space_bytes() -> np.ndarray:
    """By first byte of a character: 0 no white space, 1 ASCII white space, 2 perhaps white space."""
    table = np.zeros(256, np.uint8)
    for code in np.flatnonzero(words.classes() & SPACE).tolist():
        first = chr(code).encode()
        table[first[0]] = 1 if len(first) == 1 else 2
    return table


_SPACES = _space_bytes()
_local = threading.local()


def _state() -> tuple[np.ndarray, ...]:
    """Scratch of `words.split` and the cache of pieces of this thread."""
    if not hasattr(_local, "state"):
        # Rows begin where the processor's cache lines do.
        memory = np.zeros((_SLOTS + 1) * _C_FIELDS, np.int64)
        first = -memory.ctypes.data % 64 // 8
        cache = memory[first : first + _SLOTS * _C_FIELDS].reshape(_SLOTS, _C_FIELDS)
        _local.state = *words.new_work(), cache
    state: tuple[np.ndarray, ...] = _local.state
    return state


@kernel
def _matches(data: np.ndarray, at: int, end: int, word: np.ndarray, any_case: bool) -> bool:
    """Whether data[at:end] begins with a lower-case ASCII word."""
    if at < 0 or at + len(word) > end:
        return False
    for i in range(len(word)):
        byte = data[at + i]
        if any_case and 65 <= byte <= 90:
            byte |= 32
        if byte != word[i]:
            return False
    return True


@kernel
def _begins(data: np.ndarray, start: int, stop: int, word: np.ndarray) -> Any:
    return _matches(data, start, stop, word, True)


@kernel
def _ends(data: np.ndarray, start: int, stop: int, word: np.ndarray) -> Any:
    return stop - len(word) >= start and _matches(data, stop - len(word), stop, word, True)


@kernel
def _citation(data: np.ndarray, at: int, end: int) -> int:
    """Length of the citation mark at `at`: [12], [], [edit] or [citation needed]; 0 if there is none."""
    stop = at + 1
    while stop < end and 48 <= data[stop] <= 57:
        stop += 1
    if stop < end and data[stop] == 93:
        return stop + 1 - at
    if _matches(data, at, end, _EDIT, False):
        return len(_EDIT)
    return len(_CITATION_NEEDED) if _matches(data, at, end, _CITATION_NEEDED, False) else 0


@kernel
def _flags_of(data: np.ndarray, start: int, stop: int, work: np.ndarray, count: int) -> int:
    """The flags of a piece that `words.split` has just cut; count is its number of characters."""
    flags = 0
    first, last = work[CODES, 0], work[CODES, count - 1]
    if first == 45 or first == 0x2022:
        flags |= _BULLET
    if work[KINDS, count - 1] & TERMINAL:
        flags |= _ENDS_TERMINAL
    points = count > 2 and last == 46 and work[CODES, count - 2] == 46 and work[CODES, count - 3] == 46
    if points or last == 0x2026:
        flags |= _ENDS_ELLIPSIS
    if (last == 46 and not points) or last == 63 or last == 33 or last == 34 or last == 39:
        flags |= _ENDS_C4
    if count > _LONGEST_C4_WORD:
        flags |= _LONG
    for at in range(start, stop):
        byte = data[at]
        if byte == 123:
            flags |= _CURLY
        elif byte | 32 == 106 and _begins(data, at, stop, _WORD_JAVASCRIPT):
            flags |= _JAVASCRIPT
        elif byte == 91 and (_citation(data, at, stop) or _ends(data, at, stop, _CITATION_OPEN)):
            flags |= _CITATION
    closing = data[stop - 1] | 32
    if closing == 115:
        if _ends(data, start, stop, _WORD_TERMS):
            flags |= _ENDS_TERMS
        elif _ends(data, start, stop, _WORD_USES):
            flags |= _ENDS_USES
    elif closing == 101:
        if _ends(data, start, stop, _WORD_USE):
            flags |= _ENDS_USE
        elif _ends(data, start, stop, _WORD_COOKIE):
            flags |= _ENDS_OWNER
    elif closing == 121:
        if _ends(data, start, stop, _WORD_PRIVACY):
            flags |= _ENDS_OWNER
    elif closing == 109:
        if _ends(data, start, stop, _WORD_LOREM):
            flags |= _ENDS_LOREM
    elif closing == 102 and stop - start == 2 and _begins(data, start, stop, _WORD_OF):
        flags |= _IS_OF
    opening = data[start] | 32
    if opening == 117:
        if _begins(data, start, stop, _WORD_USE):
            flags |= _BEGINS_USE
    elif opening == 112:
        if _begins(data, start, stop, _WORD_POLICY):
            flags |= _BEGINS_POLICY
    elif opening == 99:
        if _begins(data, start, stop, _WORD_COOKIES):
            flags |= _BEGINS_COOKIES
    elif opening == 105 and _begins(data, start, stop, _WORD_IPSUM):
        flags |= _BEGINS_IPSUM
    return flags


@kernel
def _measure_piece(
    data: np.ndarray,
    start: int,
    stop: int,
    classes: np.ndarray,
    special: np.ndarray,
    work: np.ndarray,
    sums: np.ndarray,
    found: np.ndarray,
) -> None:
    """Split data[start:stop] and fill `found` with the fields of the piece."""
    tokens, count = words.split(data, start, stop, classes, special, work, sums)
    for i in range(_P_FIELDS):
        found[i] = 0
    found[_P_CHARACTERS] = count
    found[_P_TOKENS] = tokens
    points = 0
    for i in range(count):
        code = work[CODES, i]
        if code == 46:
            points += 1
            continue
        found[_P_ELLIPSES] += points // 3 + (code == 0x2026)
        points = 0
        found[_P_HASHES] += code == 35
        found[_P_REPLACEMENTS] += code == 0xFFFD
    found[_P_ELLIPSES] += points // 3
    ended, ended_before = 0, 1
    for token in range(tokens):
        left, right = work[STARTS, token], work[STARTS, token + 1]
        symbol = alphabetic = False
        symbols = marks = True
        for i in range(left, right):
            kind = work[KINDS, i]
            alphabetic |= kind & ALPHABETIC != 0
            symbols &= kind & SYMBOL != 0
            marks &= kind & PUNCTUATION != 0
        if not symbols:
            found[_P_WORDS] += 1
            found[_P_WORD_CHARACTERS] += right - left
        found[_P_ALPHABETIC] += alphabetic
        symbol = right - left == 1 and work[KINDS, left] & SENTENCE != 0
        if symbol:
            ended = ended_before = 1
        elif not marks:
            found[_P_SENTENCES] += ended << 1
            found[_P_SENTENCES + 1] += ended_before << 1
            ended = ended_before = 0
        if 2 <= right - left <= 4:
            value = words.span_hash(sums, left, right)
            for i in range(len(_STOP_KEYS)):
                if value == _STOP_KEYS[i]:
                    found[_P_STOPS] |= 1 << i
    found[_P_SENTENCES] |= ended
    found[_P_SENTENCES + 1] |= ended_before
    found[_P_FLAGS] = _flags_of(data, start, stop, work, count)


@kernel
def _keep_piece(
    data: np.ndarray,
    start: int,
    stop: int,
    low: np.int64,
    high: np.int64,
    slot: np.int64,
    classes: np.ndarray,
    special: np.ndarray,
    work: np.ndarray,
    sums: np.ndarray,
    cache: np.ndarray,
    found: np.ndarray,
) -> Any:
    """Measure a piece and keep it in `slot`; returns -1 if the cache does not take it."""
    _measure_piece(data, start, stop, classes, special, work, sums, found)
    tokens = found[_P_TOKENS]
    if stop - start > _CACHED_BYTES or tokens > _CACHED_TOKENS:
        return np.int64(-1)
    first = second = lengths = np.int64(0)
    for i in range(8):
        first |= found[i] << 8 * i
    for i in range(8, _P_FLAGS):
        second |= found[i] << 8 * (i - 8)
    for i in range(tokens):
        left, right = work[STARTS, i], work[STARTS, i + 1]
        cache[slot, _C_WORDS + i] = np.int64(words.span_hash(sums, left, right))
        lengths |= (right - left) << 8 * i
    cache[slot, _C_LOW] = low
    cache[slot, _C_HIGH] = high
    cache[slot, _C_FIRST] = first
    cache[slot, _C_SECOND] = second | (stop - start) << 24 | found[_P_FLAGS] << 32
    cache[slot, _C_LENGTHS] = lengths
    return slot


@kernel
def _find_piece(
    data: np.ndarray,
    start: int,
    stop: int,
    low: np.int64,
    high: np.int64,
    classes: np.ndarray,
    special: np.ndarray,
    work: np.ndarray,
    sums: np.ndarray,
    cache: np.ndarray,
    found: np.ndarray,
) -> Any:
    """Fill `found` with the fields of the piece data[start:stop], whose first 16 bytes are `low` and `high`.

    Returns its row of the cache, or -1 if the cache does not take it; its words are then in `work`.
    """
    key = np.uint64(low) ^ np.uint64(high) * PRIME ^ np.uint64(stop - start)
    slot = np.int64(mix64(key) & np.uint64(_SLOTS - 1))
    second = cache[slot, _C_SECOND]
    if cache[slot, _C_LOW] != low or cache[slot, _C_HIGH] != high or second >> 24 & 255 != stop - start:
        return _keep_piece(data, start, stop, low, high, slot, classes, special, work, sums, cache, found)
    first = cache[slot, _C_FIRST]
    for i in range(8):
        found[i] = first & 255
        first >>= 8
    for i in range(8, _P_FLAGS):
        found[i] = second & 255
        second >>= 8
    found[_P_FLAGS] = cache[slot, _C_SECOND] >> 32
    return slot


@kernel
def _white_space(data: np.ndarray, at: int, classes: np.ndarray) -> tuple[np.uint32, int]:
    """(class, bytes) of the character at `at`; the class is 0 unless it is white space."""
    byte = data[at]
    sort = _SPACES[byte]
    if sort == 0:
        return np.uint32(0), 1
    if sort == 1:
        return classes[byte], 1
    code, size = decode(data, at)
    kind = words.class_of(classes, code)
    return (kind, size) if kind & SPACE else (np.uint32(0), 1)


@kernel
def _piece_end(data: np.ndarray, at: int, end: int, classes: np.ndarray) -> tuple[int, np.int64, np.int64]:
    """(end of the piece that begins at `at`, its first 8 bytes, the next 8)."""
    limit = min(end, at + PIECE_BYTES)
    low = high = np.int64(0)
    stop = at
    while stop < limit:
        byte = data[stop]
        if _SPACES[byte] and _white_space(data, stop, classes)[0]:
            break
        read = stop - at
        if read < 8:
            low = low << 8 | byte
        elif read < 16:
            high = high << 8 | byte
        stop += 1
    if stop < end and stop == limit:
        while data[stop] & 0xC0 == 0x80:
            stop -= 1
    return stop, low, high


# State of one of Python's lines: pieces so far, flags of the first, the last and the one before it (0 where
# other than one space stands between), flags of any, sentences begun after the first, whether one has ended.
_L_PIECES, _L_FIRST, _L_LAST, _L_JOINED, _L_BEFORE, _L_ANY, _L_SENTENCES, _L_ENDED, _L_FIELDS = range(9)


@kernel
def _add_to_line(line: np.ndarray, found: np.ndarray, one_space: bool) -> None:
    """Continue a line with a piece; one_space: one space stands between it and the last piece."""
    flags = found[_P_FLAGS]
    if line[_L_PIECES] == 0:
        line[_L_FIRST] = flags
        line[_L_JOINED] = line[_L_BEFORE] = 0
    elif one_space:
        last = line[_L_LAST]
        if flags & _BEGINS:
            before = line[_L_JOINED]
            of = last & _IS_OF != 0
            if (
                (flags & _BEGINS_POLICY and last & _ENDS_OWNER)
                or (
                    flags & _BEGINS_COOKIES
                    and (last & (_ENDS_USE | _ENDS_USES) or (of and before & _ENDS_USE))
                )
                or (flags & _BEGINS_USE and of and before & _ENDS_TERMS)
            ):
                line[_L_ANY] |= _POLICY
            if flags & _BEGINS_IPSUM and last & _ENDS_LOREM:
                line[_L_ANY] |= _LOREM
        line[_L_JOINED] = last
    else:
        # Longer white space is a word to the sentence splitter.
        line[_L_JOINED] = 0
        line[_L_SENTENCES] += line[_L_ENDED]
        line[_L_ENDED] = 0
    line[_L_PIECES] += 1
    line[_L_LAST] = flags
    line[_L_ANY] |= flags
    sentences = found[_P_SENTENCES + line[_L_ENDED]]
    line[_L_SENTENCES] += sentences >> 1
    line[_L_ENDED] = sentences & 1


@kernel
def _without_citations(
    data: np.ndarray,
    start: int,
    stop: int,
    line: np.ndarray,
    classes: np.ndarray,
    special: np.ndarray,
    work: np.ndarray,
    sums: np.ndarray,
    cache: np.ndarray,
    found: np.ndarray,
) -> None:
    """Make `line` the state of data[start:stop] without its citation marks, its number of pieces kept."""
    pieces = line[_L_PIECES]
    for i in range(_L_FIELDS):
        line[i] = 0
    text = np.empty(stop - start, np.uint8)
    count = 0
    at = start
    while at < stop:
        size = _citation(data, at, stop) if data[at] == 91 else 0
        if size:
            at += size
            continue
        text[count] = data[at]
        count += 1
        at += 1
    at = 0
    gap = 0
    while at < count:
        kind, size = _white_space(text, at, classes)
        if kind:
            gap = 1 if gap == 0 and text[at] == 32 else 2
            at += size
            continue
        end, low, high = _piece_end(text, at, count, classes)
        _find_piece(text, at, end, low, high, classes, special, work, sums, cache, found)
        _add_to_line(line, found, gap == 1)
        at = end
        gap = 0
    if gap:
        line[_L_LAST] = 0
    line[_L_PIECES] = pieces


@kernel
def _end_line(
    data: np.ndarray,
    start: int,
    stop: int,
    line: np.ndarray,
    classes: np.ndarray,
    special: np.ndarray,
    work: np.ndarray,
    sums: np.ndarray,
    cache: np.ndarray,
    found: np.ndarray,
    row: np.ndarray,
) -> None:
    """Count one of Python's lines, whose pieces are data[start:stop], and clear its state.

    C4's rules are asked in datatrove's order: a line is judged by the first that it meets.
    """
    row[_BULLET_LINES] += line[_L_FIRST] & _BULLET != 0
    row[_ELLIPSIS_LINES] += line[_L_LAST] & _ENDS_ELLIPSIS != 0
    too_long = line[_L_ANY] & _LONG
    if line[_L_ANY] & _CITATION:
        _without_citations(data, start, stop, line, classes, special, work, sums, cache, found)
    seen = line[_L_ANY]
    if not too_long and line[_L_LAST] & _ENDS_C4 and line[_L_PIECES] >= _C4_WORDS:
        row[_C4_LOREM_IPSUM] += seen & _LOREM != 0
        if seen & _JAVASCRIPT:
            row[_C4_JAVASCRIPT_LINES] += 1
        else:
            row[_C4_CURLY_BRACKET] += seen & _CURLY != 0
            if seen & _POLICY:
                row[_C4_POLICY_LINES] += 1
            else:
                row[_C4_LINES] += 1
                row[_C4_SENTENCES] += line[_L_SENTENCES] + 1
    for i in range(_L_FIELDS):
        line[i] = 0


@intrinsic
def borrowed(typingctx: Any, array: Any) -> Any:
    """The array without its owner, which must outlive it: counting references took a fifth of the time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(array)(context, builder, value=args[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        view.parent = cgutils.get_null_value(view.parent.type)
        return impl_ret_untracked(context, builder, signature.return_type, view._getvalue())

    return array(array), codegen


# Rows of the elements whose repeats are counted, hash and characters: lines between runs of line feeds, lines
# that are not blank, paragraphs.
_RUNS, _FULL, _PARTS = 0, 2, 4


@kernel
def _add_element(
    elements: np.ndarray,
    sort: int,
    count: int,
    data: np.ndarray,
    start: int,
    stop: int,
    characters: int,
    secret: np.ndarray,
) -> None:
    """Make data[start:stop] the element `count` of a sort."""
    hashed = xxh3_128(data, start, stop - start, secret)[0] if stop > start else np.uint64(0)
    elements[sort, count] = np.int64(hashed)
    elements[sort + 1, count] = characters


@kernel
def _find(keys: np.ndarray, seen: np.ndarray, mask: int, key: np.uint64) -> bool:
    """Whether `key` is in the set; it is afterwards. `seen` holds positions in keys plus one, 0 if free.

    keys[0] is the number of keys that are there, the keys follow.
    """
    slot = np.int64(mix64(key) & np.uint64(mask))
    while seen[slot]:
        if keys[seen[slot]] == key:
            return True
        slot = (slot + 1) & mask
    count = np.int64(keys[0]) + 1
    keys[0] = np.uint64(count)
    keys[count] = key
    seen[slot] = count
    return False


@kernel
def _duplicates(elements: np.ndarray, sort: int, count: int) -> tuple[int, int]:
    """(elements, characters) of a sort that repeat an earlier element."""
    size = 8
    while size < 2 * count:
        size *= 2
    seen = np.zeros(size, np.int32)
    keys = np.empty(count + 1, np.uint64)
    keys[0] = 0
    repeats = characters = 0
    for i in range(count):
        if _find(keys, seen, size - 1, np.uint64(elements[sort, i])):
            repeats += 1
            characters += elements[sort + 1, i]
    return repeats, characters


@kernel
def _gram(hashes: np.ndarray, at: int, n: int) -> Any:
    value = hashes[at]
    for i in range(at + 1, at + n):
        value = mix64(value) + hashes[i] * PRIME
    return value


@kernel
def _ngrams(hashes: np.ndarray, ends: np.ndarray, count: int, row: np.ndarray) -> None:
    """Write the n-gram measures of a document's tokens into its output row.

    `ends` counts characters up to and including each token (tokens alone, without what is between).
    An (n + 1)-gram can occur twice only where two n-grams do, so that each pass looks only at the
    positions that the last one left.
    """
    repeated = np.ones(count, np.bool_)
    where = np.empty(count, np.int32)  # for each candidate the slot of its n-gram
    candidates = np.arange(count).astype(np.int32)
    number = count
    for n in range(2, 6):
        kept = 0
        for c in range(number):
            at = candidates[c]
            if at + n <= count and (n == 2 or (repeated[at] and repeated[at + 1])):
                candidates[kept] = at
                kept += 1
        number = kept
        size = 8
        while size < 2 * number:
            size *= 2
        mask = size - 1
        slots = np.zeros(size, np.int32)
        grams = np.empty(number, np.uint64)
        counts = np.zeros(number, np.int32)
        best = 1
        best_at = 0
        for c in range(number):
            gram = _gram(hashes, candidates[c], n)
            grams[c] = gram
            slot = np.int64(mix64(gram) & np.uint64(mask))
            while slots[slot] and grams[slots[slot] - 1] != gram:
                slot = (slot + 1) & mask
            if slots[slot] == 0:
                slots[slot] = c + 1
            first = slots[slot] - 1
            where[c] = first
            counts[first] += 1
            times = counts[first]
            at = candidates[first]
            if times > best or (times == best and times > 1 and at < best_at):
                best = times
                best_at = at
        if n < 5 and count >= n:
            before = ends[best_at - 1] if best_at > 0 else 0
            row[_TOP_2GRAM + n - 2] = best * (ends[best_at + n - 1] - before + n - 1)
        repeated[:] = False
        for c in range(number):
            repeated[candidates[c]] = counts[where[c]] > 1
        kept = 0
        for c in range(number):
            if repeated[candidates[c]]:
                candidates[kept] = candidates[c]
                kept += 1
        number = kept
    if number == 0:
        return
    size = 8
    while size < 2 * number:
        size *= 2
    for n in range(5, 11):
        seen = np.zeros(size, np.int32)
        keys = np.empty(number + 1, np.uint64)
        keys[0] = 0
        characters = 0
        done = 0  # tokens before this one belong to a repeated n-gram already counted
        for c in range(number):
            at = candidates[c]
            if at < done or at + n > count:
                continue
            possible = True
            for i in range(at + 1, at + n - 4):
                possible &= repeated[i]
            if possible and _find(keys, seen, size - 1, _gram(hashes, at, n)):
                characters += ends[at + n - 1] - (ends[at - 1] if at > 0 else 0)
                done = at + n
        if characters == 0:
            break
        row[_DUPLICATE_5GRAM + n - 5] = characters


@kernel
def _scan(
    data: np.ndarray,
    start: int,
    end: int,
    classes: np.ndarray,
    special: np.ndarray,
    work: np.ndarray,
    sums: np.ndarray,
    cache: np.ndarray,
    secret: np.ndarray,
    hashes: np.ndarray,
    ends: np.ndarray,
    elements: np.ndarray,
    row: np.ndarray,
) -> tuple[int, int, int]:
    """Count in `row` all but the repeats of a document; returns (lines between runs, full lines, paragraphs).

    Its words' hashes and ends are written to `hashes` and `ends`, its lines and paragraphs to `elements`.
    """
    found = np.zeros(_P_FIELDS, np.int64)
    line = np.zeros(_L_FIELDS, np.int64)  # of Python's lines
    line_start = line_left = line_right = start  # where it begins, and its pieces
    feed_start, feed_first, feed_pieces = (
        start,
        0,
        0,
    )  # of the line between line feeds: byte, character, pieces
    # Of the paragraph; the first and the last are those of the first and the last piece of the text.
    paragraph_start, paragraph_first = start, 0
    last_paragraph, last_start, last_first, last_stop, last_end = 0, start, 0, start, 0
    runs = full = paragraph = 0
    feeds = 0  # line feeds in a row
    flags = np.int64(0)
    tokens = token_characters = 0
    word_count = word_characters = alphabetic = hash_signs = ellipses = replacements = stops = 0
    characters = 0  # of the document up to here
    gap = 0  # white space since the last piece: 0 none, 1 a space, 2 anything else
    at = start
    while True:
        final = at == end
        kind, size = (LINE, 1) if final else _white_space(data, at, classes)
        if not kind:
            stop, low, high = _piece_end(data, at, end, classes)
            piece = _find_piece(data, at, stop, low, high, classes, special, work, sums, cache, found)
            if line[_L_PIECES] == 0:
                line_left = at
            line_right = stop
            _add_to_line(line, found, gap == 1)
            count = found[_P_TOKENS]
            if piece >= 0:
                lengths = cache[piece, _C_LENGTHS]
                for i in range(count):
                    token_characters += lengths & 255
                    lengths >>= 8
                    hashes[tokens] = np.uint64(cache[piece, _C_WORDS + i])
                    ends[tokens] = token_characters
                    tokens += 1
            else:
                for i in range(count):
                    left, right = work[STARTS, i], work[STARTS, i + 1]
                    token_characters += right - left
                    hashes[tokens] = words.span_hash(sums, left, right)
                    ends[tokens] = token_characters
                    tokens += 1
            if last_stop == start:
                paragraph_start, paragraph_first = at, characters
            characters += found[_P_CHARACTERS]
            word_count += found[_P_WORDS]
            word_characters += found[_P_WORD_CHARACTERS]
            alphabetic += found[_P_ALPHABETIC]
            hash_signs += found[_P_HASHES]
            ellipses += found[_P_ELLIPSES]
            replacements += found[_P_REPLACEMENTS]
            stops |= found[_P_STOPS]
            flags = found[_P_FLAGS]
            feed_pieces += 1
            last_paragraph, last_start, last_first = paragraph, paragraph_start, paragraph_first
            last_stop, last_end = stop, characters
            feeds = gap = 0
            at = stop
            continue
        feed = final or data[at] == 10
        if kind & LINE and (feed or data[at] != 13 or at + 1 == end or data[at + 1] != 10):
            row[_LINES] += not final or at > line_start
            if line[_L_PIECES]:
                _end_line(data, line_left, line_right, line, classes, special, work, sums, cache, found, row)
            line_start = at + size
        if feed:
            length = characters - feed_first
            # Gopher's repetition rules take runs of line feeds as one; an empty line counts only at the ends.
            if at > feed_start or feed_start == start or final:
                _add_element(elements, _RUNS, runs, data, feed_start, at, length, secret)
                runs += 1
            if feed_pieces:
                elements[_FULL, full] = elements[_RUNS, runs - 1]
                elements[_FULL + 1, full] = length
                full += 1
                row[_TERMINAL_LINES] += gap == 0 and flags & _ENDS_TERMINAL != 0
                row[_SHORT_LINES] += length <= _SHORT_LINE
            if final:
                break
            feeds += 1
            if feeds == 2 and last_stop > start:
                size_before = characters - 1 - paragraph_first
                _add_element(elements, _PARTS, paragraph, data, paragraph_start, at - 1, size_before, secret)
                paragraph += 1
            if feeds >= 2:
                paragraph_start, paragraph_first = at + 1, characters + 1
            row[_NEWLINES] += 1
            feed_start, feed_first, feed_pieces = at + 1, characters + 1, 0
        else:
            feeds = 0
        gap = 1 if gap == 0 and data[at] == 32 else 2
        characters += 1
        at += size
    _add_element(elements, _PARTS, last_paragraph, data, last_start, last_stop, last_end - last_first, secret)
    row[_CHARACTERS] = characters
    row[_TOKENS] = tokens
    row[_WORDS] = word_count
    row[_WORD_CHARACTERS] = word_characters
    row[_ALPHABETIC_WORDS] = alphabetic
    row[_HASHES] = hash_signs
    row[_ELLIPSES] = ellipses
    row[_REPLACEMENTS] = replacements
    for i in range(len(_STOP_KEYS)):
        row[_STOP_WORDS] += (stops >> i) & 1
    return runs, full, last_paragraph + 1


@kernel
def _measure_into(
    data: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    special: np.ndarray,
    work: np.ndarray,
    sums: np.ndarray,
    cache: np.ndarray,
    secret: np.ndarray,
    hashes: np.ndarray,
    ends: np.ndarray,
    elements: np.ndarray,
    out: np.ndarray,
) -> None:
    data, classes, special = borrowed(data), borrowed(classes), borrowed(special)
    work, sums, cache = borrowed(work), borrowed(sums), borrowed(cache)
    hashes, ends, elements = borrowed(hashes), borrowed(ends), borrowed(elements)
    for document in range(len(out)):
        start, end = offsets[document], offsets[document + 1]
        row = out[document]
        runs, full, paragraphs = _scan(
            data, start, end, classes, special, work, sums, cache, secret, hashes, ends, elements, row
        )
        row[_GOPHER_LINES] = runs
        row[_DUPLICATE_LINES], row[_DUPLICATE_LINE_CHARACTERS] = _duplicates(elements, _RUNS, runs)
        row[_FULL_LINES] = full
        row[_DUPLICATE_FULL_LINE_CHARACTERS] = _duplicates(elements, _FULL, full)[1]
        row[_PARAGRAPHS] = paragraphs
        row[_DUPLICATE_PARAGRAPHS], row[_DUPLICATE_PARAGRAPH_CHARACTERS] = _duplicates(
            elements, _PARTS, paragraphs
        )
        _ngrams(hashes, ends, row[_TOKENS], row)


@kernel
def measure_all(
    data: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    special: np.ndarray,
    work: np.ndarray,
    sums: np.ndarray,
    cache: np.ndarray,
    secret: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill out (int64, documents × COLUMNS, zeros) with the counts of every document."""
    most_bytes = most_lines = 0
    for document in range(len(out)):
        lines = 0
        for at in range(offsets[document], offsets[document + 1]):
            lines += data[at] == 10
        most_lines = max(most_lines, lines)
        most_bytes = max(most_bytes, offsets[document + 1] - offsets[document])
    # Only the pages that are written to take memory.
    hashes = np.empty(most_bytes + 1, np.uint64)
    ends = np.empty(most_bytes + 1, np.int64)
    elements = np.empty((6, most_lines + 2), np.int64)
    _measure_into(data, offsets, classes, special, work, sums, cache, secret, hashes, ends, elements, out)


def counts(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The counts named by COLUMNS of each document: int64, documents × columns."""
    out = np.zeros((len(offsets) - 1, len(COLUMNS)), np.int64)
    measure_all(data, offsets, words.classes(), words.special_table(), *_state(), _SECRET, out)
    return out
