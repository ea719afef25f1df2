"""The train streams of a corpus' sources, cut into windows: where each window lies, and its tokens.

The stream of a source is its train shards in manifest order. Window w of it holds the sequence_length + 1
tokens from w · sequence_length on. Memory is O(shards), and shards are opened when they are first read.
"""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.damage import UnreadableError
from base.errors import UserError
from model import order
from model.corpus import Corpus, OpenShard
from model.gather import gather
from model.ranged import RemoteShards

logger = logging.getLogger("piledriver.loader")

ATTEMPTS = 64
"""Windows that are tried in place of one that touches a damaged shard."""


def windows_in(tokens: NDArray[np.int64], sequence_length: int) -> NDArray[np.int64]:
    """How many windows streams of so many tokens have."""
    return np.maximum(tokens - 1, 0) // sequence_length


class Streams:
    """The train streams of some sources; windows that touch damaged shards may be replaced."""

    def __init__(
        self, corpus: Corpus, keys: dict[str, int], sequence_length: int, skip_damaged: bool
    ) -> None:
        """Lay out the streams of the sources in `keys`, whose values order their windows.

        skip_damaged: windows that touch a damaged shard are replaced by others of their source, a pure
        function of the window and of which shards are damaged; each shard is read whole when it is opened,
        to find that out. Else reading one raises a UserError.
        """
        self.corpus, self.sequence_length, self.skip_damaged = corpus, sequence_length, skip_damaged
        self.names = list(keys)
        self.keys = np.array(list(keys.values()), np.int64)
        groups = [corpus.shard_numbers(name, "train") for name in self.names]
        self.numbers = np.array([number for group in groups for number in group], np.int64)
        """[shards] their positions in the manifest, source by source."""
        sizes = np.array([corpus.shards[number].tokens for number in self.numbers], np.int64)
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        """[shards + 1] cumulative tokens."""
        self.first_shard = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
        """[sources + 1] where the shards of each source begin in `numbers`."""
        self.first_token = self.starts[self.first_shard[:-1]]
        """[sources] cumulative token at which each stream begins."""
        self.windows = windows_in(np.diff(self.starts[self.first_shard]), sequence_length)
        """[sources] windows of each stream."""
        self._sound = np.zeros(len(self.numbers), np.bool_)
        self._damaged = np.zeros(len(self.numbers), np.bool_)

    def read(self, source: NDArray[np.int64], window: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens of windows of sources (indices into `names`): [n] each → [n, sequence_length + 1]."""
        rows = np.empty((len(window), self.sequence_length + 1), np.int64)
        width, vocab_size = self.corpus.dtype.itemsize, self.corpus.tokenizer.vocab_size
        while True:
            known = int(self._damaged.sum())
            shard, position = self.positions(source, window)
            needed = self._needed(shard, position)
            if self.corpus.remote is not None:
                self._look_into(needed)
            else:
                addresses, held = self._map(needed)
            if int(self._damaged.sum()) > known:
                continue
            if self.corpus.remote is not None:
                wrong = self._fetch(self.corpus.remote, shard, position, rows)
            else:
                wrong = gather(addresses, self.starts, shard, position, width, vocab_size, rows)
                del held
            if wrong >= 0:
                raise self._strange(wrong)
            return rows

    def positions(
        self, source: NDArray[np.int64], window: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shard and the cumulative token at which windows begin, or those that stand in for them."""
        if self._damaged.any():
            chosen = [self.replace(int(s), int(w)) for s, w in zip(source, window, strict=True)]
            window = np.array(chosen, np.int64)
        return self._place(source, window)

    def _place(self, source: Any, window: Any) -> tuple[Any, Any]:
        position = self.first_token[source] + window * self.sequence_length
        return np.searchsorted(self.starts, position, side="right") - 1, position

    def _touches(self, source: int, window: int) -> bool:
        """Whether a window has tokens of a damaged shard."""
        first, position = self._place(source, window)
        last = np.searchsorted(self.starts, position + self.sequence_length, side="right") - 1
        return bool(self._damaged[first : last + 1].any())

    def replace(self, source: int, window: int) -> int:
        """The window that stands in for one that touches a damaged shard, else the window."""
        size, key, chosen = int(self.windows[source]), int(self.keys[source]), window
        for attempt in range(1, ATTEMPTS + 1):
            if not self._touches(source, chosen):
                return chosen
            chosen = int(order.permute(window, size, key, -attempt))
        raise UserError(f"source {self.names[source]} of {self.corpus.manifest_url}: most of it is damaged")

    def replaced_by(self, source: int, window: int) -> list[int]:
        """The windows in whose place a window is read, itself among them: the inverse of `replace`."""
        if not self.skip_damaged:
            return [window]
        self._inspect(source)
        size, key = int(self.windows[source]), int(self.keys[source])
        others = {int(order.unpermute(window, size, key, -attempt)) for attempt in range(1, ATTEMPTS + 1)}
        if self._touches(source, window):
            return []
        return [w for w in sorted(others | {window}) if self.replace(source, w) == window]

    def left_out(self, index: int) -> bool:
        """Whether a shard (an index into `numbers`) is damaged, so that no window holds a token of it."""
        if self.skip_damaged and not self._sound[index] and not self._damaged[index]:
            self._open(index)
        return bool(self._damaged[index])

    def _inspect(self, source: int) -> None:
        """Find every damaged shard of a source."""
        for index in range(int(self.first_shard[source]), int(self.first_shard[source + 1])):
            self.left_out(index)

    def _open(self, index: int) -> OpenShard | None:
        """An open shard; None, and a note, where it is damaged, or the error is raised.

        What is damaged decides which windows are replaced, so it must not depend on what is read of it.
        """
        try:
            opened = self.corpus.shard(int(self.numbers[index]))
            sound = self._sound[index] or not self.skip_damaged
            if not sound and int(opened.tokens.max()) >= self.corpus.tokenizer.vocab_size:
                raise self._strange(index)
        except UserError as error:
            if not self.skip_damaged or isinstance(error, UnreadableError):
                raise
            logger.warning("%s; its samples are replaced by others of the source", error)
            self._damaged[index] = True
            return None
        self._sound[index] = True
        return opened

    def _needed(self, shard: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.int64]:
        """The shards that hold tokens of windows."""
        last = np.searchsorted(self.starts, position + self.sequence_length, side="right") - 1
        crossing = last > shard
        ranges = [np.arange(a, b + 1) for a, b in zip(shard[crossing], last[crossing], strict=True)]
        return np.unique(np.concatenate([shard, *ranges]))

    def _map(self, needed: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[OpenShard]]:
        """Open shards: [shards] where the tokens of these lie, and what keeps them mapped."""
        addresses, held = np.zeros(len(self.numbers), np.int64), []
        for index in needed:
            if (opened := self._open(int(index))) is not None:
                addresses[index] = opened.tokens.ctypes.data
                held.append(opened)
        return addresses, held

    def _look_into(self, needed: NDArray[np.int64]) -> None:
        """Read remote shards whole, each once, where damaged ones are skipped or digests are compared."""
        if self.skip_damaged:
            for index in needed[~self._sound[needed] & ~self._damaged[needed]]:
                self._open(int(index))
        else:
            self.corpus.verify([int(self.numbers[index]) for index in needed])

    def _fetch(
        self,
        remote: RemoteShards,
        shard: NDArray[np.int64],
        position: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> int:
        """Read rows of tokens by range; a shard that holds a token outside the vocabulary, else -1."""
        wanted, targets = [], []
        length = rows.shape[1]
        for row in range(len(rows)):
            current, filled = int(shard[row]), 0
            while filled < length:
                first = int(position[row]) + filled - int(self.starts[current])
                take = min(int(self.starts[current + 1] - self.starts[current]) - first, length - filled)
                if take:
                    wanted.append((int(self.numbers[current]), first, first + take))
                    targets.append((row, filled, current))
                filled += take
                current += 1
        wrong = -1
        for (row, filled, index), tokens in zip(targets, remote.tokens(wanted), strict=True):
            rows[row, filled : filled + len(tokens)] = tokens
            if int(tokens.max()) >= self.corpus.tokenizer.vocab_size:
                wrong = index
        return wrong

    def _strange(self, index: int) -> UserError:
        """The error of a shard that holds tokens outside the vocabulary."""
        url = self.corpus.shard_url(int(self.numbers[index]))
        vocab_size = self.corpus.tokenizer.vocab_size
        return UserError(f"shard {url} is damaged: it holds tokens outside the vocabulary of {vocab_size}")
