"""Counts of a model's parameters and FLOPs. Arithmetic only, no torch."""

from dataclasses import dataclass

from model.config import ModelConfig


@dataclass(frozen=True)
class Parameters:
    """Parameter counts of a model."""

    unique: int
    """Numbers that are trained, padded vocabulary included."""
    neox: int
    """As GPT-NeoX reports them: the sum over tensor-parallel ranks, in which what every rank holds whole
    (LayerNorms and the biases of the two output projections) counts once a rank."""
    layers: int
    """In the transformer layers and the final LayerNorm: all but the embeddings."""


def parameters(config: ModelConfig, vocab_size: int) -> Parameters:
    """Parameter counts for a tokenizer of `vocab_size` tokens."""
    hidden, mlp = config.hidden_size, config.mlp_size
    norms = 4 * hidden
    attention = 4 * hidden * hidden + (4 * hidden if config.attention_bias else 0)
    feed_forward = 2 * hidden * mlp + mlp + hidden
    layers = config.num_layers * (norms + attention + feed_forward) + 2 * hidden
    embeddings = (1 if config.tie_embeddings else 2) * config.padded_vocab_size(vocab_size) * hidden
    output_biases = (2 if config.attention_bias else 1) * hidden
    replicated = config.num_layers * (norms + output_biases) + 2 * hidden
    unique = layers + embeddings
    return Parameters(unique, unique + (config.model_parallel_size - 1) * replicated, layers)


def flops_per_token(
    config: ModelConfig, vocab_size: int, sequence_length: int, recompute: bool = False
) -> float:
    """FLOPs of forward and backward per token in sequences of `sequence_length`.

    Two per multiply-add and parameter of a matrix in the forward pass, twice that in the backward pass, and
    12 × layers × hidden size × length for attention's two products: the count of PaLM (Chowdhery et al. 2022,
    appendix B), on which MFU is based. It does not discount the causal mask. The embedding look-up is free;
    the output layer counts with its padded vocabulary. With `recompute`, the layers' forward pass counts once
    more (activation checkpointing): hardware FLOPs.
    """
    hidden = config.hidden_size
    layer = 2 * (4 * hidden * hidden + 2 * hidden * config.mlp_size) + 4 * hidden * sequence_length
    output = 2 * hidden * config.padded_vocab_size(vocab_size)
    passes = 4 if recompute else 3
    return float(passes * config.num_layers * layer + 3 * output)


def owned_parameters(config: ModelConfig, vocab_size: int, tensor_parallel: int) -> int:
    """Parameters of one of `tensor_parallel` workers that share every layer.

    The attention's and the MLP's matrices are divided among them, the biases of their first maps too.
    """
    hidden, mlp = config.hidden_size, config.mlp_size
    attention = 4 * hidden * hidden + (3 * hidden if config.attention_bias else 0)
    divided = config.num_layers * (attention + 2 * hidden * mlp + mlp)
    whole = parameters(config, vocab_size).unique - divided
    return whole + divided // tensor_parallel
