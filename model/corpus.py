"""Token shards of a corpus version, opened when they are first read."""

import errno
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from base import files, manifest
from base.contents import ShardEntry
from base.damage import UnreadableError
from base.errors import UserError
from base.manifest import TokenizerFacts, Version
from model.ranged import RemoteShards

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
    """A shard; `tokens` points into the pages of a local file, which `table` keeps mapped, or into memory."""

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    table: pa.RecordBatch


class Documents(NamedTuple):
    """The documents of a shard."""

    offsets: NDArray[np.int64]
    """[documents + 1] where each document starts."""
    ids: pa.Array
    """16 bytes a document."""


class Corpus:
    """One corpus version and its open shards."""

    def __init__(self, version: Version, verify: bool = False) -> None:
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
        self._verify = verify
        local = files.local_path(version.below_versions("shard")) is not None
        self.remote = None if local else RemoteShards(self.shards, self.dtype, self.shard_url)
        """What reads parts of the shards; None where they lie on this machine and are mapped."""
        self._verified: set[int] = set()
        """Remote shards that have their digests."""
        self._open: dict[int, OpenShard] = {}
        """Those read longest ago come first."""
        self._numbers: dict[tuple[str, str], list[int]] = {}
        for number, shard in enumerate(self.shards):
            if shard.tokens:
                self._numbers.setdefault((shard.source, shard.split), []).append(number)

    @classmethod
    def open(cls, manifest_url: str, verify: bool = False) -> "Corpus":
        """Read a manifest. Raises UserError when there is none, or it is damaged."""
        return cls(manifest.open_version(files.absolute(manifest_url)), verify)

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
        """The whole shard at a position of the manifest, which is open as long as the result is kept.

        A remote one is read into memory each time. Raises UserError when it is damaged.
        """
        if self.remote is not None:
            opened = self._read(number, self.remote.whole(number))
            self._verified.add(number)
            return opened
        mapped = self._open.pop(number, None)
        opened = self._open[number] = mapped if mapped is not None else self._read(number, None)
        while len(self._open) > MOST_OPEN:
            self._open.pop(next(iter(self._open)), None)
        return opened

    def documents(self, number: int) -> Documents:
        """The documents of the shard at a position of the manifest; of a remote one no token is read."""
        if self.remote is None:
            opened = self.shard(number)
            return Documents(opened.offsets, opened.table.column("document_id"))
        self.verify([number])
        return Documents(*self.remote.documents(number))

    def tokens(self, number: int, first: int, stop: int) -> NDArray[Any]:
        """Some tokens of the shard at a position of the manifest; of a remote one nothing else is read."""
        if self.remote is None:
            return self.shard(number).tokens[first:stop]
        self.verify([number])
        return self.remote.tokens([(number, first, stop)])[0]

    def verify(self, numbers: list[int]) -> None:
        """Compare remote shards with their digests, each once, if that is asked for."""
        for number in numbers:
            if self._verify and number not in self._verified:
                self.shard(number)

    def _read(self, number: int, content: bytes | None) -> OpenShard:
        """A shard from the content of its file; None for a local one, which is mapped."""
        entry, url = self.shards[number], self.shard_url(number)
        try:
            if content is None:
                path = str(files.local_path(url))
                digest = files.digest(path) if self._verify else entry.digest
                source = pa.memory_map(path)
            else:
                digest = xxhash.xxh3_128_hexdigest(content) if self._verify else entry.digest
                source = pa.BufferReader(content)
            if digest != entry.digest:
                raise pa.ArrowInvalid("its digest is not the one in the manifest")
            batches = pa.ipc.open_file(source)
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
        return OpenShard(tokens, offsets, batch)

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
            shard = self.documents(number)
            count = len(shard.offsets) - 1
            if max_documents is not None:
                count = min(count, max_documents - len(documents))
            if max_tokens is not None:
                begins = shard.offsets[:-1] - shard.offsets[0]
                count = min(count, int(np.searchsorted(begins, max_tokens - read)))
                read += int(shard.offsets[count] - shard.offsets[0])
            pieces.append(self.tokens(number, 0, int(shard.offsets[count] - shard.offsets[0])))
            lengths.append(np.diff(shard.offsets[: count + 1]))
            documents += shard.ids.slice(0, count).to_pylist()
        tokens = np.concatenate(pieces) if pieces else np.zeros(0, self.dtype)
        offsets = (
            np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
            if lengths
            else np.zeros(1, np.int64)
        )
        return Heldout(tokens, offsets.astype(np.int64), documents)
