"""Boilerplate: lines or paragraphs that many documents of one source hold.

A line is what stands between line feeds, a paragraph what stands between two line feeds or more;
ASCII white space at its ends does not count. Its *key* is 64 bits: xxh3 of its bytes, mixed with the hash of
the source's name, so that one sorted array of keys tells for all sources what to remove. Two different lines
share a key with probability 2^-64; then both are removed if both together reach the limit.
"""

import numpy as np
import pyarrow as pa

from base import files
from base.kernels import kernel
from dedup import catalog as catalogs
from dedup import hashing, runs
from dedup.catalog import Catalog
from dedup.config import LinesConfig
from dedup.hashing import keep_distinct, mix64, xxh3_128


@kernel
def _segment(data: np.ndarray, p: int, end: int, paragraph: bool) -> tuple[int, int]:
    """(end of the segment that starts at p, start of the next one)."""
    q = p
    while q < end:
        if data[q] != 10:
            q += 1
            continue
        if not paragraph:
            return q, q + 1
        r = q
        while r < end and data[r] == 10:
            r += 1
        if r - q > 1:
            return q, r
        q = r
    return end, end


@kernel
def _key(
    data: np.ndarray, a: int, b: int, least: int, salt: np.uint64, secret: np.ndarray
) -> tuple[bool, np.uint64]:
    """(whether the segment has a key, key)."""
    while a < b and data[a] <= 32:
        a += 1
    while b > a and data[b - 1] <= 32:
        b -= 1
    if b - a < least:
        return False, np.uint64(0)
    low, _ = xxh3_128(data, a, b - a, secret)
    return True, mix64(low ^ salt)


@kernel
def _document_keys(
    data: np.ndarray,
    offsets: np.ndarray,
    salts: np.ndarray,
    paragraph: bool,
    least: int,
    secret: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """The distinct keys of each document, sorted in each; counts[i] of document i."""
    keys = np.empty(1024, np.uint64)
    used = 0
    for document in range(len(offsets) - 1):
        p, end = offsets[document], offsets[document + 1]
        first = used
        while p < end:
            stop, following = _segment(data, p, end, paragraph)
            there, key = _key(data, p, stop, least, salts[document], secret)
            if there:
                if used == len(keys):
                    keys = np.concatenate((keys, np.empty(used, np.uint64)))
                keys[used] = key
                used += 1
            p = following
        keys[first:used].sort()
        used = keep_distinct(keys, first, used)
        counts[document] = used - first
    return keys[:used]


@kernel
def _remove(
    data: np.ndarray,
    offsets: np.ndarray,
    salts: np.ndarray,
    paragraph: bool,
    least: int,
    secret: np.ndarray,
    keys: np.ndarray,
    out: np.ndarray,
    out_offsets: np.ndarray,
) -> int:
    used = 0
    for document in range(len(offsets) - 1):
        p, end = offsets[document], offsets[document + 1]
        first = used
        gone = False
        while p < end:
            stop, following = _segment(data, p, end, paragraph)
            there, key = _key(data, p, stop, least, salts[document], secret)
            if there:
                at = np.searchsorted(keys, key)
                there = at < len(keys) and keys[at] == key
            if there:
                gone = True
            else:
                for i in range(p, following):
                    out[used] = data[i]
                    used += 1
            p = following
        # A separator that stood before a removed end would be left over.
        if gone and data[end - 1] != 10:
            while used > first and out[used - 1] == 10:
                used -= 1
        out_offsets[document + 1] = used
    return used


def salts(source: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """What the keys of each document's source are mixed with, uint64, from a string column of sources."""
    encoded = hashing.one_array(source.cast(pa.string())).dictionary_encode()
    high, _ = hashing.id_words(hashing.hash128(encoded.dictionary))
    salt: np.ndarray = high[encoded.indices.to_numpy()] if len(encoded) else np.empty(0, np.uint64)
    return salt


def document_keys(
    text: pa.Array | pa.ChunkedArray, salt: np.ndarray, config: LinesConfig
) -> tuple[np.ndarray, np.ndarray]:
    """(counts int64 (n,), keys uint64): the distinct keys of every document, document after document."""
    data, offsets = hashing.string_buffers(text)
    counts = np.empty(len(offsets) - 1, np.int64)
    keys = _document_keys(
        data, offsets, salt, config.unit == "paragraph", config.min_bytes, hashing.secret_words(), counts
    )
    return counts, keys


def remove_lines(
    text: pa.Array | pa.ChunkedArray, salt: np.ndarray, keys: np.ndarray, config: LinesConfig
) -> tuple[pa.LargeStringArray, np.ndarray]:
    """(texts without the lines whose key is in the sorted uint64 `keys`, bytes removed int64 (n,)).

    A line goes with its line feed, a paragraph with the line feeds after it. A text may become empty. salt is
    as `salts` gives it. The bytes of texts that hold none of them are the same.
    """
    data, offsets = hashing.string_buffers(text)
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    out_offsets = np.zeros(len(offsets), np.int64)
    used = _remove(
        data,
        offsets,
        salt,
        config.unit == "paragraph",
        config.min_bytes,
        hashing.secret_words(),
        keys,
        out,
        out_offsets,
    )
    buffers = [None, pa.py_buffer(out_offsets), pa.py_buffer(out[:used])]
    result = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
    return result, np.diff(offsets) - np.diff(out_offsets)


def write_run(
    catalog: Catalog, group: int, dropped: list[str], bits: int, config: LinesConfig, output: str
) -> None:
    """Route the keys of the documents of a group that are in no `dropped` run by prefix.

    Columns: key, documents (of this group that hold it), ref (the smallest of them). Needs about 24 bytes a
    distinct key of the group and the keys of a part.
    """
    table = catalogs.survivors(catalog, group, dropped, ["source"])
    refs, salt = table["ref"].to_numpy(), salts(table["source"])
    keys, documents, firsts = np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.uint64)
    for number in catalog.parts_of(group):
        mine = (refs >> np.uint64(32)) == number
        if not mine.any():
            continue
        wanted, salted = refs[mine], salt[mine]
        pieces, owners = [keys], [firsts]
        for texts in catalogs.text_batches(catalog, wanted):
            counts, more = document_keys(texts, salted[: len(texts)], config)
            pieces.append(more)
            owners.append(np.repeat(wanted[: len(texts)], counts))
            wanted, salted = wanted[len(texts) :], salted[len(texts) :]
        new = sum(map(len, pieces[1:]))
        keys, documents, firsts = _combine(
            np.concatenate(pieces),
            np.concatenate([documents, np.ones(new, np.int64)]),
            np.concatenate(owners),
        )
    result = pa.table({"key": keys, "documents": documents, "ref": firsts})
    runs.write_run(output, [(result, hashing.prefix(keys, bits))])


def _combine(
    keys: np.ndarray, documents: np.ndarray, refs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum of documents and least ref of every distinct key, sorted by key."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    if len(starts) == 0:
        return keys, documents, refs
    return (
        keys[starts],
        np.add.reduceat(documents[order], starts),
        np.minimum.reduceat(refs[order], starts),
    )


def find(catalog: Catalog, run_urls: list[str], prefix: int, config: LinesConfig, output: str) -> None:
    """Write the keys of one prefix that `config.min_documents` documents hold: key, documents, ref."""
    assert config.min_documents is not None
    table = runs.read_partitions(run_urls, [prefix])
    columns = (table[name].to_numpy() for name in ("key", "documents", "ref"))
    keys, documents, refs = _combine(*columns)
    often = documents >= config.min_documents
    boilerplate = pa.table({"key": keys[often], "documents": documents[often], "ref": refs[often]})
    files.write_parquet(output, boilerplate)


def read_keys(urls: list[str]) -> np.ndarray:
    """The sorted keys of the outputs of `find`, for `remove_lines`; 8 bytes each."""
    tables = [files.read_parquet(url, ["key"])["key"].to_numpy() for url in urls]
    return np.sort(np.concatenate([np.empty(0, np.uint64), *tables]))
