"""Finding and loading a trained model: by the name of a run, or by the URL of a Hugging Face folder."""

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from base import files
from base.errors import UserError
from base.manifest import Version

if TYPE_CHECKING:
    import torch

    from model.neox import NeoX


@dataclass(frozen=True)
class Trained:
    """A finished model: a name for messages and tags, its HF folder, and the training result if known."""

    name: str
    url: str
    result: dict[str, Any]


def run_url(storage: str, run: str) -> str:
    """The folder of a training run."""
    return files.join(storage, "training", run)


def record(storage: str, run: str, result: dict[str, Any]) -> None:
    """Note that a run has finished: its result, and that it is the newest."""
    files.write_json(files.join(run_url(storage, run), "result.json"), result)
    files.write_json(files.join(storage, "training", "latest.json"), {"run": run})


def finished(storage: str, run: str) -> dict[str, Any] | None:
    """The result of a run, or None while it has none."""
    url = files.join(run_url(storage, run), "result.json")
    return files.read_json(url) if files.exists(url) else None


def find(storage: str, model: str | None) -> Trained:
    """The model of a run of this project, of a Hugging Face folder, or of the newest finished run.

    Raises UserError if there is none.
    """
    if model is None:
        pointer = files.join(storage, "training", "latest.json")
        if not files.exists(pointer):
            raise UserError(f"{files.join(storage, 'training')} holds no finished run; run jobs.train first")
        model = str(files.read_json(pointer)["run"])
    result = finished(storage, model) if "/" not in model else None
    if result is not None:
        return Trained(model, files.join(run_url(storage, model), "hf"), result)
    if files.exists(files.join(model, "config.json")):
        return Trained(model.rstrip("/").rsplit("/", 1)[-1], files.absolute(model), {})
    raise UserError(f"{model} is neither a finished run below {storage}/training nor a Hugging Face folder")


def check_fits(trained: Trained) -> None:
    """Raise UserError if the weights are not those of the GPT-NeoX model that config.json describes.

    Reads the headers of the safetensors files alone, so that a mistake is found before a cluster starts.
    """
    content = files.read_json(files.join(trained.url, "config.json"))
    if content.get("model_type") != "gpt_neox":
        raise UserError(f"{trained.url} holds a {content.get('model_type')} model, not gpt_neox")
    found: dict[str, tuple[int, ...]] = {}
    for url in files.list_files(trained.url):
        if url.endswith(".safetensors"):
            filesystem, path = files.split(url)
            with filesystem.open(path, "rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            found |= {name: tuple(fact["shape"]) for name, fact in header.items() if name != "__metadata__"}
    hidden, inner = content["hidden_size"], content["intermediate_size"]
    expected = {"gpt_neox.embed_in.weight": (content["vocab_size"], hidden)}
    for number in range(content["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{number}."
        expected[layer + "attention.query_key_value.weight"] = (3 * hidden, hidden)
        expected[layer + "mlp.dense_h_to_4h.weight"] = (inner, hidden)
    for name, shape in expected.items():
        if found.get(name) != shape:
            raise UserError(
                f"{trained.url} does not fit its config.json: {name} is {found.get(name, 'missing')}, "
                f"the configuration asks for {shape}"
            )


def check_tokenizer(trained: Trained, version: Version) -> None:
    """Raise UserError if the tokens of a corpus version are not those of the model.

    The sizes of the vocabularies are compared, and which token every id of the corpus stands for, where a
    tokenizer.json lies beside both.
    """
    facts = version.raw["tokenizer"]
    vocabulary = files.read_json(files.join(trained.url, "config.json"))["vocab_size"]
    if facts["vocab_size"] > vocabulary:
        raise UserError(
            f"model {trained.name} knows {vocabulary} tokens, "
            f"but the corpus' tokenizer has {facts['vocab_size']}"
        )
    url = files.join(trained.url, "tokenizer.json")
    if "file" not in facts or not files.exists(url):
        return
    content = files.read_bytes(url)
    if hashlib.sha256(content).hexdigest() == facts.get("sha256"):
        return
    known = _tokens(json.loads(content))
    for number, token in sorted(_tokens(files.read_json(files.join(version.url, facts["file"]))).items()):
        if known.get(number) != token:
            raise UserError(
                f"model {trained.name} has another tokenizer than corpus {version.name}: "
                f"token {number} is {known.get(number)!r} there and {token!r} in the corpus"
            )


def _tokens(tokenizer: dict[str, Any]) -> dict[int, str]:
    """Token by id of a `tokenizers` JSON."""
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram's: token and score
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    added = {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens", [])}
    return {number: token for token, number in {**vocabulary, **added}.items()}


def model_key(trained: Trained) -> str:
    """A name of the model's content for outputs that depend on it: its weights' sizes and configuration."""
    entries = [
        (url.rsplit("/", 1)[-1], files.size(url))
        for url in files.list_files(trained.url)
        if url.endswith(".safetensors")
    ]
    return files.key_of(
        trained.url, entries, trained.result, files.read_json(files.join(trained.url, "config.json"))
    )


def load(url: str, device: "torch.device | str") -> "NeoX":
    """The model of a Hugging Face folder, ready for inference, in the dtype it was stored in.

    Raises UserError if it is not a GPT-NeoX model or its weights do not fit its configuration.
    """
    from model.convert import import_hf
    from model.neox import NeoX

    config, vocab_size, state = import_hf(url)
    model = NeoX(config, vocab_size, seed=None)
    model.load_state_dict(state)
    return model.to(device).eval()
