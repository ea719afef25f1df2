"""What says which model lies in a Hugging Face folder, read without torch; nothing in it is trusted."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from base import files, tokenizer_json
from base.damage import sound
from base.errors import UserError
from model.config import ModelConfig

Model = TypeVar("Model", bound=BaseModel)

CONFIG = "config.json"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
MAX_HEADER = 100 * 10**6
"""Bytes of a safetensors header, as its format allows."""
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}


class _Ours(BaseModel):
    """What piledriver notes in config.json."""

    vocab_size: int | None = Field(None, ge=1, le=2**31)
    """Tokens, in folders of version 0.1, whose standard field counts the rows of the padding too."""
    model: ModelConfig


class HubConfig(BaseModel):
    """The fields of a GPT-NeoX config.json that decide the model; others do not count."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    hidden_size: int = Field(ge=1, le=2**20)
    num_hidden_layers: int = Field(ge=1, le=2**12)
    num_attention_heads: int = Field(ge=1, le=2**16)
    intermediate_size: int = Field(ge=1, le=2**24)
    vocab_size: int = Field(ge=1, le=2**31)
    max_position_embeddings: int = Field(ge=1, le=2**24)
    rotary_pct: float = 0.25
    rotary_emb_base: float = 10000.0
    use_parallel_residual: bool = True
    attention_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    eos_token_id: int | None = Field(None, ge=0, le=2**31)
    piledriver: _Ours | None = None


def read_config(folder: str) -> HubConfig:
    """The config.json of a folder. Raises UserError if there is none, or it describes no GPT-NeoX model."""
    url = files.join(folder, CONFIG)
    try:
        content = files.read_json(url)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no Hugging Face checkpoint: there is no {CONFIG}") from None
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "gpt_neox":
        raise UserError(f"{folder} is a {str(kind)[:100]} checkpoint, not a gpt_neox one")
    return _checked(HubConfig, content, url)


def model_config(values: dict[str, Any], folder: str) -> ModelConfig:
    """A model's settings from values of a config.json. Raises UserError for values that make no model."""
    return _checked(ModelConfig, values, files.join(folder, CONFIG))


def _checked(kind: type[Model], values: Any, url: str) -> Model:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        problem = first["msg"].removeprefix("Value error, ")
        raise UserError(
            f"{url} describes no GPT-NeoX model: {f'{place}: ' if place else ''}{problem}"
        ) from None


def weight_files(folder: str) -> list[str]:
    """URLs of the safetensors files of a model.

    Raises UserError if there is none, and for an index that is damaged or names what is not in the folder.
    """
    index, single = files.join(folder, INDEX), files.join(folder, SINGLE)
    if files.exists(index):
        content = files.read_json(index)
        with sound(index):
            names = sorted({str(name) for name in content["weight_map"].values()})
        return [files.below(folder, name) for name in names]
    if files.exists(single):
        return [single]
    raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}")


def tensor_shapes(url: str) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a safetensors file, from its header alone.

    Raises UserError for a header that is damaged or does not fit the file.
    """
    filesystem, path = files.split(url)
    with sound(url), filesystem.open(path, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise ValueError(f"its header has {length:,} bytes, the file {size:,}")
        header = json.loads(stream.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        tensors = {name: fact for name, fact in header.items() if name != "__metadata__"}
        return {name: _shape(name, fact, size - 8 - length) for name, fact in tensors.items()}


def _shape(name: str, fact: Any, room: int) -> tuple[int, ...]:
    """The shape of a tensor, whose bytes must lie in the room that the file has for them."""
    dtype, shape, (begin, end) = fact["dtype"], fact["shape"], fact["data_offsets"]
    if dtype not in _BYTES:
        raise ValueError(f"{name} is of the unknown type {str(dtype)[:40]}")
    numbers = (begin, end, *shape)
    if not all(type(number) is int and number >= 0 for number in numbers) or len(shape) > 8:
        raise ValueError(f"{name} has no shape and place that can be")
    count = 1
    for number in shape:
        count *= number
    if not begin <= end <= room or end - begin != count * _BYTES[dtype]:
        raise ValueError(f"{name} does not lie in the file as its shape {tuple(shape)} asks for")
    return tuple(shape)


def read_tokenizer(url: str) -> Any:
    """A tokenizer.json as the library `tokenizers` reads it, which gives a text all its tokens, always alike.

    What a training recipe may have left in the file is off: truncation, padding and BPE dropout. Raises
    UserError if it is none.
    """
    try:
        content = files.read_bytes(url)
    except FileNotFoundError:
        raise UserError(f"tokenizer {url} does not exist") from None
    try:
        values = json.loads(content) | {"truncation": None, "padding": None}
        if "dropout" in values["model"]:
            values["model"]["dropout"] = None
        return tokenizer_json.parse(json.dumps(values))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        gist = " ".join(str(error).split())[:200]
        raise UserError(f"{url} is no tokenizer in the JSON format of `tokenizers`: {gist}") from None
