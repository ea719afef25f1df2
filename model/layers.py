"""The parts of a GPT-NeoX model (Black et al. 2022, arXiv:2204.06745)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.loss import chunked_cross_entropy, token_losses


class Linear(nn.Linear):
    """A linear map whose values NeoX.initialize sets."""

    def reset_parameters(self) -> None:
        """Leave the values unset."""


class Embedding(nn.Embedding):
    """An embedding whose values NeoX.initialize sets."""

    def reset_parameters(self) -> None:
        """Leave the values unset."""


@dataclass
class Cache:
    """Keys and values of the positions seen so far, for generation.

    Rows of the batch may be of different lengths: each writes at its own positions, so no row is padded on
    the left and every token has the position that it would have alone.
    """

    keys: Tensor
    """(layers, batch, heads, capacity, head size)"""
    values: Tensor
    """As keys."""
    tokens: Tensor
    """(batch, capacity) int64"""
    length: int = 0
    """Positions in use in the longest row."""


def rotary_tables(positions: Tensor, size: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (…, size / 2) in `dtype` of rotary embeddings (Su et al. 2021) at `positions` (…).

    They are computed in float32 at every call instead of being kept in a buffer, because half precision
    cannot represent the angles, and `.half()`, `.to()` and ZeRO would cast a buffer.
    """
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size
    angles = positions.unsqueeze(-1).float() * (1.0 / base**exponents)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate the first dimensions of `vectors` (…, head size), twice as many as the tables have columns.

    Dimension i is paired with i + size / 2, the layout of GPT-NeoX.
    """
    half = cosines.shape[-1]
    first, second, rest = vectors.tensor_split([half, 2 * half], dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines, rest), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with partial rotary embeddings."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """`layer` is the index of its keys and values in a cache."""
        super().__init__()
        self.layer = layer
        self.head_size = config.head_size
        # Rows are grouped by head: its query, key and value, then those of the next head.
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size, config.attention_bias)
        self.dense = Linear(config.hidden_size, config.hidden_size, config.attention_bias)

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: Cache | None,
        at: Tensor,
    ) -> Tensor:
        """Attention's output (batch, length, hidden size); arguments as in Layer.forward."""
        batch, length, _ = hidden.shape
        # All heads, or this rank's when tensor parallelism splits the linear maps.
        fused = self.query_key_value(hidden).view(batch, length, -1, 3, self.head_size)
        # Splitting, whose gradient is one concatenation; that of indexing fills whole tensors with zeros.
        turned, value = fused.tensor_split([2], dim=3)
        query, key = rotate(turned, *rotary).transpose(1, 2).unbind(3)
        value = value.squeeze(3).transpose(1, 2)
        if cache is not None:
            keys, values = cache.keys[self.layer], cache.values[self.layer]
            rows = torch.arange(batch, device=hidden.device).unsqueeze(1)
            keys[rows, :, at] = key.transpose(1, 2)
            values[rows, :, at] = value.transpose(1, 2)
            if mask is not None:
                key, value = keys[:, :, : cache.length], values[:, :, : cache.length]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        output: Tensor = self.dense(attended.transpose(1, 2).reshape(batch, length, -1))
        return output


class MLP(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        """Named as in GPT-NeoX."""
        super().__init__()
        self.dense_h_to_4h = Linear(config.hidden_size, config.mlp_size)
        self.dense_4h_to_h = Linear(config.mlp_size, config.hidden_size)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, hidden size) to (…, hidden size)."""
        output: Tensor = self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden), approximate=self.approximate))
        return output


class Layer(nn.Module):
    """One transformer layer: attention and MLP, each with its own LayerNorm, in parallel or in sequence."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """`layer` is its index."""
        super().__init__()
        self.parallel_residual = config.parallel_residual
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: Cache | None,
        at: Tensor,
    ) -> Tensor:
        """The next residual stream (batch, length, hidden size).

        rotary: tables (rows, length, 1, 1, rotary size / 2). mask: (rows, 1, length, keys) bool, true where a
        query sees a key, or None for plain causal attention among the given positions. at: positions
        (batch, length) at which keys and values are written into `cache`.
        """
        attended = self.attention(self.input_layernorm(hidden), rotary, mask, cache, at)
        if self.parallel_residual:
            output: Tensor = self.mlp(self.post_attention_layernorm(hidden)) + attended + hidden
        else:
            hidden = attended + hidden
            output = self.mlp(self.post_attention_layernorm(hidden)) + hidden
        return output


class OutputLayer(Linear):
    """The output embedding: hidden states to logits or losses.

    The loss is computed inside this module's forward, because that is where ZeRO-3 gathers its weight.
    """

    def __init__(self, hidden_size: int, padded_vocab_size: int, vocab_size: int, chunk: int) -> None:
        """`chunk` positions have logits at one time when the loss is computed."""
        super().__init__(hidden_size, padded_vocab_size, bias=False)
        self.vocab_size = vocab_size
        self.chunk = chunk
        self.compiles_loss = False

    def forward(self, hidden: Tensor, targets: Tensor | None = None, reduction: str = "mean") -> Tensor:
        """Logits (…, padded vocabulary); given targets (…), their mean loss or the loss of each (…)."""
        if targets is None:
            return super().forward(hidden)
        flat = hidden.reshape(-1, hidden.shape[-1]), self.weight, targets.reshape(-1)
        if reduction == "mean":
            return chunked_cross_entropy(*flat, self.vocab_size, self.chunk, self.compiles_loss)
        return token_losses(*flat, self.vocab_size, self.chunk).view(targets.shape)
