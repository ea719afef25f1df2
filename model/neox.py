"""GPT-NeoX (Black et al. 2022, arXiv:2204.06745): the model StableLM-Base-Alpha and Pythia are made of.

Parameters are those of Hugging Face's GPTNeoXForCausalLM: its state dict is this one's under other names
(model.convert), and the logits are the same.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import xxhash
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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


class NeoX(nn.Module):
    """A GPT-NeoX language model."""

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        *,
        end_of_document_id: int | None = None,
        activation_checkpointing: bool = False,
        loss_chunk: int = 1024,
        seed: int | None = 0,
    ) -> None:
        """A model for a tokenizer of `vocab_size` tokens, which is padded as `config` says.

        end_of_document_id is needed for `config.attention_reset`. activation_checkpointing recomputes each
        layer in the backward pass. loss_chunk positions have logits at one time. seed: see initialize; None
        leaves the parameters unset, for those who load a checkpoint.
        """
        super().__init__()
        if config.attention_reset and end_of_document_id is None:
            raise ValueError("attention_reset needs the end-of-document token's id")
        self.config = config
        self.vocab_size = vocab_size
        self.padded_vocab_size = config.padded_vocab_size(vocab_size)
        self.end_of_document_id = end_of_document_id
        self.activation_checkpointing = activation_checkpointing
        self.embed_in = Embedding(self.padded_vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.embed_out = OutputLayer(config.hidden_size, self.padded_vocab_size, vocab_size, loss_chunk)
        if config.tie_embeddings:
            self.embed_out.weight = self.embed_in.weight
        if seed is not None:
            self.initialize(seed)

    def forward(self, input_ids: Tensor, targets: Tensor | None = None, reduction: str = "mean") -> Tensor:
        """Logits or losses of input_ids (batch, length) int64.

        Without targets: logits (batch, length, padded_vocab_size) in the model's dtype. With targets
        (batch, length), each the token after its input or loss.IGNORE: their mean loss (float32 scalar), or
        with reduction "none" every loss (batch, length) in float32, without gradients.
        """
        logits_or_loss: Tensor = self.embed_out(self.hidden_states(input_ids), targets, reduction)
        return logits_or_loss

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean loss of predicting tokens[:, 1:] from those before, for tokens (batch, length + 1) int64."""
        return self(tokens[:, :-1], tokens[:, 1:])  # type: ignore[no-any-return]

    def hidden_states(
        self, input_ids: Tensor, positions: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """The normed last hidden states (batch, length, hidden size) of input_ids (batch, length).

        With a cache, `positions` (batch, length) says where each token stands in its row; the first call must
        start at position 0 in every row, and later calls add one position to the longest row.
        """
        config, length = self.config, input_ids.shape[1]
        if positions is None:
            positions = torch.arange(length, device=input_ids.device).unsqueeze(0)
        hidden = self.embed_in(input_ids)
        mask = self._mask(input_ids, positions, cache)
        tables = rotary_tables(positions, config.rotary_size, config.rotary_base, hidden.dtype)
        rotary = (tables[0][:, :, None, None], tables[1][:, :, None, None])
        for layer in self.layers:
            if self.activation_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, rotary, mask, cache, positions, use_reentrant=False)
            else:
                hidden = layer(hidden, rotary, mask, cache, positions)
        normed: Tensor = self.final_layer_norm(hidden)
        return normed

    def compile_parts(self) -> None:
        """Run the layers, which share one compiled graph, and the loss through torch.compile from now on."""
        for layer in self.layers:
            layer.compile()
        self.embed_out.compiles_loss = True

    def _mask(self, input_ids: Tensor, positions: Tensor, cache: Cache | None) -> Tensor | None:
        """The mask of Layer.forward; records the tokens in the cache and advances its length."""
        tokens, first = input_ids, True
        if cache is not None:
            first = cache.length == 0
            cache.tokens.scatter_(1, positions.expand_as(input_ids), input_ids)
            cache.length += input_ids.shape[1]
            tokens = cache.tokens[:, : cache.length]
        if first and not self.config.attention_reset:
            return None
        keys = torch.arange(tokens.shape[1], device=input_ids.device)
        mask = keys <= positions.unsqueeze(-1)
        if self.config.attention_reset:
            assert self.end_of_document_id is not None
            ends = tokens.eq(self.end_of_document_id)
            documents = ends.cumsum(1) - ends.long()  # an end belongs to the document that it ends
            here = documents.gather(1, positions.expand_as(input_ids))
            mask = mask & (here.unsqueeze(2) == documents.unsqueeze(1))
        return mask.unsqueeze(1)

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `batch` rows of at most `capacity` positions."""
        weight = self.final_layer_norm.weight
        shape = (self.config.num_layers, batch, self.config.num_heads, capacity, self.config.head_size)
        keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        tokens = torch.zeros(batch, capacity, dtype=torch.int64, device=weight.device)
        return Cache(keys, torch.zeros_like(keys), tokens)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Set every parameter as the configuration's init methods say.

        Values are the same on any device, in any dtype and at any ZeRO stage: each matrix has a random stream
        of its own, by (seed, name), and is drawn on the CPU in float32. small_init: Nguyen & Salazar 2019
        (arXiv:1910.05895); wang_init: Wang & Komatsuzaki 2021 (GPT-J). Embeddings are initialised as the
        matrices are (GPT-NeoX does so).
        """
        config = self.config
        inner = math.sqrt(2 / (5 * config.hidden_size)) if config.init_method == "small_init" else 0.02
        output = 2 / (config.num_layers * math.sqrt(config.hidden_size))

        def draw(named: tuple[str, nn.Parameter]) -> Tensor:
            name, parameter = named
            shape = getattr(parameter, "ds_shape", parameter.shape)
            if name.endswith("norm.weight"):
                return torch.ones(shape)
            if name.endswith(".bias"):
                return torch.zeros(shape)
            is_output = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
            std = output if is_output and config.output_init_method == "wang_init" else inner
            stream = xxhash.xxh3_64_intdigest(f"{seed}/{name}".encode()) >> 1
            generator = torch.Generator().manual_seed(stream)
            return torch.empty(shape, dtype=torch.float32).normal_(0, std, generator=generator)

        parameters, threads = list(self.named_parameters()), min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(parameters), threads):  # as many matrices exist at one time
                some = parameters[start : start + threads]
                for (_, parameter), values in zip(some, pool.map(draw, some), strict=True):
                    _assign(parameter, values)


def _assign(parameter: nn.Parameter, values: Tensor) -> None:
    if hasattr(parameter, "ds_id"):  # partitioned by deepspeed.zero.Init
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(values)
    else:
        parameter.copy_(values)


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups for an optimizer: matrices and embeddings decay, norms and biases do not."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_other = name.endswith(".bias") or "norm." in name
        (others if is_other else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
