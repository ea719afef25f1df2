"""The tokenizer of a corpus: text to ids, equal to Hugging Face `tokenizers` on every document.

A byte-level BPE with the GPT-2 pattern (GPT-2, GPT-NeoX, Pythia, and those trained here) is encoded by
pipelines.corpus.text.bpe; any other tokenizer by `tokenizers` itself, with one message.
"""

import hashlib
import itertools
import json
import logging
import re
import threading
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer as Reference
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from base import files, tokenizer_json
from base.credentials import hide
from base.damage import UnreadableError
from base.errors import UserError
from pipelines.corpus.text.bpe import CACHE_SLOTS, BytePairEncoder, unsupported
from pipelines.corpus.text.pretokenize import UNASSIGNED

log = logging.getLogger(__name__)

SpecialTokens = Literal["text", "tokens"]
"""What becomes of text that spells a special token."""


def _content(url: str) -> bytes:
    """The bytes of a tokenizer file."""
    try:
        return files.read_bytes(url)
    except FileNotFoundError:
        raise UserError(f"tokenizer {url} does not exist") from None
    except UnreadableError as error:
        raise UserError(f"tokenizer {error}") from None


def _read(content: bytes, end_of_document: str, name: str) -> tuple[Reference, int]:
    """(tokenizer without truncation, padding and dropout, id of the end-of-document token)."""
    try:
        reference = tokenizer_json.parse(content.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not a tokenizer in the JSON format of `tokenizers`: {error}") from None
    try:
        _check_ids(json.loads(content), name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{name} is not written as `tokenizers` writes it: {error}") from None
    reference.no_truncation()
    reference.no_padding()
    if getattr(reference.model, "dropout", None) is not None:
        reference.model.dropout = None
    end = reference.token_to_id(end_of_document)
    if end is None:
        raise UserError(f"{name} has no token {end_of_document!r}, which tokenize.end_of_document names")
    return reference, end


def _check_ids(specification: dict[str, Any], name: str) -> None:
    """Raise UserError where the ids of a tokenizer's file are not one for each token, or too large."""
    vocabulary = specification["model"].get("vocab", {})
    if isinstance(vocabulary, list):  # of a Unigram model: pairs of token and score
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in specification.get("added_tokens") or []}
    known: dict[int, str] = {}
    for token, number in itertools.chain(vocabulary.items(), added.items()):
        if number >= 2**31:
            raise UserError(f"{name} gives token {token!r} the id {number}; the largest is {2**31 - 1}")
        if known.setdefault(number, token) != token:
            raise UserError(f"{name} gives two tokens the id {number}: {known[number]!r} and {token!r}")


def check(url: str, end_of_document: str) -> None:
    """Raise UserError for a tokenizer file that is missing or unusable."""
    _read(_content(url), end_of_document, f"tokenizer {url}")


def facts(url: str, end_of_document: str) -> dict[str, Any]:
    """What a manifest says of a tokenizer file, without the tables that encode: they take a second.

    end_of_document, and sha256, vocab_size, end_of_document_id and dtype as Tokenizer has them. Raises
    UserError if the file is missing or unusable, and warns where encoding will be slow.
    """
    content, name = _content(url), f"tokenizer {url}"
    reference, end = _read(content, end_of_document, name)
    _is_fast(json.loads(content), name)
    vocab_size, dtype = _ids(reference)
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "vocab_size": vocab_size,
        "end_of_document": end_of_document,
        "end_of_document_id": end,
        "dtype": dtype.name,
    }


def _ids(reference: Reference) -> tuple[int, np.dtype[Any]]:
    """The highest id plus one, added tokens included, and the type of ids."""
    size = max(reference.get_vocab(with_added_tokens=True).values()) + 1
    return size, np.dtype(np.uint16 if size <= 2**16 else np.uint32)


def _is_fast(specification: dict[str, Any], name: str, special_tokens: SpecialTokens = "text") -> bool:
    """Whether pipelines.corpus.text.bpe encodes as this tokenizer does; a warning if it does not."""
    try:
        reason = unsupported(specification)
        if reason is None and special_tokens == "text":
            reason = _overlapping(specification.get("added_tokens") or [])
    except (KeyError, TypeError, AttributeError):  # `tokenizers` takes lists for objects, for example
        reason = "it is not written as `tokenizers` writes it"
    if reason is not None:
        log.warning("%s is encoded by `tokenizers`, about 15 times slower, because %s", hide(name), reason)
    return reason is None


def _overlapping(added: list[dict[str, Any]]) -> str | None:
    """Why special tokens cannot be left out of the search for added tokens, or None if they can.

    `tokenizers` finds them too and passes over the match, and so over what begins within it.
    """
    for special, other in itertools.product(added, added):
        if special["special"] and not other["special"] and special["normalized"] == other["normalized"]:
            first, second = special["content"], other["content"]
            sizes = range(1, min(len(first), len(second)) + 1)
            if second in first or any(
                first.endswith(second[:size]) or second.endswith(first[:size]) for size in sizes
            ):
                return f"its special token {first!r} overlaps its added token {second!r}"
    return None


class Tokenizer:
    """A tokenizer file, ready to encode.

    Text that spells a special token, the end-of-document token above all, is text like any other, unless
    `special_tokens` is "tokens".

    Attributes: vocab_size (the highest id plus one, added tokens included), end_of_document_id, dtype (uint16
    if every id fits, else uint32), sha256 of the file, fast (whether bpe.py does the work).
    """

    def __init__(
        self,
        content: bytes,
        end_of_document: str,
        name: str = "tokenizer",
        cache_slots: int = CACHE_SLOTS,
        special_tokens: SpecialTokens = "text",
    ) -> None:
        """Read the content of a `tokenizers` JSON file; `name` is what error messages call it.

        Raises UserError if it is not such a file or lacks the token `end_of_document`.
        """
        self._arguments = (content, end_of_document, name, cache_slots, special_tokens)
        self._reference, self.end_of_document_id = _read(content, end_of_document, name)
        specification = json.loads(content)
        if special_tokens == "text":
            self._reference.add_special_tokens([end_of_document])  # Some files do not call it special.
            self._reference.encode_special_tokens = True
        tokens = self._reference.get_added_tokens_decoder()
        spelled = {token.content for token in tokens.values() if token.special} | {end_of_document}
        self._spelled = sorted(spelled, key=len, reverse=True)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.vocab_size, self.dtype = _ids(self._reference)
        self.fast = _is_fast(specification, name, special_tokens)
        self._lock = threading.Lock()
        if not self.fast:
            return
        special: dict[str, int] = {}
        added: dict[str, int] = {}
        normalizer = self._reference.normalizer
        for number, token in tokens.items():
            if token.content in spelled and special_tokens == "text":
                continue
            if not token.normalized:
                special[token.content] = number
            else:
                added[normalizer.normalize_str(token.content) if normalizer else token.content] = number
        # The longest alternative first makes the leftmost match the longest one too.
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("(" + ("|".join(map(re.escape, longest_first)) or r"(?!)") + ")")
        model = specification["model"]
        # Older files write a merge as one string, newer ones as a pair.
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        self._encoder = BytePairEncoder(model["vocab"], merges, special, added, cache_slots)

    @classmethod
    def load(cls, url: str, end_of_document: str, special_tokens: SpecialTokens = "text") -> "Tokenizer":
        """Read a tokenizer file from an fsspec URL; UserError if it is missing or unusable."""
        return cls(_content(url), end_of_document, f"tokenizer {url}", special_tokens=special_tokens)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the file: every process builds its own tables and word cache."""
        return Tokenizer, self._arguments

    def encode(self, text: pa.Array | pa.ChunkedArray, end: bool = True) -> pa.LargeListArray:
        """Ids of every document as large_list<dtype>, followed by the end-of-document id if `end`.

        `text` is large_string or string without nulls. Text that spells an added token becomes that token, as
        with `tokenizers.encode(text, add_special_tokens=False)`; special tokens as the class says, which
        `tokenizers` calls `encode_special_tokens`.
        """
        text = _one_large_string_array(text)
        if not self.fast:
            return self._encode_slowly(text, end)
        offsets = np.frombuffer(text.buffers()[1], dtype=np.int64)[text.offset : text.offset + len(text) + 1]
        characters = text.buffers()[2]
        data = np.frombuffer(characters or b"", dtype=np.uint8)
        with self._lock:
            apart = self._not_normal(text, data, offsets)
            ids, ends = self._encoder.encode(data, offsets, apart, self.end_of_document_id if end else None)
            ids = ids.astype(self.dtype)
            if apart.any():
                ids, ends = self._insert(text, end, np.flatnonzero(apart), ids, ends)
        return pa.LargeListArray.from_arrays(pa.array(ends), pa.array(ids))

    def spelled(self, text: pa.LargeStringArray) -> dict[str, np.ndarray]:
        """How often each document spells each special token: int64[documents] of every one that occurs."""
        pattern = "|".join(re.sub(r"[][\\.+*?(){}|^$]", r"\\\g<0>", token) for token in self._spelled)
        rows = np.flatnonzero(pc.count_substring_regex(text, pattern).to_numpy(zero_copy_only=False))
        found: dict[str, np.ndarray] = {}
        for row, content in zip(rows.tolist(), text.take(pa.array(rows)).to_pylist(), strict=True):
            for token in re.findall(pattern, content):
                found.setdefault(token, np.zeros(len(text), np.int64))[row] += 1
        return found

    def encode_reference(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text by `tokenizers`, without an end-of-document id."""
        encodings = self._reference.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def verify(self, text: pa.Array | pa.ChunkedArray, ids: pa.LargeListArray, end: bool = True) -> None:
        """Compare ids with `tokenizers`; RuntimeError naming the first document and position that differ."""
        if len(text) != len(ids):
            raise RuntimeError(f"{len(text)} documents but {len(ids)} lists of ids")
        tail = [self.end_of_document_id] if end else []
        for document, expected in enumerate(self.encode_reference(text.to_pylist())):
            wanted, found = expected + tail, ids[document].as_py()
            if wanted != found:
                pairs = zip(wanted, found, strict=False)
                common = min(len(wanted), len(found))
                position = next((at for at, (a, b) in enumerate(pairs) if a != b), common)
                raise RuntimeError(
                    f"document {document} differs from `tokenizers` at token {position}: "
                    f"{found[position : position + 4]} instead of {wanted[position : position + 4]}"
                )

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens included."""
        text: str = self._reference.decode(ids, skip_special_tokens=False)
        return text

    def _not_normal(self, text: pa.LargeStringArray, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Which documents the normalizer would change: bool[documents]."""
        changed = np.zeros(len(text), dtype=np.bool_)
        normalizer = self._reference.normalizer
        if normalizer is None:
            return changed
        flags = self._encoder.flags(data, offsets)
        for document in np.flatnonzero(flags):
            content = text[document].as_py()
            # Python's Unicode is at least version 14, and what is normal stays so in later versions
            # (UAX 15, section 3), so that only code points unknown to version 14 need `tokenizers` itself.
            if flags[document] & UNASSIGNED:
                changed[document] = normalizer.normalize_str(content) != content
            else:
                changed[document] = not unicodedata.is_normalized("NFC", content)
        return changed

    def _insert(
        self, text: pa.LargeStringArray, end: bool, documents: np.ndarray, ids: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put the ids of documents that must be normalised, which have none so far, in their places."""
        contents = text.take(pa.array(documents)).to_pylist()
        pieces, start = [], 0
        lengths = np.diff(ends)
        for document, content in zip(documents, contents, strict=True):
            pieces += [ids[start : ends[document]], self._encode_normalized(content, end)]
            start = ends[document]
            lengths[document] = len(pieces[-1])
        return np.concatenate([*pieces, ids[start:]]), np.concatenate([[0], np.cumsum(lengths)])

    def _encode_normalized(self, content: str, end: bool) -> np.ndarray:
        """Normalise one document as `tokenizers` does, between its special tokens, and encode it."""
        parts = self._special.split(content)
        parts[::2] = [self._reference.normalizer.normalize_str(part) for part in parts[::2]]
        normalized = "".join(parts)
        if self._special.split(normalized) != parts:
            # Normalising made text that looks like a special token but is none.
            return self._encode_slowly(pa.array([content]), end).values.to_numpy()  # type: ignore[no-any-return]
        data = np.frombuffer(normalized.encode(), dtype=np.uint8)
        offsets = np.array([0, len(data)], dtype=np.int64)
        last = self.end_of_document_id if end else None
        ids, _ = self._encoder.encode(data, offsets, np.zeros(1, dtype=np.bool_), last)
        return ids.astype(self.dtype)

    def _encode_slowly(self, text: pa.LargeStringArray, end: bool) -> pa.LargeListArray:
        tail = [self.end_of_document_id] if end else []
        lists = [np.array(ids + tail, dtype=self.dtype) for ids in self.encode_reference(text.to_pylist())]
        return pa.array(lists, pa.large_list(pa.from_numpy_dtype(self.dtype)))


def train(texts: Iterable[str], vocab_size: int, end_of_document: str) -> bytes:
    """Train a byte-level BPE in the manner of GPT-NeoX-20B and return its JSON file.

    vocab_size counts the end-of-document token and the 256 bytes; fewer come out when the texts hold fewer
    pairs. The same texts in the same order give the same bytes, whatever the number of threads.
    """
    reference = Reference(models.BPE())
    reference.normalizer = normalizers.NFC()
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    reference.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[end_of_document],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    reference.train_from_iterator(texts, trainer)
    content: str = reference.to_str()
    return content.encode()


def _one_large_string_array(text: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    if text.null_count:
        raise ValueError("text to encode has nulls")
    return text.cast(pa.large_string())
