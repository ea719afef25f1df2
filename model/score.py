"""Losses of whole documents: what evaluation and perplexity filters are made of."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from model.loss import IGNORE
from model.neox import NeoX


def windows(
    tokens: NDArray[np.integer], offsets: NDArray[np.int64], end_of_document_id: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut documents into rows of at most `length` positions that predict every token once.

    tokens and offsets are those of a large_list column. Each document is preceded by the end-of-document
    token, as it is in training, so that its first token is predicted too; windows do not overlap.

    Returns inputs and targets (rows, length) int64, targets padded with IGNORE, and the document of each row.
    """
    tokens = tokens.astype(np.int64) if len(tokens) else np.zeros(1, np.int64)
    sizes = np.diff(offsets)
    length = min(length, max(int(sizes.max(initial=1)), 1))
    counts = -(-sizes // length)
    document = np.repeat(np.arange(len(sizes)), counts)
    place = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    column = np.arange(length)
    position = place[:, None] * length + column[None, :]
    valid = position < sizes[document][:, None]
    at = np.where(valid, offsets[:-1][document][:, None] + position, offsets[0])
    targets = np.where(valid, tokens[at - offsets[0]], IGNORE)
    inputs = np.empty_like(targets)
    inputs[:, 1:] = np.where(targets[:, :-1] == IGNORE, end_of_document_id, targets[:, :-1])
    before = np.maximum(at[:, 0] - 1 - offsets[0], 0)
    inputs[:, 0] = np.where(place == 0, end_of_document_id, tokens[before])
    return inputs, targets, document


@torch.inference_mode()
def document_nats(
    model: NeoX,
    tokens: NDArray[np.integer],
    offsets: NDArray[np.int64],
    end_of_document_id: int,
    length: int,
    batch: int,
) -> NDArray[np.float64]:
    """Total cross-entropy of every document in nats, over all its tokens; see `windows` for the context."""
    inputs, targets, document = windows(tokens, offsets, end_of_document_id, length)
    device = next(model.parameters()).device
    nats = np.zeros(len(offsets) - 1)
    for rows in _batches(len(document), batch):
        widest = int((targets[rows] != IGNORE).sum(1).max())
        given = torch.from_numpy(inputs[rows, :widest]).to(device)
        wanted = torch.from_numpy(targets[rows, :widest]).to(device)
        losses = model(given, wanted, reduction="none").sum(1, dtype=torch.float64)
        np.add.at(nats, document[rows], losses.cpu().numpy())
    return nats


def _batches(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
