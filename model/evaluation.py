"""Held-out loss in the course of a training run."""

import logging
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from base.errors import UserError
from model import ranks
from model.corpus import Corpus
from model.job import TrainJob
from model.loss import IGNORE

logger = logging.getLogger("piledriver.train")


def bits_per_byte(nats_per_token: float, tokens: int, text_bytes: int) -> float:
    """Bits per byte of text (Gao et al. 2020, The Pile, section 3.1): nats · tokens / (bytes · ln 2)."""
    return nats_per_token * tokens / (text_bytes * math.log(2))


def heldout_batches(corpus: Corpus, source: str, length: int, rows: int) -> NDArray[np.int64]:
    """The first windows of a source's held-out stream, [rows, length + 1]; IGNORE where there is no token."""
    wanted = rows * length + 1
    tokens = corpus.heldout(source, max_tokens=wanted).input_ids[:wanted].astype(np.int64)
    windows = np.full((rows, length + 1), IGNORE, np.int64)
    for row in range(rows):
        part = tokens[row * length : (row + 1) * length + 1]
        windows[row, : len(part)] = part
    return windows


def evaluate(
    engine: Any, job: TrainJob, corpus: Corpus, *, share: int, shares: int
) -> dict[str, dict[str, float]]:
    """Held-out loss (nats a token) and bits per byte of each source, over `evaluate_batches` micro batches.

    All ranks call it; each takes one of `shares` of the windows.
    """
    size, length = job.train.micro_batch_size, job.model.max_sequence_length
    results: dict[str, dict[str, float]] = {}
    for source in corpus.sources("heldout"):
        totals = corpus.version.manifest.sources[source]
        available = -(-max(totals.heldout_tokens - 1, 0) // length)
        # Every rank does as many passes as every other, because ZeRO-3 gathers weights in each.
        rows = -(-min(job.train.evaluate_batches * size, available) // (size * shares)) * size * shares
        sums = torch.zeros(2, dtype=torch.float64)
        failed = torch.zeros(1)
        try:
            windows = heldout_batches(corpus, source, length, rows)
        except UserError as error:
            if job.train.damaged_shards == "stop":
                raise
            logger.warning("%s; the source is not evaluated", error)
            failed += 1
        if ranks.total(failed, engine.device) > 0:  # other ranks may have read it
            continue
        for start in range(share * size, rows, size * shares):
            batch = torch.from_numpy(windows[start : start + size]).to(engine.device)
            with torch.no_grad():
                losses = engine.module(batch[:, :-1].clamp_min(0), batch[:, 1:], "none")
            counted = batch[:, 1:] != IGNORE
            sums[0] += losses.double()[counted].sum().cpu()
            sums[1] += counted.sum().cpu()
        sums = ranks.total(sums, engine.device)
        if sums[1] == 0:
            continue
        loss = float(sums[0] / sums[1])
        results[source] = {"loss": loss}
        if totals.heldout_text_bytes:
            density = totals.heldout_tokens, totals.heldout_text_bytes
            results[source]["bits_per_byte"] = bits_per_byte(loss, *density)
    return results
