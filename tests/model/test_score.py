"""Losses of documents: every token is predicted once, in its place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ModelConfig
from tests.helpers.late import RUNNING

if RUNNING:
    import torch

    from model.evaluation import bits_per_byte
    from model.loss import IGNORE
    from model.neox import NeoX
    from model.score import document_nats, windows


END = 0
Documents = st.lists(st.lists(st.integers(1, 50), min_size=0, max_size=23), max_size=6)


def column(documents: list[list[int]], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """The documents as the buffers of a sliced large_list column."""
    offsets = np.cumsum([0, *(len(document) for document in documents)]).astype(np.int64) + 7
    return np.array([token for document in documents for token in document], dtype), offsets


@given(Documents, st.integers(1, 9), st.sampled_from([np.uint16, np.uint32]))
def test_windows_predict_every_token_once_after_the_one_before(
    documents: list[list[int]], length: int, dtype: type
) -> None:
    inputs, targets, owner = windows(*column(documents, dtype), END, length)
    # Rows are no longer than the longest document.
    width = min(length, max([1, *map(len, documents)]))
    assert inputs.shape == targets.shape == (len(owner), width)
    for number, document in enumerate(documents):
        rows = owner == number
        wanted = targets[rows][targets[rows] != IGNORE]
        given_ = inputs[rows][targets[rows] != IGNORE]
        assert wanted.tolist() == document
        assert given_.tolist() == [END, *document[:-1]][: len(document)]
    assert inputs.min(initial=0) >= 0


@settings(max_examples=15, deadline=None)
@given(Documents, st.integers(1, 4))
def test_nats_equal_the_plain_sum_and_do_not_depend_on_the_batch(
    documents: list[list[int]], batch: int
) -> None:
    model = NeoX(ModelConfig(hidden_size=16, num_layers=1, num_heads=2, max_sequence_length=8), 60).eval()
    found = document_nats(model, *column(documents, np.uint16), END, 8, batch)
    for number, document in enumerate(documents):
        expected = 0.0
        for start in range(0, len(document), 8):
            part = torch.tensor([[END, *document][start : start + 9]])
            with torch.no_grad():
                losses = model(part[:, :-1], part[:, 1:], reduction="none")
            expected += float(losses.sum())
        assert found[number] == pytest.approx(expected, rel=1e-4)


def test_bits_per_byte() -> None:
    assert bits_per_byte(np.log(2), tokens=100, text_bytes=50) == pytest.approx(2.0)
