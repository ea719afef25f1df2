"""Hugging Face checkpoints of GPTNeoXForCausalLM, both ways and bit for bit, without `transformers`.

A folder holds config.json, generation_config.json, model.safetensors (or numbered shards and their index),
tokenizer.json and tokenizer_config.json. config.json is written last: a folder without it is unfinished.
"""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from base import files
from base.damage import sound
from base.errors import UserError
from model import hub
from model.config import ModelConfig
from model.hub import HubConfig
from model.neox import NeoX

SHARD_BYTES = 5 * 10**9
"""Larger models are split into several safetensors files, as Hugging Face does."""

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
_BUFFERS = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
"""Ends of names of constants that older Hugging Face checkpoints hold beside the parameters."""


def check_state_dict(state: Mapping[str, Tensor], config: ModelConfig, vocab_size: int, source: str) -> None:
    """Raise UserError naming the first tensor of `state` that does not fit the model, and both shapes.

    `source` says in the message where the state comes from.
    """
    with torch.device("meta"):
        model = NeoX(config, vocab_size, end_of_document_id=0, seed=None)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in expected.items():
        if name not in state:
            raise UserError(
                f"{source} does not fit the model: it has no {name}, which the model needs as {shape}"
            )
        given = tuple(state[name].shape)
        if given != shape:
            raise UserError(f"{source} does not fit the model: {name} is {given}, the model needs {shape}")
    for name, tensor in state.items():
        if name not in expected:
            raise UserError(
                f"{source} does not fit the model: the model has no {name}, here {tuple(tensor.shape)}"
            )


def export_hf(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    vocab_size: int,
    folder: str,
    tokenizer: str | None = None,
    end_of_document: str = "<|endoftext|>",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write NeoX's state dict as a Hugging Face checkpoint; tensors keep their dtype and every bit.

    folder: URL; a checkpoint already there is replaced. vocab_size: tokens of the tokenizer; Hugging Face's
    vocab_size is the padded one, the real one is noted beside it. tokenizer: URL of a `tokenizers` JSON file;
    end_of_document: its token that ends documents and generation. Raises UserError when `state` does not fit.
    """
    check_state_dict(state, config, vocab_size, "the state to export")
    for name in ("config.json", "model.safetensors.index.json"):
        files.remove(files.join(folder, name))
    for shard in files.list_files(files.join(folder, "model*.safetensors")):
        files.remove(shard)
    tensors = {_hf_name(name): tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if config.tie_embeddings:
        del tensors["embed_out.weight"]
    end_id = None
    if tokenizer is not None:
        content = files.read_bytes(tokenizer)
        end_id = _token_id(json.loads(content), end_of_document, tokenizer)
        files.write_bytes(files.join(folder, "tokenizer.json"), content)
        files.write_json(
            files.join(folder, "tokenizer_config.json"),
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": end_of_document,
                "eos_token": end_of_document,
                "unk_token": end_of_document,
                "clean_up_tokenization_spaces": False,
                "model_max_length": config.max_sequence_length,
            },
        )
    special = {"bos_token_id": end_id, "eos_token_id": end_id}
    files.write_json(files.join(folder, "generation_config.json"), {"_from_model_config": True, **special})
    _write_tensors(tensors, folder, shard_bytes)
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    files.write_json(files.join(folder, "config.json"), _hf_config(config, vocab_size, dtype, special))


def import_hf(folder: str) -> tuple[ModelConfig, int, dict[str, Tensor]]:
    """The configuration, the tokenizer's vocabulary size and NeoX's state dict of a Hugging Face checkpoint.

    `folder` is a URL. Of a checkpoint that export_hf did not write, the vocabulary size is the padded one.
    Raises UserError when the folder holds no GPT-NeoX checkpoint in safetensors, when it uses what this model
    does not have, or when a tensor does not fit its configuration.
    """
    config, vocab_size = _model_config(hub.read_config(folder), folder)
    state = {
        _name(name): tensor for name, tensor in _read_tensors(folder).items() if not name.endswith(_BUFFERS)
    }
    if config.num_layers > len(state):
        raise UserError(
            f"{folder} holds {len(state)} tensors, its config.json asks for {config.num_layers} layers"
        )
    if config.tie_embeddings and "embed_in.weight" in state:
        state["embed_out.weight"] = state["embed_in.weight"]
    check_state_dict(state, config, vocab_size, folder)
    return config, vocab_size, state


def _hf_name(name: str) -> str:
    return name if name.startswith("embed_out.") else f"gpt_neox.{name}"


def _name(hf_name: str) -> str:
    """Our name of a tensor; since version 5 `transformers` calls the output embedding lm_head."""
    if hf_name == "lm_head.weight":
        return "embed_out.weight"
    return hf_name.removeprefix("gpt_neox.")


def _hf_config(config: ModelConfig, vocab_size: int, dtype: str, special: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "torch_dtype": dtype,
        "vocab_size": config.padded_vocab_size(vocab_size),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_size,
        "max_position_embeddings": config.max_sequence_length,
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rotary_base,
        "use_parallel_residual": config.parallel_residual,
        "attention_bias": config.attention_bias,
        "hidden_act": "gelu_pytorch_tanh" if config.activation == "gelu_tanh" else "gelu",
        "layer_norm_eps": config.layer_norm_epsilon,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        **special,
        "piledriver": {"vocab_size": vocab_size, "model": config.model_dump(mode="json")},
    }


def _model_config(content: HubConfig, folder: str) -> tuple[ModelConfig, int]:
    if content.piledriver is not None:
        return content.piledriver.model, content.piledriver.vocab_size
    rope = content.rope_parameters or content.rope_scaling or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"{folder} uses {kind} rotary embeddings; only the default ones are supported")
    if content.hidden_act not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UserError(f"{folder} uses the activation {content.hidden_act}; supported are {known}")
    fraction, base = content.rotary_pct, content.rotary_emb_base
    values = {
        "hidden_size": content.hidden_size,
        "num_layers": content.num_hidden_layers,
        "num_heads": content.num_attention_heads,
        "intermediate_size": content.intermediate_size,
        "max_sequence_length": content.max_position_embeddings,
        "rotary_fraction": rope.get("partial_rotary_factor", 0.25) if fraction is None else fraction,
        "rotary_base": rope.get("rope_theta", 10000.0) if base is None else base,
        "parallel_residual": content.use_parallel_residual,
        "attention_bias": content.attention_bias,
        "activation": _ACTIVATIONS[content.hidden_act],
        "layer_norm_epsilon": content.layer_norm_eps,
        "tie_embeddings": content.tie_word_embeddings,
        "vocab_multiple": 1,
    }
    return hub.model_config(values, folder), content.vocab_size


def _token_id(tokenizer: dict[str, Any], token: str, source: str) -> int:
    ids = {added["content"]: added["id"] for added in tokenizer.get("added_tokens", [])}
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    number = ids.get(token, vocabulary.get(token) if isinstance(vocabulary, dict) else None)
    if number is None:
        raise UserError(f"tokenizer {source} has no token {token}")
    return int(number)


def _write_tensors(tensors: dict[str, Tensor], folder: str, shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        files.write_bytes(files.join(folder, name), safetensors.torch.save(shard, {"format": "pt"}))
        weight_map.update(dict.fromkeys(shard, name))
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        files.write_json(files.join(folder, "model.safetensors.index.json"), index)


def _read_tensors(folder: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for url in hub.weight_files(folder):
        hub.tensor_shapes(url)
        path = files.local_path(url)
        with sound(url):
            state.update(
                safetensors.torch.load_file(path) if path else safetensors.torch.load(files.read_bytes(url))
            )
    return state
