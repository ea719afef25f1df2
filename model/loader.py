"""Token shards of a corpus version as training samples.

A sample is sequence_length + 1 consecutive tokens of one source's train stream: the source's shards in
manifest order, cut every sequence_length tokens. Sample n is a pure function of (manifest, seed, n), see
`model.order`; memory is O(shards) and shards are opened when they are first read.
"""

import json
import logging
import math
import os
import tempfile
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import xxhash
from numba import carray, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from base import files
from base.errors import UserError
from model import order

logger = logging.getLogger("piledriver.loader")

ATTEMPTS = 64
"""Windows that are tried in place of one that touches a damaged shard."""

DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype(np.uint16), "uint32": np.dtype(np.uint32)}


@dataclass(frozen=True)
class Span:
    """Tokens of one document within a sample."""

    document_id: bytes
    """16 bytes."""
    source: str
    shard: str
    """Path of the shard below <storage>/corpus/versions."""
    row: int
    """Row of the document in the shard, and in its origins file."""
    first: int
    """First token of the document that is in the sample."""
    stop: int
    """One past the last token of the document that is in the sample."""
    position: int
    """Where in the sample the span starts."""


@dataclass(frozen=True)
class Heldout:
    """Held-out documents of one source."""

    input_ids: NDArray[Any]
    """Tokens of the documents one after the other."""
    offsets: NDArray[np.int64]
    """[documents + 1] where each document starts."""
    document_ids: list[bytes]
    """16 bytes a document."""


@dataclass(frozen=True)
class _Shard:
    """An open shard; `tokens` points into the file's pages, `table` keeps them mapped."""

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    table: pa.RecordBatch
    copy: str | None
    """Path in the cache of a remote shard; None for a local one."""


class ShardCache:
    """Local copies of remote shards, the least recently read ones removed above `limit` bytes."""

    def __init__(self, folder: str | None = None, limit: int = 64 * 2**30) -> None:
        """`folder` may be shared by the processes of a machine."""
        self.folder = folder or os.path.join(tempfile.gettempdir(), f"piledriver-shards-{os.getuid()}")
        self.limit = limit

    def fetch(self, url: str, digest: str) -> str:
        """The path of a local copy of `url`, downloaded if need be."""
        name = xxhash.xxh3_128_hexdigest(f"{url}\0{digest}".encode()) + ".arrow"
        path = os.path.join(self.folder, name)
        try:
            os.utime(path)
            return path
        except FileNotFoundError:
            pass
        filesystem, remote = files.split(url)
        with files.atomic_writer(path) as target, filesystem.open(remote, "rb") as content:
            while piece := content.read(8 * 2**20):
                target.write(piece)
        self._shrink(path)
        return path

    def _shrink(self, keep: str) -> None:
        """Mapped files may go: their pages stay until the mapping is closed, see `Corpus.close_removed`."""
        entries = []
        for entry in os.scandir(self.folder):
            if entry.name.endswith(".arrow") and not entry.name.startswith(files.TEMPORARY):
                try:
                    status = entry.stat()
                except FileNotFoundError:  # another process removed it
                    continue
                entries.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                return
            if path != keep:
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    continue
                total -= size


class Corpus:
    """One corpus version, read through its manifest."""

    def __init__(
        self,
        manifest_url: str,
        manifest: dict[str, Any],
        digest: str,
        cache: ShardCache,
        verify: bool = False,
    ) -> None:
        """Use `Corpus.open`."""
        self._verify = verify
        self.manifest_url = manifest_url
        self.manifest = manifest
        self.hash = digest
        """xxh3-128 hex of the manifest's bytes."""
        self.tokenizer: dict[str, Any] = manifest["tokenizer"]
        self.dtype: np.dtype[Any] = DTYPES[self.tokenizer["dtype"]]
        self.shards: list[dict[str, Any]] = manifest["shards"]
        self.base = manifest_url.rsplit("/", 2)[0]
        self._cache = cache
        self._open: dict[int, _Shard] = {}

    @classmethod
    def open(cls, manifest_url: str, cache: ShardCache | None = None, verify: bool = False) -> "Corpus":
        """Read a manifest; no shard is opened. Raises UserError when there is none.

        verify: compare each shard with its digest when it is first read.
        """
        manifest_url = files.absolute(manifest_url)
        try:
            content = files.read_bytes(manifest_url)
        except FileNotFoundError:
            raise UserError(f"corpus manifest {manifest_url} does not exist") from None
        try:
            manifest = json.loads(content)
            return cls(
                manifest_url, manifest, xxhash.xxh3_128_hexdigest(content), cache or ShardCache(), verify
            )
        except (ValueError, KeyError) as error:
            raise UserError(f"corpus manifest {manifest_url} cannot be read: {error!r}") from None

    def sources(self, split: str = "train") -> list[str]:
        """Names of the sources that have tokens in `split`, in manifest order of their shards."""
        return list(dict.fromkeys(s["source"] for s in self.shards if s["split"] == split and s["tokens"]))

    def shard_numbers(self, source: str, split: str) -> list[int]:
        """Positions in the manifest of a source's shards that hold tokens."""
        return [
            number
            for number, shard in enumerate(self.shards)
            if shard["source"] == source and shard["split"] == split and shard["tokens"]
        ]

    def shard(self, number: int) -> _Shard:
        """The open shard at a position of the manifest. Raises UserError when it is damaged."""
        if number not in self._open:
            self._open[number] = self._read(number)
        return self._open[number]

    def close_removed(self, keep: NDArray[np.int64]) -> list[int]:
        """Close the shards whose copies the cache has removed, so that the disk gets their room; which.

        keep: positions in the manifest of those that stay open.
        """
        removed = [
            number
            for number, shard in list(self._open.items())
            if shard.copy and number not in keep and not os.path.exists(shard.copy)
        ]
        for number in removed:
            del self._open[number]
        return removed

    def _read(self, number: int) -> _Shard:
        entry = self.shards[number]
        url = files.below(self.base, entry["path"])
        copy = None
        try:
            path = files.local_path(url)
            if path is None:
                path = copy = self._cache.fetch(url, entry["digest"])
            if self._verify and files.digest(path) != entry["digest"]:
                raise pa.ArrowInvalid("its digest is not the one in the manifest")
            batches = pa.ipc.open_file(pa.memory_map(path))
            if batches.num_record_batches != 1:
                raise pa.ArrowInvalid(f"{batches.num_record_batches} record batches instead of 1")
            batch = batches.get_batch(0)
            column = batch.column("input_ids")
            offsets = column.offsets.to_numpy(zero_copy_only=True)
            tokens = column.values.to_numpy(zero_copy_only=True)[offsets[0] : offsets[-1]]
        except FileNotFoundError:
            raise UserError(f"shard {url} of manifest {self.manifest_url} does not exist") from None
        except (pa.ArrowInvalid, KeyError, OSError) as error:
            raise UserError(f"shard {url} is damaged: {str(error).splitlines()[0]}") from None
        if tokens.dtype != self.dtype or len(tokens) != entry["tokens"]:
            raise UserError(
                f"shard {url} is damaged: it holds {len(tokens)} {tokens.dtype} tokens, "
                f"the manifest says {entry['tokens']} {self.dtype}"
            )
        return _Shard(tokens, offsets, batch, copy)

    def heldout(
        self, source: str, max_documents: int | None = None, max_tokens: int | None = None
    ) -> Heldout:
        """The first held-out documents of a source, in shard order; none when it has none.

        With max_tokens, as many documents as begin within so many tokens; shards beyond are not read.
        """
        pieces: list[NDArray[Any]] = []
        lengths: list[NDArray[np.int64]] = []
        documents: list[bytes] = []
        read = 0
        for number in self.shard_numbers(source, "heldout"):
            if max_tokens is not None and read >= max_tokens:
                break
            shard = self.shard(number)
            count = len(shard.offsets) - 1
            if max_documents is not None:
                count = min(count, max_documents - len(documents))
            if max_tokens is not None:
                begins = shard.offsets[:-1] - shard.offsets[0]
                count = min(count, int(np.searchsorted(begins, max_tokens - read)))
                read += int(shard.offsets[count] - shard.offsets[0])
            pieces.append(shard.tokens[: shard.offsets[count] - shard.offsets[0]])
            lengths.append(np.diff(shard.offsets[: count + 1]))
            documents += shard.table.column("document_id").slice(0, count).to_pylist()
        tokens = np.concatenate(pieces) if pieces else np.zeros(0, self.dtype)
        offsets = (
            np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
            if lengths
            else np.zeros(1, np.int64)
        )
        return Heldout(tokens, offsets.astype(np.int64), documents)


@intrinsic
def _pointer16(context: Any, address: Any) -> Any:
    """An integer as a pointer to uint16."""

    def generate(lowering: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], lowering.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(address), generate


@intrinsic
def _pointer32(context: Any, address: Any) -> Any:
    """An integer as a pointer to uint32."""

    def generate(lowering: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], lowering.get_value_type(signature.return_type))

    return types.CPointer(types.uint32)(address), generate


@njit("int64(int64[:], int64[:], int64[:], int64[:], int64, int64, int64[:, :])", cache=True, nogil=True)
def _gather(
    addresses: NDArray[np.int64],
    starts: NDArray[np.int64],
    shard: NDArray[np.int64],
    position: NDArray[np.int64],
    width: int,
    vocab_size: int,
    rows: NDArray[np.int64],
) -> Any:
    """Copy rows of tokens out of mapped shards; a shard that holds a token outside the vocabulary, else -1.

    addresses: [shards] of token buffers; starts: [shards + 1] cumulative tokens; shard: [n] shard in which
    each row begins; position: [n] cumulative token at which it begins; width: bytes of a token; rows: [n,
    sequence_length + 1].
    """
    length = rows.shape[1]
    wrong = -1
    for row in range(rows.shape[0]):
        current = shard[row]
        filled = 0
        while filled < length:
            skip = position[row] + filled - starts[current]
            size = starts[current + 1] - starts[current]
            take = min(size - skip, length - filled)
            highest = np.int64(0)
            if width == 2:
                narrow = carray(_pointer16(addresses[current]), (size,), np.uint16)
                for token in range(take):
                    value = np.int64(narrow[skip + token])
                    if value > highest:
                        highest = value
                    rows[row, filled + token] = value
            else:
                wide = carray(_pointer32(addresses[current]), (size,), np.uint32)
                for token in range(take):
                    value = np.int64(wide[skip + token])
                    if value > highest:
                        highest = value
                    rows[row, filled + token] = value
            if highest >= vocab_size:
                wrong = current
            filled += take
            current += 1
    return wrong


class Loader:
    """Training samples of a corpus; its whole state is the number of the next sample."""

    def __init__(
        self,
        corpus: Corpus,
        sequence_length: int,
        seed: int,
        weights: dict[str, float] | None = None,
        global_batch_size: int = 1,
        vocab_size: int | None = None,
        skip_damaged: bool = False,
    ) -> None:
        """Prepare the order of samples.

        skip_damaged: samples that touch a damaged shard are replaced by others of their source, a pure
        function of the sample and of which shards are damaged; each shard is read whole when it is opened,
        to find that out. Else reading one raises a UserError.

        weights: share of samples per source, normalised over all sources; 0 leaves a source out. None or
        empty: by tokens; a source that is shorter than one window is then left out with a warning. Raises
        UserError when weights name unknown sources, leave some unnamed or name one that is too short, when
        the corpus has fewer windows than one global batch or when its vocabulary is larger than the model's.
        """
        self.corpus = corpus
        self.sequence_length = sequence_length
        self.names = corpus.sources()
        if weights:
            self._check_weights(weights)
            self.names = [name for name in self.names if weights[name] > 0]
        if vocab_size is not None and corpus.tokenizer["vocab_size"] > vocab_size:
            raise UserError(
                f"corpus {corpus.manifest_url} has a vocabulary of {corpus.tokenizer['vocab_size']} tokens, "
                f"the model only {vocab_size}"
            )
        numbers = [corpus.shard_numbers(name, "train") for name in self.names]
        tokens = np.array([sum(corpus.shards[n]["tokens"] for n in group) for group in numbers], np.int64)
        windows = np.maximum(tokens - 1, 0) // sequence_length
        if int(windows.sum()) < global_batch_size:
            raise UserError(
                f"corpus {corpus.manifest_url} holds {int(windows.sum())} windows of {sequence_length} "
                f"tokens, fewer than one batch of {global_batch_size}"
            )
        short = [name for name, count in zip(self.names, windows, strict=True) if not count]
        if weights and short:
            raise UserError(
                f"mixture.{short[0]}: the source has fewer than {sequence_length + 1} tokens in "
                f"{corpus.manifest_url}; 0 leaves it out"
            )
        for index in np.flatnonzero(windows == 0):
            logger.warning(
                "source %s of %s is left out: its %d tokens are fewer than the %d of a window",
                self.names[index],
                corpus.manifest_url,
                tokens[index],
                sequence_length + 1,
            )
        kept = np.flatnonzero(windows)
        self.names = [self.names[index] for index in kept]
        numbers = [numbers[index] for index in kept]
        self.windows = windows[kept]
        """[sources] windows in one epoch of each source."""
        shares = np.array([weights[n] for n in self.names]) if weights else self.windows.astype(np.float64)
        self.weights = dict(zip(self.names, (shares / shares.sum()).tolist(), strict=True))
        """Share of samples per source; they add up to 1."""
        self.fingerprint = {
            "manifest_hash": corpus.hash,
            "seed": seed,
            "sequence_length": sequence_length,
            "weights": self.weights,
        }
        """What, beside the sample number, decides a sample."""
        self._tree = order.build_tree(shares.tolist())
        self._keys = np.array([order.source_key(seed, corpus.hash, name) for name in self.names], np.int64)
        self._numbers = np.array([number for group in numbers for number in group], np.int64)
        sizes = np.array([corpus.shards[number]["tokens"] for number in self._numbers], np.int64)
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self._first_shard = np.concatenate([[0], np.cumsum([len(group) for group in numbers])])
        self._first_token = self._starts[self._first_shard[:-1]]
        self._addresses = np.zeros(len(self._numbers), np.int64)
        self._skip = skip_damaged
        self._damaged = np.zeros(len(self._numbers), np.bool_)

    def _check_weights(self, weights: dict[str, float]) -> None:
        held = f"corpus {self.corpus.manifest_url} holds {', '.join(self.names)}"
        for name in sorted(set(weights) - set(self.names)):
            raise UserError(f"mixture.{name}: there is no such source; {held}")
        for name in sorted(set(self.names) - set(weights)):
            raise UserError(f"mixture has no weight for source {name}; 0 leaves it out; {held}")
        for name, weight in weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise UserError(f"mixture.{name} = {weight}: a weight is a finite number and not negative")
        if not any(weights.values()):
            raise UserError("mixture: every weight is 0")

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source (index into `names`) and the window within it of global sample numbers, [n] each."""
        samples = np.ascontiguousarray(samples, np.int64)
        source, window = np.empty_like(samples), np.empty_like(samples)
        order.locate(samples, self._tree, self.windows, self._keys, source, window)
        return source, window

    def _positions(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        source, window = self.locate(samples)
        if self._damaged.any():
            for row in range(len(window)):
                window[row] = self._replace(int(source[row]), int(window[row]))
        return self._place(source, window)

    def _place(self, source: Any, window: Any) -> tuple[Any, Any]:
        """The shard and the cumulative token at which windows of sources begin."""
        position = self._first_token[source] + window * self.sequence_length
        return np.searchsorted(self._starts, position, side="right") - 1, position

    def _touches(self, source: int, window: int) -> bool:
        """Whether a window has tokens of a damaged shard."""
        first, position = self._place(source, window)
        last = np.searchsorted(self._starts, position + self.sequence_length, side="right") - 1
        return bool(self._damaged[first : last + 1].any())

    def _replace(self, source: int, window: int) -> int:
        """The window that stands in for one that touches a damaged shard, else the window."""
        size, key, found = int(self.windows[source]), int(self._keys[source]), window
        for attempt in range(1, ATTEMPTS + 1):
            if not self._touches(source, found):
                return found
            found = int(order.permute(window, size, key, -attempt))
        raise UserError(f"source {self.names[source]} of {self.corpus.manifest_url}: most of it is damaged")

    def _open(self, index: int) -> None:
        """Open a shard; note that it is damaged, or raise the error.

        What is damaged decides which samples are replaced, so it must not depend on what is read of it.
        """
        try:
            tokens = self.corpus.shard(int(self._numbers[index])).tokens
            if self._skip and int(tokens.max()) >= self.corpus.tokenizer["vocab_size"]:
                raise self._strange(index)
        except UserError as error:
            if not self._skip:
                raise
            logger.warning("%s; its samples are replaced by others of the source", error)
            self._damaged[index] = True
        else:
            self._addresses[index] = tokens.ctypes.data

    def _map(self, shard: NDArray[np.int64], position: NDArray[np.int64]) -> None:
        last = np.searchsorted(self._starts, position + self.sequence_length, side="right") - 1
        needed = np.unique(shard)
        crossing = last > shard
        if crossing.any():
            ranges = [np.arange(a, b + 1) for a, b in zip(shard[crossing], last[crossing], strict=True)]
            needed = np.unique(np.concatenate([needed, *ranges]))
        for index in needed[self._addresses[needed] == 0]:
            self._open(index)
        removed = self.corpus.close_removed(self._numbers[needed])
        self._addresses[np.isin(self._numbers, removed)] = 0

    def _strange(self, index: int) -> UserError:
        """The error of a shard that holds tokens outside the vocabulary."""
        url = files.below(self.corpus.base, self.corpus.shards[int(self._numbers[index])]["path"])
        vocab_size = self.corpus.tokenizer["vocab_size"]
        return UserError(f"shard {url} is damaged: it holds tokens outside the vocabulary of {vocab_size}")

    def tokens(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Samples by global number: [n] → [n, sequence_length + 1] token ids."""
        rows = np.empty((len(samples), self.sequence_length + 1), np.int64)
        width, vocab_size = self.corpus.dtype.itemsize, self.corpus.tokenizer["vocab_size"]
        while True:
            known = int(self._damaged.sum())
            shard, position = self._positions(np.ascontiguousarray(samples, np.int64))
            self._map(shard, position)
            if int(self._damaged.sum()) > known:
                continue
            wrong = _gather(self._addresses, self._starts, shard, position, width, vocab_size, rows)
            if wrong >= 0:
                raise self._strange(wrong)
            return rows

    def sample(self, number: int) -> NDArray[np.int64]:
        """One sample, [sequence_length + 1]."""
        return cast(NDArray[np.int64], self.tokens(np.array([number], np.int64))[0])

    def batch(self, first: int, global_batch_size: int, rank: int = 0, world: int = 1) -> NDArray[np.int64]:
        """A rank's rows of the global batch that begins at sample `first`.

        Shape [global_batch_size / world, sequence_length + 1]; the ranks' rows one after the other are the
        global batch, whatever `world` is.
        """
        share = global_batch_size // world
        return self.tokens(np.arange(first + rank * share, first + (rank + 1) * share, dtype=np.int64))

    def trace(self, number: int) -> list[Span]:
        """The documents of a sample, in the order of their tokens; together they cover it."""
        samples = np.array([number], np.int64)
        if self._skip:
            self.tokens(samples)  # finds out what is damaged
        shards, positions = self._positions(samples)
        source = self.names[int(self.locate(samples)[0][0])]
        shard, position = int(shards[0]), int(positions[0])
        spans: list[Span] = []
        filled = 0
        while filled <= self.sequence_length:
            entry = int(self._numbers[shard])
            offsets = self.corpus.shard(entry).offsets
            begin = position + filled - int(self._starts[shard]) + int(offsets[0])
            stop = min(begin + self.sequence_length + 1 - filled, int(offsets[-1]))
            first_row = int(np.searchsorted(offsets, begin, side="right")) - 1
            last_row = int(np.searchsorted(offsets, stop, side="left"))
            identifiers = self.corpus.shard(entry).table.column("document_id")
            for row in range(first_row, last_row):
                low, high = max(begin, int(offsets[row])), min(stop, int(offsets[row + 1]))
                if high > low:
                    start = int(offsets[row])
                    spans.append(
                        Span(
                            identifiers[row].as_py(),
                            source,
                            self.corpus.shards[entry]["path"],
                            row,
                            low - start,
                            high - start,
                            filled + low - begin,
                        )
                    )
            filled += stop - begin
            shard += 1
        return spans

    def samples_of(self, shard: int, row: int, limit: int) -> list[int]:
        """The samples below `limit` that hold tokens of a document, in order; no sample is generated.

        shard: position in the manifest; row: of the document in it. Empty for shards that are not trained on.
        """
        found = np.flatnonzero(self._numbers == shard)
        if not len(found):
            return []
        index = int(found[0])
        source = int(np.searchsorted(self._first_shard, index, side="right")) - 1
        offsets = self.corpus.shard(shard).offsets
        origin = int(self._starts[index] - self._first_token[source]) - int(offsets[0])
        first, stop = origin + int(offsets[row]), origin + int(offsets[row + 1])
        length, size, key = self.sequence_length, int(self.windows[source]), int(self._keys[source])
        # Window w holds the tokens from w · length to w · length + length inclusive.
        windows = range(max(-(-(first - length) // length), 0), min((stop - 1) // length, size - 1) + 1)
        drawn = [drawn for window in windows for drawn in self._replaced_by(source, window)]
        samples: list[int] = []
        epoch = 0
        while drawn and order.unlocate(source, epoch * size, self._tree) < limit:
            samples += [
                order.unlocate(source, epoch * size + int(order.unpermute(w, size, key, epoch)), self._tree)
                for w in drawn
            ]
            epoch += 1
        return sorted(sample for sample in samples if sample < limit)

    def _replaced_by(self, source: int, window: int) -> list[int]:
        """The windows in whose place a window is read, itself among them: the inverse of `_replace`."""
        if not self._skip:
            return [window]
        self._inspect(source)
        size, key = int(self.windows[source]), int(self._keys[source])
        others = {int(order.unpermute(window, size, key, -attempt)) for attempt in range(1, ATTEMPTS + 1)}
        if self._touches(source, window):
            return []
        return [w for w in sorted(others | {window}) if self._replace(source, w) == window]

    def _inspect(self, source: int) -> None:
        """Find every damaged shard of a source."""
        for index in range(int(self._first_shard[source]), int(self._first_shard[source + 1])):
            if self._addresses[index] == 0 and not self._damaged[index]:
                self._open(index)


def bits_per_byte(nats_per_token: float, tokens: int, text_bytes: int) -> float:
    """Bits per byte of text (Gao et al. 2020, The Pile, section 3.1): nats · tokens / (bytes · ln 2)."""
    return nats_per_token * tokens / (text_bytes * math.log(2))
