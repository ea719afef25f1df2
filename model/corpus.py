"""Token shards of a corpus version, opened when they are first read."""

import errno
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from base import files, manifest
from base.contents import ShardEntry
from base.damage import UnreadableError
from base.errors import UserError
from base.manifest import TokenizerFacts, Version
from model.shard_cache import ShardCache

MOST_OPEN = 16384
"""Shards that stay mapped; those read longest ago are closed. Linux allows a process 65,530 maps."""
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype(np.uint16), "uint32": np.dtype(np.uint32)}


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
class OpenShard:
    """An open shard; `tokens` points into the file's pages, `table` keeps them mapped."""

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    table: pa.RecordBatch
    copy: str | None
    """Path in the cache of a remote shard; None for a local one."""


class Corpus:
    """One corpus version and its open shards."""

    def __init__(self, version: Version, cache: ShardCache | None = None, verify: bool = False) -> None:
        """No shard is opened. Raises UserError for tokens of a type that shards cannot have.

        verify: compare each shard with its digest when it is first read.
        """
        self.version = version
        self.manifest_url = version.manifest_url
        self.hash = version.hash
        """xxh3-128 hex of the manifest's bytes."""
        self.tokenizer: TokenizerFacts = version.manifest.tokenizer
        self.shards: list[ShardEntry] = version.shards
        if self.tokenizer.dtype not in DTYPES:
            raise UserError(f"{self.manifest_url} is damaged: tokenizer.dtype is {self.tokenizer.dtype!r}")
        self.dtype = DTYPES[self.tokenizer.dtype]
        self._cache = cache or ShardCache()
        self._verify = verify
        self._open: dict[int, OpenShard] = {}
        """Those read longest ago come first."""
        self._numbers: dict[tuple[str, str], list[int]] = {}
        for number, shard in enumerate(self.shards):
            if shard.tokens:
                self._numbers.setdefault((shard.source, shard.split), []).append(number)

    @classmethod
    def open(cls, manifest_url: str, cache: ShardCache | None = None, verify: bool = False) -> "Corpus":
        """Read a manifest. Raises UserError when there is none, or it is damaged."""
        return cls(manifest.open_version(files.absolute(manifest_url)), cache, verify)

    def sources(self, split: str = "train") -> list[str]:
        """Names of the sources that have tokens in `split`, in manifest order of their shards."""
        return [source for source, of in self._numbers if of == split]

    def shard_numbers(self, source: str, split: str) -> list[int]:
        """Positions in the manifest of a source's shards that hold tokens."""
        return self._numbers.get((source, split), [])

    def shard_url(self, number: int) -> str:
        """The URL of the shard at a position of the manifest."""
        return self.version.below_versions(self.shards[number].path)

    def shard(self, number: int) -> OpenShard:
        """The shard at a position of the manifest, which is open as long as the result is kept.

        Raises UserError when it is damaged.
        """
        opened = self._open.pop(number, None) or self._read(number)
        self._open[number] = opened
        while len(self._open) > MOST_OPEN:
            self._open.pop(next(iter(self._open)), None)
        return opened

    def close_removed(self) -> None:
        """Close the shards whose copies the cache has removed, so that the disk gets their room."""
        for number, shard in list(self._open.items()):
            if shard.copy and not os.path.exists(shard.copy):
                self._open.pop(number, None)

    def _read(self, number: int) -> OpenShard:
        entry, url = self.shards[number], self.shard_url(number)
        copy = None
        try:
            path = files.local_path(url)
            if path is None:
                path = copy = self._cache.fetch(url, entry.digest, entry.bytes)
            if self._verify and files.digest(path) != entry.digest:
                raise pa.ArrowInvalid("its digest is not the one in the manifest")
            batches = pa.ipc.open_file(pa.memory_map(path))
            if batches.num_record_batches != 1:
                raise pa.ArrowInvalid(f"{batches.num_record_batches} record batches instead of 1")
            batch = batches.get_batch(0)
            batch.validate(full=True)
            identifiers = batch.schema.field("document_id").type
            if identifiers != pa.binary(16):
                raise pa.ArrowInvalid(f"its document ids are {identifiers}")
            column = batch.column("input_ids")
            offsets = column.offsets.to_numpy(zero_copy_only=True)
            tokens = column.values.to_numpy(zero_copy_only=True)[offsets[0] : offsets[-1]]
        except FileNotFoundError:
            raise UserError(f"shard {url} of manifest {self.manifest_url} does not exist") from None
        except (pa.ArrowException, KeyError, ValueError, AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
                raise UnreadableError(f"shard {url} cannot be opened: {os.strerror(error.errno)}") from None
            raise UserError(f"shard {url} is damaged: {' '.join(str(error).split())}") from None
        if tokens.dtype != self.dtype or len(tokens) != entry.tokens:
            raise UserError(
                f"shard {url} is damaged: it holds {len(tokens)} {tokens.dtype} tokens, "
                f"the manifest says {entry.tokens} {self.dtype}"
            )
        return OpenShard(tokens, offsets, batch, copy)

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
