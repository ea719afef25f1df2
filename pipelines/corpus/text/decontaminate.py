r"""Benchmark items in documents, by word n-grams (Brown et al. 2020, "Language Models are Few-Shot Learners",
appendix C, which uses 8 to 13 words).

Words are those of dedup/words.py, so punctuation, white space and case do not matter. A *passage* is one
text field of one benchmark item (or its configured fields joined). Its n-grams are all runs of `ngram`
consecutive words; a passage of fewer words, but at least `min_words`, has its whole word sequence as its one
n-gram, and a shorter one is not looked for. An n-gram of more than `max_items` items of one benchmark (the
boilerplate of its test code) names no item and is left out, and so is one without a letter: "1 2 3 …" and
rows of zeros are everywhere.

N-grams are compared by their 64-bit hashes: of 10^12 words of text and 10^6 benchmark n-grams the expected
number of chance matches is 0.05, so a match is not looked at again.
"""

import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from base import files
from base.errors import UserError
from base.kernels import decode, inlined, kernel
from dedup.hashing import mix64, string_buffers
from dedup.words import (
    ALONE,
    CUT,
    DOT_ABOVE,
    DOTTED_I,
    FINAL_SIGMA,
    LOWER,
    PASSED,
    POLYNOMIAL_BASE,
    SIGMA,
    WORD,
    WORD_PRIME,
    WORD_SEED,
    code_points,
    sigma_is_final,
    unspaced_word,
)
from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.ingest import UnknownFormat, file_format
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.text.settings import BenchmarkConfig, DecontaminateConfig
from pipelines.corpus.text.splice import splice

log = logging.getLogger(__name__)

_UNREADABLE = (
    decompress.DamagedFile,
    UnknownFormat,
    pa.ArrowException,
    OSError,
    ValueError,
    RecursionError,
)
"""What files that are no benchmark raise when they are read."""
_CHUNK_WORDS = 4096
_PASSAGES = pa.schema(
    [
        ("benchmark", pa.string()),
        ("item", pa.int64()),
        ("field", pa.string()),
        ("words", pa.int32()),
        ("last_two", pa.uint64()),
        ("ngrams", pa.list_(pa.uint64())),
    ]
)
HITS = pa.schema(
    [
        ("row", pa.int64()),
        ("benchmark", pa.string()),
        ("item", pa.int64()),
        ("field", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("ngrams", pa.int32()),
        ("passage_ngrams", pa.int32()),
        ("removed", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """The n-grams of all passages, as a probe needs them.

    passages: benchmark, item (0-based record number over the benchmark's files), field, words (length of its
    n-grams), last_two (hash of its last two words), ngrams (distinct hashes). hashes: sorted distinct uint64
    (h). Passages owners[i] for i in owner_offsets[k]:owner_offsets[k + 1] have hashes[k]. lengths: n-gram
    lengths in use, descending. bloom: of the hashes; gate: of the last two words of passages whose n-gram is
    not of the greatest length; both uint64 words of blocked Bloom filters, powers of two. digest: 16 hex
    digits of all that.
    """

    passages: pa.Table
    hashes: np.ndarray
    owner_offsets: np.ndarray
    owners: np.ndarray
    lengths: np.ndarray
    bloom: np.ndarray
    gate: np.ndarray
    digest: str

    @property
    def items(self) -> dict[str, int]:
        """Number of items with an n-gram to look for, by benchmark."""
        distinct = self.passages.group_by(["benchmark", "item"]).aggregate([])
        counts = distinct.group_by("benchmark").aggregate([("item", "count")])
        return {row["benchmark"]: row["item_count"] for row in counts.to_pylist()}


def load_benchmarks(config: DecontaminateConfig) -> Benchmarks:
    """Read the configured benchmark files and hash their n-grams.

    Raises UserError for a benchmark without files, or whose records lack a configured field.
    """
    names, items, fields, texts = [], [], [], []
    for benchmark in config.benchmarks:
        for item, record in enumerate(_records(benchmark)):
            for field, text in _passages(benchmark, item, record):
                names.append(benchmark.name)
                items.append(item)
                fields.append(field)
                texts.append(text)
    offsets, ngrams, words, last_two = _passage_ngrams(pa.array(texts, pa.large_string()), config)
    passages = pa.table(
        {
            "benchmark": pa.array(names, pa.string()),
            "item": pa.array(items, pa.int64()),
            "field": pa.array(fields, pa.string()),
            "words": pa.array(words, pa.int32()),
            "last_two": pa.array(last_two, pa.uint64()),
            "ngrams": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ngrams, pa.uint64())),
        },
        schema=_PASSAGES,
    )
    _warn_of_short_items(passages)
    passages = _without_boilerplate(passages, config.max_items)
    return _index(passages.filter(pa.compute.greater(pa.compute.list_value_length(passages["ngrams"]), 0)))


def _warn_of_short_items(passages: pa.Table) -> None:
    """Say of each benchmark how many of its items have no passage that is long enough to be looked for."""
    long = pa.compute.greater(pa.compute.list_value_length(passages["ngrams"]), 0)
    table = passages.select(["benchmark", "item"]).append_column("long", long)
    items = table.group_by(["benchmark", "item"]).aggregate([("long", "any")])
    for name in pa.compute.unique(items["benchmark"]).to_pylist():
        mine = items.filter(pa.compute.equal(items["benchmark"], name))["long_any"]
        short = len(mine) - (pa.compute.sum(mine).as_py() or 0)
        if short:
            log.warning(
                "benchmark %s: %d of %d items have too few words to be looked for (decontaminate.min_words)",
                *(name, short, len(mine)),
            )


def check(config: DecontaminateConfig) -> None:
    """Raise UserError for a benchmark without files, or whose first record lacks a configured field."""
    for benchmark in config.benchmarks:
        for record in itertools.islice(_records(benchmark), 1):
            _passages(benchmark, 0, record)


def write_benchmarks(benchmarks: Benchmarks, url: str) -> None:
    """Write one parquet file from which `read_benchmarks` makes the same benchmarks; atomic."""
    files.write_parquet(url, benchmarks.passages)


def read_benchmarks(url: str) -> Benchmarks:
    """What `write_benchmarks` wrote."""
    return _index(files.read_parquet(url).cast(_PASSAGES))


def _records(benchmark: BenchmarkConfig) -> Iterator[Any]:
    """The records of a benchmark's files in order: JSON values, rows of parquet, or whole texts."""
    urls = [url for pattern in benchmark.urls for url in files.list_files(pattern)]
    if not urls:
        raise UserError(f"benchmark {benchmark.name} has no files at {', '.join(benchmark.urls)}")
    for url in urls:
        try:
            yield from _records_of(url, benchmark.name)
        except _UNREADABLE as error:
            problem = "it is neither jsonl, parquet nor text" if isinstance(error, UnknownFormat) else error
            raise UserError(
                f"decontaminate.benchmarks: {url} of benchmark {benchmark.name} cannot be read: {problem}"
            ) from None


def _records_of(url: str, name: str) -> Iterator[Any]:
    """The records of one file of the benchmark `name`. Raises UserError or one of _UNREADABLE."""
    if damage := decompress.unread(url):
        raise damage
    kind = file_format(url, SourceConfig(name="benchmark", urls=[url])).name
    if kind == "parquet":
        with decompress.open_file(url) as file:
            yield from pq.read_table(file).to_pylist()
    elif kind == "text":
        yield {"text": b"".join(decompress.pieces(url)).decode()}
    elif kind == "jsonl":
        content = b"".join(decompress.pieces(url)).decode("utf-8-sig")
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise UserError(
                        f"benchmark {name}: line {number} of {url} is not JSON: {error}"
                    ) from None
    else:
        raise ValueError(f"it is {kind}; give jsonl, parquet or text")


def _passages(benchmark: BenchmarkConfig, item: int, record: Any) -> list[tuple[str, str]]:
    """(field, text) of a record's passages."""
    found = dict(_strings("", record))
    if not benchmark.fields:
        return list(found.items())
    missing = [field for field in benchmark.fields if field not in found]
    if missing:
        known = ", ".join(found) or "none"
        raise UserError(
            f"benchmark {benchmark.name}: item {item} has no text field {missing[0]}; "
            f"its text fields are {known}"
        )
    return [("+".join(benchmark.fields), "\n".join(found[field] for field in benchmark.fields))]


def _strings(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """(dotted path, string) of every string below `value`; a list of strings counts as one."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and value and all(isinstance(inner, str) for inner in value):
        yield path, "\n".join(value)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _strings(f"{path}.{number}", inner)


def _passage_ngrams(texts: pa.LargeStringArray, config: DecontaminateConfig) -> tuple[np.ndarray, ...]:
    """(offsets, sorted distinct n-gram hashes, words of an n-gram, hash of the last two words) of texts."""
    data, offsets = string_buffers(texts)
    table, ascii_words = code_points()
    n = config.ngram
    hashes: list[np.ndarray] = []
    words = np.zeros(len(texts), np.int32)
    last_two = np.zeros(len(texts), np.uint64)
    content = data.tobytes()
    for row in range(len(texts)):
        start, end = offsets[row], offsets[row + 1]
        room = max(1, end - start)
        found, starts, ends = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
        _, count = _words(data, start, start, end, table, ascii_words, found, starts, ends, 0)
        words[row] = min(n, count)
        if count < min(n, config.min_words):
            hashes.append(found[:0])
            continue
        last_two[row] = _pair(found[count - 2], found[count - 1])
        letters = np.array(
            [not content[s:e].isdigit() for s, e in zip(starts[:count], ends[:count], strict=True)]
        )
        hashes.append(np.unique(_roll(found[:count], letters, words[row])))
    ends = np.cumsum([0, *(len(values) for values in hashes)])
    return ends, np.concatenate([np.empty(0, np.uint64), *hashes]), words, last_two


def _without_boilerplate(passages: pa.Table, max_items: int) -> pa.Table:
    """Passages less the n-grams that more than `max_items` items of the same benchmark have."""
    owners, hashes = _flat(passages)
    benchmark = passages["benchmark"].combine_chunks().dictionary_encode().indices.to_numpy()[owners]
    item = passages["item"].to_numpy()[owners]
    order = np.lexsort((item, hashes, benchmark))
    benchmark, item, sorted_hashes = benchmark[order], item[order], hashes[order]
    group = np.ones(len(order), np.bool_)
    group[1:] = (benchmark[1:] != benchmark[:-1]) | (sorted_hashes[1:] != sorted_hashes[:-1])
    new_item = group.copy()
    new_item[1:] |= item[1:] != item[:-1]
    number = np.cumsum(group) - 1
    keep = np.empty(len(order), np.bool_)
    keep[order] = np.bincount(number, new_item)[number] <= max_items
    offsets = np.zeros(passages.num_rows + 1, np.int32)
    np.cumsum(np.bincount(owners[keep], minlength=passages.num_rows), out=offsets[1:])
    ngrams = pa.ListArray.from_arrays(pa.array(offsets), pa.array(hashes[keep]))
    return passages.set_column(_PASSAGES.get_field_index("ngrams"), _PASSAGES.field("ngrams"), ngrams)


def _flat(passages: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(passage, hash) of every n-gram of every passage."""
    ngrams = passages["ngrams"].combine_chunks()
    lengths = pa.compute.list_value_length(ngrams).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths), ngrams.flatten().to_numpy()


def _index(passages: pa.Table) -> Benchmarks:
    passages = passages.combine_chunks()
    owners, flat = _flat(passages)
    order = np.lexsort((owners, flat))
    hashes, counts = np.unique(flat[order], return_counts=True)
    words = passages["words"].to_numpy()
    lengths = np.unique(words)[::-1].astype(np.int64)
    shorter = passages["last_two"].to_numpy()[words < words.max(initial=0)]
    digest = xxhash.xxh3_64(flat.tobytes())
    digest.update(json.dumps(passages.drop_columns(["ngrams"]).to_pydict()).encode())
    return Benchmarks(
        passages=passages,
        hashes=hashes,
        owner_offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        owners=owners[order],
        lengths=lengths,
        bloom=_bloom(hashes),
        gate=_bloom(shorter),
        digest=digest.hexdigest(),
    )


@inlined
def _bloom_mask(h: np.uint64) -> np.uint64:
    """Two of the 64 bits of a hash's word."""
    return (np.uint64(1) << (h & np.uint64(63))) | (np.uint64(1) << ((h >> np.uint64(6)) & np.uint64(63)))


@kernel
def _fill_bloom(bloom: np.ndarray, hashes: np.ndarray) -> None:
    last = np.uint64(len(bloom) - 1)
    for h in hashes:
        bloom[(h >> np.uint64(12)) & last] |= _bloom_mask(h)


def _bloom(hashes: np.ndarray) -> np.ndarray:
    """A blocked Bloom filter of at least 32 bits a hash."""
    bits = max(6, int(np.ceil(np.log2(max(len(hashes), 1) / 2))))
    bloom = np.zeros(2**bits, np.uint64)
    _fill_bloom(bloom, hashes)
    return bloom


@inlined
def _may_have(bloom: np.ndarray, h: np.uint64) -> Any:
    mask = _bloom_mask(h)
    return bloom[(h >> np.uint64(12)) & np.uint64(len(bloom) - 1)] & mask == mask


@kernel
def _position(hashes: np.ndarray, h: np.uint64) -> Any:
    """Index of h in sorted hashes, or -1."""
    at = np.searchsorted(hashes, h)
    return at if at < len(hashes) and hashes[at] == h else -1


@inlined
def _pair(first: np.uint64, second: np.uint64) -> Any:
    return mix64(first * POLYNOMIAL_BASE + second)


@kernel
def _words(
    data: np.ndarray,
    start: int,
    p: int,
    end: int,
    table: np.ndarray,
    ascii_words: np.ndarray,
    hashes: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    filled: int,
) -> tuple[int, int]:
    """Append words from byte p on until the arrays are full or the text ends; returns (next byte, words).

    A word's hash, and its first and last byte + 1.
    """
    h = WORD_SEED
    first = p
    while p < end:
        c = ascii_words[data[p]]
        at = p
        if c != 255:
            p += 1
            if c != 0:
                if h == WORD_SEED:
                    first = at
                h = (h ^ np.uint64(c)) * WORD_PRIME
                continue
        else:
            code, size = decode(data, p)
            flags = table[code]
            if flags & (ALONE | CUT):
                if h == WORD_SEED:
                    first = p
                    h, p = unspaced_word(data, p, end, table)
                    at = p
            else:
                p += size
                if flags & PASSED:
                    continue
            if flags & WORD and not flags & (ALONE | CUT):
                lower = flags & LOWER
                if code == SIGMA and sigma_is_final(data, at, start, end, table):
                    lower = np.uint32(FINAL_SIGMA)
                if h == WORD_SEED:
                    first = at
                h = (h ^ np.uint64(lower)) * WORD_PRIME
                if code == DOTTED_I:
                    h = (h ^ np.uint64(DOT_ABOVE)) * WORD_PRIME
                continue
        if h != WORD_SEED:
            hashes[filled] = mix64(h)
            starts[filled] = first
            ends[filled] = at
            filled += 1
            h = WORD_SEED
            if filled == len(hashes):
                return p, filled
    if h != WORD_SEED:
        hashes[filled] = mix64(h)
        starts[filled] = first
        ends[filled] = p
        filled += 1
    return p, filled


@kernel
def _roll(words: np.ndarray, letters: np.ndarray, n: int) -> np.ndarray:
    """The hash of every run of n words with a letter: a polynomial over word hashes, mixed."""
    out = np.empty(max(0, len(words) - n + 1), np.uint64)
    count = 0
    for i in range(len(out)):
        h = np.uint64(0)
        for j in range(n):
            h = h * POLYNOMIAL_BASE + words[i + j]
        if letters[i : i + n].any():
            out[count] = mix64(h)
            count += 1
    return out[:count]


@kernel
def _put(out: np.ndarray, found: int, row: int, start: int, end: int, which: int) -> np.ndarray:
    """`out` with one more row, twice as long if it was full."""
    if found == len(out):
        grown = np.empty((2 * found, 4), np.int64)
        grown[:found] = out
        out = grown
    out[found] = row, start, end, which
    return out


@kernel
def _find(
    data: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    table: np.ndarray,
    ascii_words: np.ndarray,
    bloom: np.ndarray,
    gate: np.ndarray,
    hashes: np.ndarray,
) -> np.ndarray:
    """(row, first byte, last byte + 1, index of hash) of every n-gram of a document that is in `hashes`."""
    n = lengths[0]
    words = np.empty(_CHUNK_WORDS + n, np.uint64)
    starts = np.empty(len(words), np.int64)
    ends = np.empty(len(words), np.int64)
    out = np.empty((256, 4), np.int64)
    found = 0
    power = np.uint64(1)
    for _ in range(n):
        power *= POLYNOMIAL_BASE
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        p = start
        carried = 0
        while p < end:
            p, count = _words(data, start, p, end, table, ascii_words, words, starts, ends, carried)
            rolling = np.uint64(0)
            for i in range(count):
                rolling = rolling * POLYNOMIAL_BASE + words[i]
                if i >= n:
                    rolling -= words[i - n] * power
                if i < carried:
                    continue
                if i >= n - 1:
                    h = mix64(rolling)
                    if _may_have(bloom, h):
                        at = _position(hashes, h)
                        if at >= 0:
                            out = _put(out, found, row, starts[i - n + 1] - start, ends[i] - start, at)
                            found += 1
                # Shorter passages end in their last two words.
                if i > 0 and len(lengths) > 1 and _may_have(gate, _pair(words[i - 1], words[i])):
                    for length in lengths[1:]:
                        if length > i + 1:
                            continue
                        h = np.uint64(0)
                        for j in range(i - length + 1, i + 1):
                            h = h * POLYNOMIAL_BASE + words[j]
                        at = _position(hashes, mix64(h))
                        if at >= 0:
                            out = _put(out, found, row, starts[i - length + 1] - start, ends[i] - start, at)
                            found += 1
            carried = min(count, n - 1)
            for i in range(carried):
                j = count - carried + i
                words[i], starts[i], ends[i] = words[j], starts[j], ends[j]
    return out[:found]


def find(text: pa.LargeStringArray, benchmarks: Benchmarks) -> pa.Table:
    """Where benchmark passages are in documents: a table of HITS sorted by (row, passage, start).

    One row for each passage and maximal run of bytes [start, end) that its n-grams cover without a gap, from
    the first byte of a word to the last of one. ngrams: how many distinct n-grams of the passage are in the
    whole document, of passage_ngrams. removed is false.
    """
    return _hits(text, benchmarks)[0]


def _hits(text: pa.LargeStringArray, benchmarks: Benchmarks) -> tuple[pa.Table, np.ndarray]:
    """(the table of `find`, number of the passage of each hit)."""
    if not len(benchmarks.hashes):
        return HITS.empty_table(), np.empty(0, np.int64)
    data, offsets = string_buffers(text)
    table, ascii_words = code_points()
    found = _find(
        data,
        offsets,
        benchmarks.lengths,
        table,
        ascii_words,
        benchmarks.bloom,
        benchmarks.gate,
        benchmarks.hashes,
    )
    row, start, end, which = (found[:, number] for number in range(4))
    counts = benchmarks.owner_offsets[which + 1] - benchmarks.owner_offsets[which]
    match = np.repeat(np.arange(len(which)), counts)
    within = np.arange(len(match)) - np.repeat(np.cumsum(counts) - counts, counts)
    passage = benchmarks.owners[benchmarks.owner_offsets[which[match]] + within]
    order = np.lexsort((end[match], start[match], passage, row[match]))
    match, passage = match[order], passage[order]
    row, start, end, which = row[match], start[match], end[match], which[match]
    new_pair = np.ones(len(row), np.bool_)
    new_pair[1:] = (row[1:] != row[:-1]) | (passage[1:] != passage[:-1])
    pair = np.cumsum(new_pair) - 1
    # All n-grams of a passage are of one length, so that ends ascend with starts.
    new_span = new_pair.copy()
    new_span[1:] |= start[1:] > end[:-1]
    firsts = np.flatnonzero(new_span)
    lasts = np.append(firsts[1:], len(row)) - 1 if len(row) else firsts
    distinct = np.unique(np.stack([pair, which], 1), axis=0)[:, 0]
    ngrams = np.bincount(distinct, minlength=len(distinct))[pair[firsts]] if len(row) else distinct
    owner = passage[firsts]
    about = benchmarks.passages.take(pa.array(owner))
    hits = pa.table(
        {
            "row": row[firsts],
            "benchmark": about["benchmark"],
            "item": about["item"],
            "field": about["field"],
            "start": start[firsts],
            "end": end[lasts],
            "ngrams": pa.array(ngrams, pa.int32()),
            "passage_ngrams": pa.compute.list_value_length(about["ngrams"]).cast(pa.int32()),
            "removed": np.zeros(len(firsts), np.bool_),
        },
        schema=HITS,
    )
    return hits, owner


def decontaminate(
    text: pa.LargeStringArray, benchmarks: Benchmarks, config: DecontaminateConfig
) -> tuple[pa.LargeStringArray, np.ndarray, pa.Table]:
    """Act on the passages of which a document has at least min_ngrams and min_share of the n-grams.

    Returns (text, dropped, hits). With action "drop" the text is as given and dropped, a bool mask over
    documents, says which to leave out; with "span" nothing is dropped and the spans of those passages are
    cut out (the bytes cut are the change in length; what is between words stays). hits are those of `find`;
    removed tells which led to the drop or the cut.
    """
    hits, _ = _hits(text, benchmarks)
    dropped = np.zeros(len(text), np.bool_)
    ngrams, total = hits["ngrams"].to_numpy(), hits["passage_ngrams"].to_numpy()
    removed = (ngrams >= np.minimum(config.min_ngrams, total)) & (ngrams >= config.min_share * total)
    column = HITS.get_field_index("removed")
    hits = hits.set_column(column, HITS.field(column), pa.array(removed))
    rows, starts, ends = (hits[name].to_numpy()[removed] for name in ("row", "start", "end"))
    if config.action == "drop":
        dropped[rows] = True
        return text, dropped, hits
    rows, starts, ends = _union(rows, starts, ends)
    nothing = np.zeros(len(rows), np.int64)
    left = splice(text, rows=rows, starts=starts, ends=ends, choices=nothing, replacements=[""])
    return left, dropped, hits


def _union(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, ...]:
    """Spans with those that touch joined, sorted by (row, start)."""
    order = np.lexsort((ends, starts, rows))
    rows, starts, ends = rows[order], starts[order], ends[order]
    kept: list[list[int]] = []
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        if kept and kept[-1][0] == row and start <= kept[-1][2]:
            kept[-1][2] = max(kept[-1][2], end)
        else:
            kept.append([row, start, end])
    joined = np.array(kept, np.int64).reshape(-1, 3)
    return tuple(np.ascontiguousarray(joined[:, column]) for column in range(3))
