"""Training samples of a corpus version.

A sample is sequence_length + 1 consecutive tokens of one source's train stream, see `model.streams`. Sample n
is a pure function of (manifest, seed, n), see `model.order`.
"""

import logging
from typing import cast

import numpy as np
from numpy.typing import NDArray

from base.errors import UserError
from base.mixture import check_names, check_shares
from model import lineage, order
from model.corpus import Corpus
from model.lineage import Span
from model.streams import Streams, windows_in

logger = logging.getLogger("piledriver.loader")


class Loader:
    """Training samples of a corpus; its whole state is the number of the next sample."""

    def __init__(
        self,
        corpus: Corpus,
        sequence_length: int,
        *,
        seed: int,
        weights: dict[str, float] | None = None,
        global_batch_size: int = 1,
        vocab_size: int | None = None,
        skip_damaged: bool = False,
    ) -> None:
        """Prepare the order of samples.

        skip_damaged: as `Streams` says. weights: share of samples per source, normalised over all sources; 0
        leaves a source out. None or empty: by tokens; a source that is shorter than one window is then left
        out with a warning. Raises UserError when weights name unknown sources, leave some unnamed or name one
        that is too short, when the corpus has fewer windows than one global batch or when its vocabulary is
        larger than the model's.
        """
        named = _named(corpus, weights)
        if vocab_size is not None and corpus.tokenizer.vocab_size > vocab_size:
            raise UserError(
                f"corpus {corpus.manifest_url} has a vocabulary of {corpus.tokenizer.vocab_size} tokens, "
                f"the model only {vocab_size}"
            )
        names = _long_enough(corpus, named, sequence_length, global_batch_size, bool(weights))
        keys = {name: order.source_key(seed, corpus.hash, name) for name in names}
        self.streams = Streams(corpus, keys, sequence_length, skip_damaged)
        self.corpus, self.sequence_length, self.names = corpus, sequence_length, names
        self.windows = self.streams.windows
        """[sources] windows in one epoch of each source."""
        shares = np.array([weights[name] for name in names]) if weights else self.windows.astype(np.float64)
        self.weights: dict[str, float] = dict(zip(names, (shares / shares.sum()).tolist(), strict=True))
        """Share of samples per source; they add up to 1."""
        self._tree = order.build_tree(shares.tolist())

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source (index into `names`) and the window within it of global sample numbers, [n] each."""
        samples = np.ascontiguousarray(samples, np.int64)
        source, window = np.empty_like(samples), np.empty_like(samples)
        order.locate(samples, self._tree, self.windows, self.streams.keys, source, window)
        return source, window

    def tokens(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Samples by global number: [n] → [n, sequence_length + 1] token ids."""
        return self.streams.read(*self.locate(samples))

    def sample(self, number: int) -> NDArray[np.int64]:
        """One sample, [sequence_length + 1]."""
        return cast(NDArray[np.int64], self.tokens(np.array([number], np.int64))[0])

    def batch(
        self, first: int, global_batch_size: int, *, rank: int = 0, world: int = 1
    ) -> NDArray[np.int64]:
        """A rank's rows of the global batch that begins at sample `first`.

        Shape [global_batch_size / world, sequence_length + 1]; the ranks' rows one after the other are the
        global batch, whatever `world` is.
        """
        share = global_batch_size // world
        return self.tokens(np.arange(first + rank * share, first + (rank + 1) * share, dtype=np.int64))

    def trace(self, number: int) -> list[Span]:
        """The documents of a sample, in the order of their tokens; together they cover it."""
        sample = np.array([number], np.int64)
        if self.streams.skip_damaged:
            self.tokens(sample)  # finds out what is damaged
        source, window = self.locate(sample)
        return lineage.spans_of(self.streams, int(source[0]), int(window[0]))

    def samples_of(self, shard: int, row: int, limit: int) -> list[int]:
        """The samples below `limit` that hold tokens of a document, in order; no sample is generated.

        shard: position in the manifest; row: of the document in it. Empty for shards that are not trained on.
        """
        place = lineage.windows_of(self.streams, shard, row)
        if place is None:
            return []
        source, drawn = place
        size, key = int(self.windows[source]), int(self.streams.keys[source])
        samples: list[int] = []
        epoch = 0
        while drawn and order.unlocate(source, epoch * size, self._tree) < limit:
            samples += [
                order.unlocate(source, epoch * size + int(order.unpermute(w, size, key, epoch)), self._tree)
                for w in drawn
            ]
            epoch += 1
        return sorted(sample for sample in samples if sample < limit)


def _named(corpus: Corpus, weights: dict[str, float] | None) -> list[str]:
    """The sources that have a share of the samples."""
    names = corpus.sources()
    if not weights:
        return names
    told = f"corpus {corpus.manifest_url} holds {', '.join(names)}"
    check_names("mixture", weights, names, told=told, every=True)
    check_shares("mixture", weights)
    return [name for name in names if weights[name] > 0]


def _long_enough(
    corpus: Corpus, names: list[str], sequence_length: int, global_batch_size: int, weighted: bool
) -> list[str]:
    """Of these sources, those that have a window; UserError for one that has a weight, or too few in all."""
    tokens = {
        name: sum(corpus.shards[number].tokens for number in corpus.shard_numbers(name, "train"))
        for name in names
    }
    windows = windows_in(np.array(list(tokens.values()), np.int64), sequence_length)
    if int(windows.sum()) < global_batch_size:
        raise UserError(
            f"corpus {corpus.manifest_url} holds {int(windows.sum())} windows of {sequence_length} "
            f"tokens, fewer than one batch of {global_batch_size}"
        )
    for name in np.array(names, object)[windows == 0]:
        if weighted:
            raise UserError(
                f"mixture.{name}: the source has fewer than {sequence_length + 1} tokens in "
                f"{corpus.manifest_url}; 0 leaves it out"
            )
        logger.warning(
            "source %s of %s is left out: its %d tokens are fewer than the %d of a window",
            name,
            corpus.manifest_url,
            tokens[name],
            sequence_length + 1,
        )
    return [name for name, count in zip(names, windows, strict=True) if count]
