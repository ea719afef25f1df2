"""Cross-entropy of a linear output layer, a chunk of positions at a time.

The plain way holds the logits of all positions several times over (in the model's dtype, in float32, and
their gradient); at 4,096 positions × 50,688 tokens each copy in float32 is 0.8 GB per sequence. Here the
logits of one chunk exist at a time, and the gradients are computed while they do. The method is that of
Hsu et al. 2024 (Liger Kernel, arXiv:2410.10989).
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

IGNORE = -100
"""Targets with this value count for nothing."""


def _chunk_logits(hidden: Tensor, weight: Tensor, vocab_size: int) -> Tensor:
    """Float32 logits (positions, vocab_size) without the padding columns.

    The product runs over the padded vocabulary, because unaligned columns would take a slow path on GPUs.
    """
    return (hidden @ weight.t())[:, :vocab_size].float()


def _loss_to_gradient(product: Tensor, target: Tensor, vocab_size: int) -> Tensor:
    """The summed loss of logits (positions, padded vocabulary), which become its gradient in place."""
    logits = product[:, :vocab_size].float()  # in float32 the same memory
    counts = (target != IGNORE).float().unsqueeze(1)
    column = target.clamp_min(0).unsqueeze(1)
    wanted = logits.gather(1, column)
    highest = logits.amax(dim=1, keepdim=True)
    normalizer = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
    loss = ((normalizer.log() + highest - wanted) * counts).sum()
    logits.mul_(counts / normalizer)
    logits.scatter_add_(1, column, -counts)
    if logits.dtype != product.dtype:
        product[:, :vocab_size] = logits
    product[:, vocab_size:] = 0
    return loss


def _loss_to_gradient_in_one_pass(product: Tensor, target: Tensor, vocab_size: int) -> Tensor:
    """As _loss_to_gradient, without in-place steps: what torch.compile makes one kernel of."""
    columns = torch.arange(product.shape[1], device=product.device)
    logits = torch.where(columns < vocab_size, product.float(), -torch.inf)
    counts = (target != IGNORE).float().unsqueeze(1)
    column = target.clamp_min(0).unsqueeze(1)
    normalizer = logits.logsumexp(dim=1, keepdim=True)
    loss = ((normalizer - logits.gather(1, column)) * counts).sum()
    product.copy_(((logits - normalizer).exp() - (columns == column).float()) * counts)
    return loss


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor, int], Tensor]:
    return torch.compile(_loss_to_gradient_in_one_pass, dynamic=False)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, chunk: int, compile: bool
    ) -> Tensor:
        loss_to_gradient = _compiled() if compile else _loss_to_gradient
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        # Gradients of the summed loss: they are of order one, so that float16 neither under- nor overflows
        # before backward() brings in the loss scale and the number of positions.
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        weight_gradient = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wants_weight else None
        )
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            part, target = hidden[start : start + chunk], targets[start : start + chunk]
            product = part @ weight.t()
            total += loss_to_gradient(product, target, vocab_size)
            if hidden_gradient is not None:
                torch.mm(product, weight, out=hidden_gradient[start : start + chunk])
            if weight_gradient is not None:
                if product.dtype == torch.float32:
                    weight_gradient.addmm_(product.t(), part)
                elif product.is_cuda:
                    torch.addmm(
                        weight_gradient, product.t(), part, out_dtype=torch.float32, out=weight_gradient
                    )
                else:
                    weight_gradient += product.t() @ part
            del product  # before the next one is made
        count = (targets != IGNORE).sum().clamp_min(1)
        ctx.save_for_backward(hidden_gradient, weight_gradient, count)
        ctx.weight_dtype = weight.dtype
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient, count = ctx.saved_tensors
        factor = gradients[0].float() / count
        if hidden_gradient is not None:
            hidden_gradient = hidden_gradient * factor
        if weight_gradient is not None:
            scaled = torch.empty(weight_gradient.shape, dtype=ctx.weight_dtype, device=weight_gradient.device)
            weight_gradient = torch.mul(weight_gradient, factor, out=scaled)
        return hidden_gradient, weight_gradient, None, None, None, None


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocab_size: int,
    chunk: int,
    compile: bool = False,
) -> Tensor:
    """Mean cross-entropy in nats per token of `softmax(hidden @ weightᵀ)`, as a float32 scalar.

    hidden (N, hidden size), weight (padded vocabulary, hidden size), targets (N,) int64 in [0, vocab_size),
    or IGNORE. Rows of `weight` from `vocab_size` on are padding: they take no probability and get a zero
    gradient. `chunk` positions are processed at a time. The loss and the gradient of `weight` are summed in
    float32. compile: torch.compile fuses what is done with the logits.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, vocab_size, chunk, compile
    )
    return loss


@torch.no_grad()
def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, chunk: int) -> Tensor:
    """Cross-entropy of every position in nats, (N,) float32, zero where the target is IGNORE; no gradients.

    Arguments as in chunked_cross_entropy.
    """
    losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    for start in range(0, hidden.shape[0], chunk):
        part, target = hidden[start : start + chunk], targets[start : start + chunk]
        logits = _chunk_logits(part, weight, vocab_size)
        losses[start : start + chunk] = torch.nn.functional.cross_entropy(
            logits, target, ignore_index=IGNORE, reduction="none"
        )
    return losses
