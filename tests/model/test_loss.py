from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.late import RUNNING

if RUNNING:
    import torch

    from model.loss import IGNORE, chunked_cross_entropy, token_losses


def problem(
    positions: int, hidden: int, vocab: int, padding: int, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(positions * 1000 + vocab)
    states = torch.randn(positions, hidden, generator=generator).to(dtype=dtype).requires_grad_()
    weight = torch.randn(vocab + padding, hidden, generator=generator).to(dtype=dtype).requires_grad_()
    targets = torch.randint(0, vocab, (positions,), generator=generator)
    return states, weight, targets


def gradients(loss: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, tensors)


@settings(max_examples=40, deadline=None)
@given(
    positions=st.integers(1, 40),
    vocab=st.integers(2, 50),
    padding=st.integers(0, 9),
    chunk=st.integers(1, 64),
    ignored=st.sets(st.integers(0, 39)),
)
def test_loss_and_gradients_equal_the_plain_cross_entropy(positions, vocab, padding, chunk, ignored):
    hidden, weight, targets = problem(positions, 8, vocab, padding)
    targets[[index for index in ignored if index < positions]] = IGNORE
    if bool((targets == IGNORE).all()):
        targets[0] = 1
    loss = chunked_cross_entropy(hidden, weight, targets, vocab, chunk)
    expected = torch.nn.functional.cross_entropy((hidden @ weight.t())[:, :vocab], targets)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    for ours, plain in zip(
        gradients(3 * loss, hidden, weight), gradients(3 * expected, hidden, weight), strict=True
    ):
        torch.testing.assert_close(ours, plain, atol=2e-6, rtol=2e-6)
    each = token_losses(hidden, weight, targets, vocab, chunk)
    plain = torch.nn.functional.cross_entropy((hidden @ weight.t())[:, :vocab], targets, reduction="none")
    torch.testing.assert_close(each, plain.detach(), atol=2e-6, rtol=2e-6)


def test_padding_rows_get_no_gradient():
    hidden, weight, targets = problem(20, 8, 30, 6)
    (gradient,) = gradients(chunked_cross_entropy(hidden, weight, targets, 30, 7), weight)
    assert (gradient[30:] == 0).all() and (gradient[:30] != 0).any()


def test_all_targets_ignored_gives_zero_and_no_gradient():
    hidden, weight, targets = problem(5, 8, 30, 0)
    loss = chunked_cross_entropy(hidden, weight, torch.full_like(targets, IGNORE), 30, 2)
    assert loss.item() == 0
    assert all((gradient == 0).all() for gradient in gradients(loss, hidden, weight))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 4096.0])
def test_half_precision_is_as_close_to_exact_as_the_plain_way(name, scale):
    dtype = getattr(torch, name)
    hidden, weight, targets = problem(300, 16, 200, 8, dtype)
    weight = (weight * 0.2).detach().requires_grad_()
    exact_hidden, exact_weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    exact = torch.nn.functional.cross_entropy((exact_hidden @ exact_weight.t())[:, :200], targets)
    plain = torch.nn.functional.cross_entropy((hidden @ weight.t())[:, :200].float(), targets)
    chunked = chunked_cross_entropy(hidden, weight, targets, 200, 32)
    assert chunked.dtype == torch.float32
    assert abs(chunked.item() - exact.item()) < 1e-3 * exact.item()
    wanted = gradients(exact * scale, exact_hidden, exact_weight)
    for ours, theirs, right in zip(
        gradients(chunked * scale, hidden, weight),
        gradients(plain * scale, hidden, weight),
        wanted,
        strict=True,
    ):
        assert ours.dtype == dtype
        ours_error, their_error = ((got.double() - right).norm() / right.norm() for got in (ours, theirs))
        assert ours_error < 1.1 * their_error + 1e-3


def test_backward_can_run_twice():
    hidden, weight, targets = problem(9, 8, 30, 2)
    loss = chunked_cross_entropy(hidden, weight, targets, 30, 4)
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_peak_memory_is_far_below_the_plain_way():
    from torch.profiler import ProfilerActivity, profile

    def peak(function) -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            function()
        current = highest = 0
        for event in trace.profiler.kineto_results.events():
            if event.name() == "[memory]":
                current += event.nbytes()
                highest = max(highest, current)
        return highest

    hidden, weight, targets = problem(2048, 16, 4096, 0)
    plain = peak(lambda: torch.nn.functional.cross_entropy(hidden @ weight.t(), targets).backward())
    chunked = peak(lambda: chunked_cross_entropy(hidden, weight, targets, 4096, 64).backward())
    assert plain > 2 * 2048 * 4096 * 4
    assert chunked < plain / 10
