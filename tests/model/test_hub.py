"""What describes a model is read within limits, and each fault is one sentence."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from base.errors import UserError
from model import hub

CONFIG = {
    "model_type": "gpt_neox",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 64,
    "max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, None),
        ({"anything": [1]}, None),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: Input should be less than or equal to 4096"),
        ({"hidden_size": None}, "hidden_size: Input should be a valid integer"),
        ({"hidden_size": -32}, "hidden_size: Input should be greater than"),
        ({"vocab_size": 2**63}, "vocab_size"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps: Input should be a finite number"),
        ({"rotary_pct": "much"}, "rotary_pct"),
        ({"eos_token_id": [1]}, "eos_token_id"),
        ({"piledriver": {"vocab_size": 64, "model": {"num_layers": 10**9}}}, "piledriver.model.num_layers"),
        ({"model_type": "llama"}, "is a llama checkpoint, not a gpt_neox one"),
        ({"model_type": ["x" * 9999]}, "not a gpt_neox one"),
    ],
)
def test_config_json(tmp_path: Path, change: dict[str, Any], sentence: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | change))
    if sentence is None:
        assert hub.read_config(str(tmp_path)).num_hidden_layers == 2
        return
    with pytest.raises(UserError, match=sentence) as error:
        hub.read_config(str(tmp_path))
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "[" * 100_000, '{"model_type": "gpt_neox"}'])
def test_what_is_no_config_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json (is damaged|describes no)|is a None checkpoint"):
        hub.read_config(str(tmp_path))


def _safetensors(path: Path, header: Any, data: bytes, length: int | None = None) -> str:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return str(path)


TENSOR = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def test_shapes_of_tensors(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "a": TENSOR, "b": TENSOR | {"shape": []} | {"dtype": "F32"}}
    header["b"] = {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]}
    url = _safetensors(tmp_path / "a.safetensors", header, bytes(26))
    assert hub.tensor_shapes(url) == {"a": (2, 3), "b": ()}


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**8, 61, 1, 0])
def test_a_header_of_another_length(tmp_path: Path, length: int) -> None:
    url = _safetensors(tmp_path / "a.safetensors", {"a": TENSOR}, bytes(8), length)
    with pytest.raises(UserError, match="is damaged"):
        hub.tensor_shapes(url)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2, 4]},
        {"shape": [2**62, 2**62]},
        {"shape": [-2, -3]},
        {"shape": [2.0, 3]},
        {"shape": None},
        {"dtype": "F128"},
        {"dtype": ["F32"]},
        {"data_offsets": [0, 2**63]},
        {"data_offsets": [24, 0]},
        {"data_offsets": [8, 32]},
        {"data_offsets": [0]},
    ],
)
def test_a_tensor_that_does_not_fit_its_file(tmp_path: Path, change: dict[str, Any]) -> None:
    url = _safetensors(tmp_path / "a.safetensors", {"a": TENSOR | change}, bytes(24))
    with pytest.raises(UserError, match="a.safetensors is damaged: "):
        hub.tensor_shapes(url)


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/etc/passwd", "a\0b", "..", ""])
def test_an_index_names_files_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / hub.INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match="is no path below"):
        hub.weight_files(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"model": {"type": "BPE"}}'])
def test_what_is_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match="is no tokenizer in the JSON format"):
        hub.read_tokenizer(str(tmp_path / "tokenizer.json"))
