"""Exact-substring removal: spans of many tokens that also stand earlier in the corpus.

A token is a sequence of bytes above 32, that is of anything but ASCII white space; only tokens are compared,
byte by byte. Documents are in order of ref (part name, row). A token is removed when it lies in `tokens`
consecutive tokens that also begin at an earlier place of the corpus, so that every removed token still stands
at the earliest of its places. (Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better",
remove what a suffix array finds; here nothing needs all text at once.)

Places are found by winnowing (Schleimer, Wilkerson, Aiken 2003): of every `tokens` consecutive tokens, the
rightmost of their (tokens / 2)-grams with the least hash is a fingerprint, so that equal spans have one in
common. About 4 in `tokens` tokens begin one, and documents that share one are compared. What is removed is
always repeated. All that is repeated is found as long as no fingerprint has more than `ALL_PAIRS` places; in
larger buckets each place is compared with the first and the previous `NEIGHBOURS`.

Memory: 20 bytes a fingerprint of a group when routing, about 60 of a partition when pairing, and when
comparing 40 bytes a pair of a group; the texts that are compared go through a temporary file.
"""

import numpy as np
import pyarrow as pa

from base import files
from base.kernels import kernel
from dedup import catalog as catalogs
from dedup import hashing, runs
from dedup.candidates import ALL_PAIRS, NEIGHBOURS
from dedup.catalog import Catalog
from dedup.hashing import mix64, xxh3_128
from dedup.spool import spooled
from dedup.words import POLYNOMIAL_BASE


@kernel
def _fingerprints(
    data: np.ndarray, offsets: np.ndarray, tokens: int, secret: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, byte in the document of the first token) of each document's fingerprints."""
    gram = tokens // 2
    width = tokens - gram + 1
    power = np.uint64(1)
    for _ in range(gram):
        power *= POLYNOMIAL_BASE
    hashes = np.empty(1024, np.uint64)
    places = np.empty(1024, np.uint32)
    used = 0
    token_hash = np.zeros(gram, np.uint64)
    token_at = np.zeros(gram, np.int64)
    gram_hash = np.zeros(width, np.uint64)
    gram_at = np.zeros(width, np.int64)
    for document in range(len(offsets) - 1):
        start, end = offsets[document], offsets[document + 1]
        first = used
        rolling = np.uint64(0)
        seen = 0
        least = -1
        p = start
        while p < end:
            if data[p] <= 32:
                p += 1
                continue
            q = p + 1
            while q < end and data[q] > 32:
                q += 1
            h, _ = xxh3_128(data, p, q - p, secret)
            slot = seen % gram
            rolling = rolling * POLYNOMIAL_BASE + h
            if seen >= gram:
                rolling -= token_hash[slot] * power
            token_hash[slot] = h
            token_at[slot] = p - start
            seen += 1
            p = q
            if seen < gram:
                continue
            number = seen - gram
            gram_hash[number % width] = mix64(rolling)
            gram_at[number % width] = token_at[seen % gram]
            if number < width - 1:
                continue
            before = least
            if least < 0 or least <= number - width:
                least = number - width + 1
                for i in range(number - width + 2, number + 1):
                    if gram_hash[i % width] <= gram_hash[least % width]:
                        least = i
            elif gram_hash[number % width] <= gram_hash[least % width]:
                least = number
            if least != before:
                if used == len(hashes):
                    hashes = np.concatenate((hashes, np.empty(used, np.uint64)))
                    places = np.concatenate((places, np.empty(used, np.uint32)))
                hashes[used] = gram_hash[least % width]
                places[used] = gram_at[least % width]
                used += 1
        counts[document] = used - first
    return hashes[:used], places[:used]


@kernel
def _pairs(hashes: np.ndarray, all_pairs: int, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """(earlier row, later row) of the places to compare; rows are sorted by (hash, ref, place)."""
    left = np.empty(1024, np.int64)
    right = np.empty(1024, np.int64)
    used = 0
    start = 0
    while start < len(hashes):
        end = start
        while end < len(hashes) and hashes[end] == hashes[start]:
            end += 1
        for i in range(start + 1, end):
            head = i if end - start <= all_pairs else min(i, start + neighbours)
            tail = max(head, i - neighbours)
            for k in range((head - start) + (i - tail)):
                if used == len(left):
                    left = np.concatenate((left, np.empty(used, np.int64)))
                    right = np.concatenate((right, np.empty(used, np.int64)))
                left[used] = start + k if start + k < head else tail + k - (head - start)
                right[used] = i
                used += 1
        start = end
    return left[:used], right[:used]


@kernel
def _extend(
    data: np.ndarray, a: int, a_start: int, a_end: int, b: int, b_start: int, b_end: int
) -> tuple[int, int, int, int, int]:
    """The longest sequence of equal tokens around a and b: tokens, then first byte and end at a, and at b."""
    first_a, first_b, tokens = a, b, 0
    p, q = a, b
    last_a, last_b = a, b
    while True:
        while p < a_end and data[p] <= 32:
            p += 1
        while q < b_end and data[q] <= 32:
            q += 1
        if p == a_end or q == b_end:
            break
        while p < a_end and q < b_end and data[p] > 32 and data[p] == data[q]:
            p += 1
            q += 1
        if (p < a_end and data[p] > 32) or (q < b_end and data[q] > 32):
            break
        tokens += 1
        last_a, last_b = p, q
    p, q = a, b
    while True:
        while p > a_start and data[p - 1] <= 32:
            p -= 1
        while q > b_start and data[q - 1] <= 32:
            q -= 1
        if p == a_start or q == b_start:
            break
        while p > a_start and q > b_start and data[p - 1] > 32 and data[p - 1] == data[q - 1]:
            p -= 1
            q -= 1
        if (p > a_start and data[p - 1] > 32) or (q > b_start and data[q - 1] > 32):
            break
        tokens += 1
        first_a, first_b = p, q
    return tokens, first_a, last_a, first_b, last_b


@kernel
def _matches(
    data: np.ndarray,
    offsets: np.ndarray,
    one: np.ndarray,
    one_at: np.ndarray,
    other: np.ndarray,
    other_at: np.ndarray,
    tokens: int,
    starts: np.ndarray,
    ends: np.ndarray,
) -> None:
    """The span in document `one[i]`, in bytes of it, that pair i proves repeated; empty if it is too short.

    Pairs are sorted by (one, other, place), so that one within the last span at the same distance is known.
    """
    known = -1
    for i in range(len(one)):
        a_start, a_end = offsets[one[i]], offsets[one[i] + 1]
        b_start, b_end = offsets[other[i]], offsets[other[i] + 1]
        if known >= 0 and one[known] == one[i] and other[known] == other[i]:
            same = one_at[i] - one_at[known] == other_at[i] - other_at[known]
            if same and starts[known] <= one_at[i] < ends[known]:
                starts[i], ends[i] = starts[known], starts[known]
                continue
        count, first, last, _, _ = _extend(
            data, a_start + one_at[i], a_start, a_end, b_start + other_at[i], b_start, b_end
        )
        if count < tokens:
            starts[i], ends[i] = 0, 0
            continue
        # The white space after the span goes with it.
        while last < a_end and data[last] <= 32:
            last += 1
        starts[i], ends[i] = first - a_start, last - a_start
        known = i


@kernel
def _remove(
    data: np.ndarray,
    offsets: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    out: np.ndarray,
    out_offsets: np.ndarray,
) -> int:
    used = 0
    span = 0
    for document in range(len(offsets) - 1):
        p, end = offsets[document], offsets[document + 1]
        while span < len(rows) and rows[span] == document:
            stop = offsets[document] + starts[span]
            while p < stop:
                out[used] = data[p]
                used += 1
                p += 1
            p = offsets[document] + ends[span]
            span += 1
        while p < end:
            out[used] = data[p]
            used += 1
            p += 1
        out_offsets[document + 1] = used
    return used


def fingerprints(text: pa.Array | pa.ChunkedArray, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(counts int64 (n,), hashes uint64, places uint32): the fingerprints of each document, in order.

    A place is the byte of the document where the fingerprint's first token starts.
    """
    data, offsets = hashing.string_buffers(text)
    counts = np.empty(len(offsets) - 1, np.int64)
    hashes, places = _fingerprints(data, offsets, tokens, hashing.secret_words(), counts)
    return counts, hashes, places


def remove_spans(
    text: pa.Array | pa.ChunkedArray, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[pa.LargeStringArray, np.ndarray]:
    """(texts without the spans, bytes removed int64 (n,)).

    rows, starts, ends: row of `text` and byte range in it of each span, sorted, spans apart from each other,
    as `of_part` gives them for a whole documents file.
    """
    data, offsets = hashing.string_buffers(text)
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    out_offsets = np.zeros(len(offsets), np.int64)
    spans = (column.astype(np.int64) for column in (rows, starts, ends))
    used = _remove(data, offsets, *spans, out, out_offsets)
    buffers = [None, pa.py_buffer(out_offsets), pa.py_buffer(out[:used])]
    result = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
    return result, np.diff(offsets) - np.diff(out_offsets)


def write_run(catalog: Catalog, group: int, dropped: list[str], bits: int, tokens: int, output: str) -> None:
    """Route the fingerprints of the documents of a group that are in no `dropped` run: hash, ref, place."""
    refs = catalogs.survivors(catalog, group, dropped, [])["ref"].to_numpy()
    hashes, owners, places = [np.empty(0, np.uint64)], [refs[:0]], [np.empty(0, np.uint32)]
    for number in catalog.parts_of(group):
        mine = refs[(refs >> np.uint64(32)) == number]
        for texts in catalogs.text_batches(catalog, mine):
            counts, more, at = fingerprints(texts, tokens)
            hashes.append(more)
            places.append(at)
            owners.append(np.repeat(mine[: len(counts)], counts))
            mine = mine[len(counts) :]
    columns = [np.concatenate(column) for column in (hashes, owners, places)]
    runs.write_run(output, [(pa.table(columns, ["hash", "ref", "place"]), hashing.prefix(columns[0], bits))])


def pair(catalog: Catalog, run_urls: list[str], prefix: int, output: str) -> None:
    """Write the places of one prefix to compare by group of the later: ref, place, other, other_place."""
    table = runs.read_partitions(run_urls, [prefix])
    hashes, refs, places = (table[name].to_numpy() for name in ("hash", "ref", "place"))
    order = np.argsort(hashes)
    hashes = hashes[order]
    twice = np.zeros(len(order) + 1, np.bool_)
    twice[1:-1] = hashes[1:] == hashes[:-1]
    order = order[twice[1:] | twice[:-1]]
    order = order[np.lexsort((places[order], refs[order], table["hash"].to_numpy()[order]))]
    left, right = _pairs(table["hash"].to_numpy()[order], ALL_PAIRS, NEIGHBOURS)
    left, right = order[left], order[right]
    result = pa.table(
        {"ref": refs[right], "place": places[right], "other": refs[left], "other_place": places[left]}
    )
    runs.write_run(output, [(result, catalog.group_of(refs[right]))])


def find(catalog: Catalog, pair_urls: list[str], group: int, tokens: int, output: str) -> None:
    """Write the repeated spans of the documents of a group: ref, start, end (bytes), sorted, apart."""
    table = runs.read_partitions(pair_urls, [group])
    refs, places, others, other_places = (table[name].to_numpy() for name in table.column_names)
    order = np.lexsort((other_places, places, others, refs))
    refs, places, others, other_places = (c[order] for c in (refs, places, others, other_places))
    starts, ends = np.zeros(len(refs), np.int64), np.zeros(len(refs), np.int64)
    known = np.unique(np.concatenate([refs, others]))
    texts = (hashing.string_buffers(batch) for batch in catalogs.text_batches(catalog, known))
    with spooled(texts, len(known), np.uint8) as (data, offsets):
        _matches(
            data,
            offsets,
            np.searchsorted(known, refs),
            places.astype(np.int64),
            np.searchsorted(known, others),
            other_places.astype(np.int64),
            tokens,
            starts,
            ends,
        )
    real = ends > starts
    refs, starts, ends = _union(refs[real], starts[real], ends[real])
    files.write_parquet(
        output, pa.table({"ref": refs, "start": starts.astype(np.uint32), "end": ends.astype(np.uint32)})
    )


def of_part(url: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, starts, ends) of the part with a number in the catalog, from what `find` wrote."""
    table = files.read_parquet(url)
    mine = (table["ref"].to_numpy() >> np.uint64(32)) == number
    rows = table["ref"].to_numpy()[mine] & np.uint64(0xFFFFFFFF)
    return rows.astype(np.int64), table["start"].to_numpy()[mine], table["end"].to_numpy()[mine]


@kernel
def _merge(refs: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> int:
    used = 0
    for i in range(len(refs)):
        if used and refs[used - 1] == refs[i] and starts[i] <= ends[used - 1]:
            ends[used - 1] = max(ends[used - 1], ends[i])
        else:
            refs[used], starts[used], ends[used] = refs[i], starts[i], ends[i]
            used += 1
    return used


def _union(
    refs: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlapping and touching spans of each ref joined."""
    order = np.lexsort((starts, refs))
    refs, starts, ends = refs[order], starts[order], ends[order]
    used = _merge(refs, starts, ends)
    return refs[:used], starts[:used], ends[:used]
