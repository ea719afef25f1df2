"""Numba kernel of `quality.measure`: one scan over a document's characters, then its repeated n-grams.

A line ends at LF. A token is a word (letters, digits, marks and underscores; a point or comma between
digits belongs to it; an apostrophe between letters begins a new one, so that "don't" is "don" and "'t") or a
run of one other character that is not white space.
"""

import functools
import unicodedata

import numba
import numpy as np

from dedup.hashing import secret_words, xxh3_128

WORD, ALPHABETIC, SPACE, TERMINAL = np.uint8(1), np.uint8(2), np.uint8(4), np.uint8(8)
_LIMIT = 0x30000
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)

# Unicode property Sentence_Terminal within the Basic Multilingual Plane (PropList.txt), first and last.
_SENTENCE_TERMINAL = (
    (0x21, 0x21), (0x2E, 0x2E), (0x3F, 0x3F), (0x589, 0x589), (0x61D, 0x61F), (0x6D4, 0x6D4), (0x700, 0x702),
    (0x7F9, 0x7F9), (0x837, 0x837), (0x839, 0x839), (0x83D, 0x83E), (0x964, 0x965), (0x104A, 0x104B),
    (0x1362, 0x1362), (0x1367, 0x1368), (0x166E, 0x166E), (0x1735, 0x1736), (0x17D4, 0x17D5),
    (0x1803, 0x1803), (0x1809, 0x1809), (0x1944, 0x1945), (0x1AA8, 0x1AAB), (0x1B4E, 0x1B4F),
    (0x1B5A, 0x1B5B), (0x1B5E, 0x1B5F), (0x1B7D, 0x1B7F), (0x1C3B, 0x1C3C), (0x1C7E, 0x1C7F),
    (0x2024, 0x2024), (0x203C, 0x203D), (0x2047, 0x2049), (0x2CF9, 0x2CFB), (0x2E2E, 0x2E2E),
    (0x2E3C, 0x2E3C), (0x2E53, 0x2E54), (0x3002, 0x3002), (0xA4FF, 0xA4FF), (0xA60E, 0xA60F),
    (0xA6F3, 0xA6F3), (0xA6F7, 0xA6F7), (0xA876, 0xA877), (0xA8CE, 0xA8CF), (0xA92F, 0xA92F),
    (0xA9C8, 0xA9C9), (0xAA5D, 0xAA5F), (0xAAF0, 0xAAF1), (0xABEB, 0xABEB), (0xFE12, 0xFE12),
    (0xFE15, 0xFE16), (0xFE52, 0xFE52), (0xFE56, 0xFE57), (0xFF01, 0xFF01), (0xFF0E, 0xFF0E),
    (0xFF1F, 0xFF1F), (0xFF61, 0xFF61),
)  # fmt: skip

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
    "other_characters",
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
    _OTHER, _REPLACEMENTS, _NEWLINES, _LINES, _BULLET_LINES, _ELLIPSIS_LINES, _GOPHER_LINES,
    _DUPLICATE_LINES, _DUPLICATE_LINE_CHARACTERS, _PARAGRAPHS, _DUPLICATE_PARAGRAPHS,
    _DUPLICATE_PARAGRAPH_CHARACTERS, _FULL_LINES, _TERMINAL_LINES, _SHORT_LINES,
    _DUPLICATE_FULL_LINE_CHARACTERS, _C4_LINES, _C4_SENTENCES, _C4_JAVASCRIPT_LINES, _C4_POLICY_LINES,
    _C4_LOREM_IPSUM, _C4_CURLY_BRACKET, _TOP_2GRAM,
) = range(31)  # fmt: skip
_DUPLICATE_5GRAM = _TOP_2GRAM + 3

_STOP = ("the", "be", "to", "of", "and", "that", "have", "with")
_LONGEST_C4_WORD = 1000
_SHORT_LINE = 30
_SECRET = secret_words()


@functools.cache
def classes() -> np.ndarray:
    """WORD, ALPHABETIC, SPACE and TERMINAL bits of each code point below 0x30000."""
    table = np.zeros(_LIMIT, np.uint8)
    for code in range(_LIMIT):
        character = chr(code)
        if character.isalpha():
            table[code] = WORD | ALPHABETIC
        elif character.isspace():
            table[code] = SPACE
        elif character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M":
            table[code] = WORD
    for first, last in _SENTENCE_TERMINAL:
        table[first : last + 1] |= TERMINAL
    return table


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _hash_word(word: str) -> np.uint64:
    value = 0
    for byte in word.encode():
        value = (value * int(_PRIME) + byte + 1) & (2**64 - 1)
    return np.uint64(value)


_STOP_HASHES = np.array([_hash_word(word) for word in _STOP], np.uint64)
_JAVASCRIPT = _bytes("avascript")
_IPSUM = _bytes("lorem ipsum")
_TERMS = _bytes("terms of use")
_PRIVACY = _bytes("privacy policy")
_COOKIE_POLICY = _bytes("cookie policy")
_USES = _bytes("uses cookies")
_USE_OF = _bytes("use of cookies")
_USE = _bytes("use cookies")
_EDIT = _bytes("[edit]")
_CITATION = _bytes("[citation needed]")


@numba.njit(cache=True)
def _matches(data, at, end, word):  # type: ignore[no-untyped-def]
    """Whether data[at:] begins with a lower-case ASCII word in any case."""
    if at < 0 or at + len(word) > end:
        return False
    for i in range(len(word)):
        byte = data[at + i]
        if 65 <= byte <= 90:
            byte |= 32
        if byte != word[i]:
            return False
    return True


@numba.njit(cache=True, inline="always")
def _character(data, at):  # type: ignore[no-untyped-def]
    """(code point, bytes) of the character at `at` of well-formed UTF-8."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (data[at + 1] & 0x3F), 2
    if first < 0xF0:
        return (first & 0xF) << 12 | (data[at + 1] & 0x3F) << 6 | (data[at + 2] & 0x3F), 3
    return (
        (first & 7) << 18 | (data[at + 1] & 0x3F) << 12 | (data[at + 2] & 0x3F) << 6 | (data[at + 3] & 0x3F),
        4,
    )


@numba.njit(cache=True, inline="always")
def _class(table, code):  # type: ignore[no-untyped-def]
    return table[code] if code < len(table) else np.uint8(3)


@numba.njit(cache=True, inline="always")
def _mix(value):  # type: ignore[no-untyped-def]
    value ^= value >> np.uint64(32)
    value *= _MIX
    return value ^ (value >> np.uint64(32))


@numba.njit(cache=True)
def _larger(array):  # type: ignore[no-untyped-def]
    new = np.empty(2 * len(array), array.dtype)
    new[: len(array)] = array
    return new


@numba.njit(cache=True)
def _last_character(data, stop):  # type: ignore[no-untyped-def]
    """Code point of the character that ends before `stop`."""
    at = stop - 1
    while data[at] & 0xC0 == 0x80:
        at -= 1
    code, _ = _character(data, at)
    return code


@numba.njit(cache=True)
def _trim(data, start, stop, table):  # type: ignore[no-untyped-def]
    """data[start:stop] without white space at its ends."""
    while start < stop:
        code, size = _character(data, start)
        if not _class(table, code) & SPACE:
            break
        start += size
    while stop > start:
        at = stop - 1
        while data[at] & 0xC0 == 0x80:
            at -= 1
        code, _ = _character(data, at)
        if not _class(table, code) & SPACE:
            break
        stop = at
    return start, stop


@numba.njit(cache=True)
def _without_citations(data, start, stop):  # type: ignore[no-untyped-def]
    """The end of data[start:stop] before any citation marks ([1], [edit], [citation needed]) that end it."""
    while stop > start and data[stop - 1] == 93:
        at = stop - 2
        while at >= start and stop - at < 20 and data[at] != 91:
            at -= 1
        if at < start or data[at] != 91:
            break
        digits = True
        for i in range(at + 1, stop - 1):
            digits &= 48 <= data[i] <= 57
        named = _matches(data, at, stop, _EDIT) or _matches(data, at, stop, _CITATION)
        if not digits and not named:
            break
        stop = at
    return stop


@numba.njit(cache=True)
def _ends_with_ellipsis(data, start, stop):  # type: ignore[no-untyped-def]
    if stop - start < 3:
        return False
    a, b, c = data[stop - 3], data[stop - 2], data[stop - 1]
    return (a == 46 and b == 46 and c == 46) or (a == 0xE2 and b == 0x80 and c == 0xA6)


@numba.njit(cache=True)
def _find(keys, seen, mask, key):  # type: ignore[no-untyped-def]
    """Whether `key` is in the set; it is afterwards. `seen` holds positions in keys plus one, 0 if free.

    keys[0] is the number of keys that are there, the keys follow.
    """
    slot = np.int64(_mix(key) & np.uint64(mask))
    while seen[slot]:
        if keys[seen[slot]] == key:
            return True
        slot = (slot + 1) & mask
    count = np.int64(keys[0]) + 1
    keys[0] = np.uint64(count)
    keys[count] = key
    seen[slot] = count
    return False


@numba.njit(cache=True)
def _duplicates(hashes, lengths, count):  # type: ignore[no-untyped-def]
    """(elements, characters) that repeat an earlier element."""
    size = 8
    while size < 2 * count:
        size *= 2
    seen = np.zeros(size, np.int32)
    keys = np.empty(count + 1, np.uint64)
    keys[0] = 0
    elements = characters = 0
    for i in range(count):
        if _find(keys, seen, size - 1, hashes[i]):
            elements += 1
            characters += lengths[i]
    return elements, characters


@numba.njit(cache=True)
def _gram(hashes, at, n):  # type: ignore[no-untyped-def]
    value = hashes[at]
    for i in range(at + 1, at + n):
        value = _mix(value) + hashes[i] * _PRIME
    return value


@numba.njit(cache=True)
def _ngrams(hashes, ends, count, row):  # type: ignore[no-untyped-def]
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
            slot = np.int64(_mix(gram) & np.uint64(mask))
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


@numba.njit(cache=True)
def _in_javascript(data, at, first, end):  # type: ignore[no-untyped-def]
    """Whether the v at `at` is that of "javascript"."""
    return at - 2 >= first and data[at - 2] | 32 == 106 and _matches(data, at - 1, end, _JAVASCRIPT)


@numba.njit(cache=True)
def _ends_policy(data, at, first, end):  # type: ignore[no-untyped-def]
    """Whether the space at `at` is within one of C4's policy phrases that begins after `first`."""
    third = data[at + 2] | 32
    following = data[at + 1] | 32
    if following == 112 and third == 111:
        return (at - 7 >= first and _matches(data, at - 7, end, _PRIVACY)) or (
            at - 6 >= first and _matches(data, at - 6, end, _COOKIE_POLICY)
        )
    if following == 99 and third == 111:
        return (
            (at - 4 >= first and _matches(data, at - 4, end, _USES))
            or (at - 6 >= first and _matches(data, at - 6, end, _USE_OF))
            or (at - 3 >= first and _matches(data, at - 3, end, _USE))
        )
    return third == 102 and at - 5 >= first and _matches(data, at - 5, end, _TERMS)


@numba.njit(cache=True)
def _document(data, start, end, table, stops, secret, row):  # type: ignore[no-untyped-def]
    hashes = np.empty(256, np.uint64)
    ends = np.empty(256, np.int64)
    tokens = 0
    token_characters = 0
    line_hashes = np.empty(64, np.uint64)
    line_lengths = np.empty(64, np.int64)
    full_hashes = np.empty(64, np.uint64)
    full_lengths = np.empty(64, np.int64)
    gopher_lines = full_lines = 0
    stop_seen = 0

    characters = 0  # of the document up to here
    line_start = start
    line_first = 0  # characters before the line
    word_first = 0  # characters before the current run without white space
    in_run = False
    runs = 0  # runs without white space in the line
    too_long = False
    javascript = policy = lorem = curly = False
    sentences = 0
    at = start
    while at <= end:
        if at < end:
            code, size = _character(data, at)
            kind = _class(table, code)
        else:
            code, size, kind = 10, 1, SPACE
        if kind & WORD:
            if not in_run:
                in_run = True
                runs += 1
                word_first = characters
            begin = characters
            value = np.uint64(0)
            kinds = np.uint8(0)
            while True:
                if size == 1:
                    javascript |= (code | 32) == 118 and _in_javascript(data, at, line_start, end)
                    value = value * _PRIME + np.uint64(code + 1)
                else:
                    for i in range(at, at + size):
                        value = value * _PRIME + np.uint64(data[i]) + np.uint64(1)
                kinds |= kind
                characters += 1
                at += size
                if at >= end:
                    break
                code = np.int64(data[at])
                if code < 0x80:
                    size = 1
                    kind = table[code]
                else:
                    code, size = _character(data, at)
                    kind = _class(table, code)
                if kind & WORD:
                    continue
                # A point or comma between two digits belongs to the number.
                number = (code == 46 or code == 44) and 48 <= data[at - 1] <= 57
                if number and at + 1 < end and 48 <= data[at + 1] <= 57:
                    continue
                break
            length = characters - begin
            row[_WORDS] += 1
            row[_WORD_CHARACTERS] += length
            row[_ALPHABETIC_WORDS] += kinds & ALPHABETIC != 0
            if 2 <= length <= 4:
                for i in range(len(stops)):
                    if value == stops[i]:
                        stop_seen |= 1 << i
            if tokens == len(hashes):
                hashes = _larger(hashes)
                ends = _larger(ends)
            token_characters += length
            hashes[tokens] = value
            ends[tokens] = token_characters
            tokens += 1
            continue
        if not kind & SPACE:
            if not in_run:
                in_run = True
                runs += 1
                word_first = characters
            value = np.uint64(0)
            first = at
            begin = characters
            while at < end:
                again, size = _character(data, at)
                if again != code:
                    break
                for i in range(at, at + size):
                    value = value * _PRIME + np.uint64(data[i]) + np.uint64(1)
                at += size
                characters += 1
            length = characters - begin
            row[_OTHER] += length
            if code == 35:
                row[_HASHES] += length
            elif code == 46:
                row[_ELLIPSES] += length // 3
            elif code == 0x2026:
                row[_ELLIPSES] += length
            elif code == 0xFFFD:
                row[_REPLACEMENTS] += length
            elif code == 123:
                curly = True
            if code == 46 or code == 33 or code == 63:
                after = at
                while after < end and (
                    data[after] == 34 or data[after] == 39 or data[after] == 41 or data[after] == 93
                ):
                    after += 1
                if after == end or data[after] == 32 or data[after] == 10 or data[after] == 9:
                    sentences += 1
            joined = False
            if (code == 39 or code == 0x2019) and length == 1 and first > start and at < end:
                before = _class(table, _last_character(data, first))
                after_code, _ = _character(data, at)
                joined = before & _class(table, after_code) & ALPHABETIC != 0
            if joined:
                while at < end:
                    again, size = _character(data, at)
                    kind = _class(table, again)
                    if not kind & WORD:
                        break
                    for i in range(at, at + size):
                        value = value * _PRIME + np.uint64(data[i]) + np.uint64(1)
                    at += size
                    characters += 1
                length = characters - begin
                row[_WORDS] += 1
                row[_WORD_CHARACTERS] += length
                row[_ALPHABETIC_WORDS] += 1
            if tokens == len(hashes):
                hashes = _larger(hashes)
                ends = _larger(ends)
            token_characters += length
            hashes[tokens] = value
            ends[tokens] = token_characters
            tokens += 1
            continue
        # White space, or the end of the document, which ends the last line.
        if in_run:
            in_run = False
            too_long |= characters - word_first > _LONGEST_C4_WORD
        if code == 32 and at + 2 < end:
            following = data[at + 1] | 32
            if following == 112 or following == 99 or following == 111:
                policy |= _ends_policy(data, at, line_start, end)
            elif following == 105 and at - 5 >= line_start:
                lorem |= _matches(data, at - 5, end, _IPSUM)
        if code != 10:
            at += size
            characters += 1
            continue
        # The line data[line_start:at].
        last = at == end
        length = characters - line_first
        if at > line_start or not last:
            row[_LINES] += 1
        hashed = np.uint64(0)
        if at > line_start:
            hashed, _ = xxh3_128(data, line_start, at - line_start, secret)
        # Gopher's repetition rules take runs of line ends as one; an empty line counts only at the ends.
        if at > line_start or line_start == start or last:
            if gopher_lines == len(line_hashes):
                line_hashes = _larger(line_hashes)
                line_lengths = _larger(line_lengths)
            line_hashes[gopher_lines] = hashed
            line_lengths[gopher_lines] = length
            gopher_lines += 1
        left, right = _trim(data, line_start, at, table)
        if right > left:
            opening, _ = _character(data, left)
            row[_BULLET_LINES] += opening == 45 or opening == 0x2022
            row[_ELLIPSIS_LINES] += _ends_with_ellipsis(data, left, right)
            if full_lines == len(full_hashes):
                full_hashes = _larger(full_hashes)
                full_lengths = _larger(full_lengths)
            full_hashes[full_lines] = hashed
            full_lengths[full_lines] = length
            full_lines += 1
            row[_TERMINAL_LINES] += _class(table, _last_character(data, at)) & TERMINAL != 0
            row[_SHORT_LINES] += length <= _SHORT_LINE
            stop = _without_citations(data, left, right)
            ending = data[stop - 1] if stop > left else 0
            ends_well = (
                ending == 46 or ending == 63 or ending == 33 or ending == 34 or ending == 39
            ) and not (ending == 46 and _ends_with_ellipsis(data, left, stop))
            if ends_well and not too_long and runs >= 3:
                row[_C4_LOREM_IPSUM] += lorem
                if javascript:
                    row[_C4_JAVASCRIPT_LINES] += 1
                else:
                    row[_C4_CURLY_BRACKET] += curly
                    if policy:
                        row[_C4_POLICY_LINES] += 1
                    else:
                        row[_C4_LINES] += 1
                        row[_C4_SENTENCES] += max(sentences, 1)
        runs = sentences = 0
        too_long = javascript = policy = lorem = curly = False
        if last:
            break
        row[_NEWLINES] += 1
        at += 1
        characters += 1
        line_start = at
        line_first = characters
    row[_CHARACTERS] = characters
    row[_TOKENS] = tokens
    for i in range(len(stops)):
        row[_STOP_WORDS] += (stop_seen >> i) & 1
    row[_GOPHER_LINES] = gopher_lines
    row[_DUPLICATE_LINES], row[_DUPLICATE_LINE_CHARACTERS] = _duplicates(
        line_hashes, line_lengths, gopher_lines
    )
    row[_FULL_LINES] = full_lines
    _, row[_DUPLICATE_FULL_LINE_CHARACTERS] = _duplicates(full_hashes, full_lengths, full_lines)
    _ngrams(hashes, ends, tokens, row)


@numba.njit(cache=True)
def _paragraphs(data, start, end, table, secret, row):  # type: ignore[no-untyped-def]
    """Paragraphs are what lies between runs of two or more line ends, white space at the ends removed."""
    start, end = _trim(data, start, end, table)
    hashes = np.empty(64, np.uint64)
    lengths = np.empty(64, np.int64)
    count = 0
    first = at = start
    characters = 0
    while at <= end:
        if at == end or (data[at] == 10 and at + 1 < end and data[at + 1] == 10):
            if count == len(hashes):
                hashes = _larger(hashes)
                lengths = _larger(lengths)
            hashes[count], _ = xxh3_128(data, first, at - first, secret)
            lengths[count] = characters
            count += 1
            while at < end and data[at] == 10:
                at += 1
            first = at
            characters = 0
            if at == end:
                break
            continue
        characters += data[at] & 0xC0 != 0x80
        at += 1
    row[_PARAGRAPHS] = count
    row[_DUPLICATE_PARAGRAPHS], row[_DUPLICATE_PARAGRAPH_CHARACTERS] = _duplicates(hashes, lengths, count)


@numba.njit(cache=True, nogil=True)
def measure_all(data, offsets, table, stops, secret, out):  # type: ignore[no-untyped-def]
    """Fill out (int64, documents × COLUMNS, zeros) with the counts of every document."""
    for row in range(len(out)):
        _document(data, offsets[row], offsets[row + 1], table, stops, secret, out[row])
        _paragraphs(data, offsets[row], offsets[row + 1], table, secret, out[row])


def counts(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The counts named by COLUMNS of each document: int64, documents × columns."""
    out = np.zeros((len(offsets) - 1, len(COLUMNS)), np.int64)
    measure_all(data, offsets, classes(), _STOP_HASHES, _SECRET, out)
    return out
