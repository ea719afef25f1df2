"""GPT-NeoX (Black et al. 2022, arXiv:2204.06745): the model StableLM-Base-Alpha and Pythia are made of.

Parameters are those of Hugging Face's GPTNeoXForCausalLM: its state dict is this one's under other names
(model.convert), and the logits are the same.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model import initialization
from model.config import ModelConfig
from model.layers import Cache, Embedding, Layer, OutputLayer, rotary_tables


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

    def initialize(self, seed: int) -> None:
        """Set every parameter as the configuration's init methods say, see model.initialization."""
        initialization.initialize(self, self.config, seed)


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
