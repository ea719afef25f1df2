"""Text generation with a key-value cache."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from base.errors import UserError
from model.neox import NeoX


@torch.no_grad()
def generate(
    model: NeoX,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds: Sequence[int] | None = None,
    end_id: int | None = None,
) -> list[list[int]]:
    """Tokens that follow each prompt, at most `max_new_tokens`, without the prompt and without `end_id`.

    A row ends at `end_id`, so it is cut off if and only if it has max_new_tokens tokens. temperature 0 takes
    the most probable token; otherwise tokens are drawn from the smallest set whose probability reaches top_p
    (nucleus sampling, Holtzman et al. 2020) with a random stream per row, given by seeds. A row's tokens do
    not depend on the other rows, up to the rounding of the matrix products. Tokens of the padded vocabulary
    are never generated. Raises UserError for an empty prompt and for one that leaves too few positions.
    """
    if not prompts:
        return []
    if temperature > 0 and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError("sampling needs one seed per prompt")
    limit = model.config.max_sequence_length
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {row} is empty")
        if len(prompt) + max_new_tokens > limit:
            raise UserError(
                f"prompt {row} has {len(prompt)} tokens; with {max_new_tokens} new ones it exceeds the "
                f"model's {limit} positions"
            )
    device = model.final_layer_norm.weight.device
    tokens, lengths = _right_padded(prompts, device)
    # Drawn at once and indexed by step, so that a row's draws depend on its seed and the step alone.
    streams = [np.random.default_rng(seed) for seed in seeds or [0] * len(prompts)]
    draws = np.stack([stream.random(max_new_tokens) for stream in streams])
    uniforms = torch.from_numpy(draws).to(device)
    cache = model.new_cache(len(prompts), tokens.shape[1] + max_new_tokens)
    positions = torch.arange(tokens.shape[1], device=device).expand_as(tokens)
    hidden = model.hidden_states(tokens, positions, cache)
    hidden = hidden.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, hidden.shape[2]))
    produced: list[Tensor] = []
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        logits = model.embed_out(hidden).squeeze(1)[:, : model.vocab_size].float()
        if temperature > 0:
            chosen = _nucleus(logits / temperature, top_p, uniforms[:, step])
        else:
            chosen = logits.argmax(dim=1)
        produced.append(chosen)
        if end_id is not None:
            finished |= chosen == end_id
            if bool(finished.all()):
                break
        if step + 1 < max_new_tokens:
            hidden = model.hidden_states(chosen.unsqueeze(1), (lengths + step).unsqueeze(1), cache)
    rows: list[list[int]] = torch.stack(produced, dim=1).tolist() if produced else [[] for _ in prompts]
    return [row[: row.index(end_id)] if end_id in row else row for row in rows]


def _nucleus(logits: Tensor, top_p: float, uniform: Tensor) -> Tensor:
    """One token per row of logits (rows, vocabulary), by inverting the distribution function at `uniform`."""
    probabilities, order = logits.double().softmax(dim=1).sort(dim=1, descending=True, stable=True)
    before = probabilities.cumsum(dim=1) - probabilities
    reach = (probabilities * (before < top_p)).cumsum(dim=1)
    index = torch.searchsorted(reach, uniform.unsqueeze(1) * reach[:, -1:], right=True)
    return order.gather(1, index.clamp_max(order.shape[1] - 1)).squeeze(1)


def _right_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows as (rows, longest) int64, zeros on the right, which no token attends to; and lengths (rows,)."""
    lengths = [len(row) for row in rows]
    tokens = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    return torch.from_numpy(tokens).to(device), torch.tensor(lengths, device=device)
