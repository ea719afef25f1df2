"""Models that can be loaded: found by the name of a run, or by the URL of a Hugging Face folder."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base import files, layout
from base.errors import UserError
from base.layout import TOKENIZER, Layout
from base.manifest import Version
from model import hub
from pipelines.training import results
from pipelines.training.results import RunResult

if TYPE_CHECKING:
    import torch

    from model.neox import NeoX


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model in Hugging Face's format: a name for messages and tags, its folder, and its run's result."""

    name: str
    url: str
    result: RunResult | None
    """None if no run of this project made it."""

    def weights(self) -> list[str]:
        """URLs of its safetensors files."""
        return [url for url in files.list_files(self.url) if url.endswith(".safetensors")]


def find(storage: str, model: str | None) -> ModelFolder:
    """The model of a run of this project, of a Hugging Face folder, or of the newest finished run.

    Raises UserError if there is none.
    """
    if model is None:
        model = results.newest(storage)
    is_name = "/" not in model and model not in ("", ".", "..") and "\0" not in model
    result = results.finished(storage, model) if is_name else None
    if result is not None:
        return ModelFolder(name=model, url=Layout(storage).model(model), result=result)
    if files.exists(files.join(model, hub.CONFIG)):
        return ModelFolder(name=layout.name_of(model), url=files.absolute(model), result=None)
    raise UserError(f"{model} is neither a finished run below {storage}/training nor a Hugging Face folder")


def check_fits(model: ModelFolder) -> None:
    """Raise UserError if the weights are not those of the GPT-NeoX model that config.json describes.

    Reads the headers of the safetensors files alone, so that a mistake is found before a cluster starts.
    """
    content = hub.read_config(model.url)
    found: dict[str, tuple[int, ...]] = {}
    for url in hub.weight_files(model.url):
        found |= hub.tensor_shapes(url)
    hidden, inner = content.hidden_size, content.intermediate_size
    expected = {"gpt_neox.embed_in.weight": (content.vocab_size, hidden)}
    for number in range(content.num_hidden_layers):
        layer = f"gpt_neox.layers.{number}."
        expected[layer + "attention.query_key_value.weight"] = (3 * hidden, hidden)
        expected[layer + "mlp.dense_h_to_4h.weight"] = (inner, hidden)
    for name, shape in expected.items():
        if found.get(name) != shape:
            raise UserError(
                f"{model.url} does not fit its config.json: {name} is {found.get(name, 'missing')}, "
                f"the configuration asks for {shape}"
            )


def check_tokenizer(model: ModelFolder, version: Version) -> None:
    """Raise UserError if the tokens of a corpus version are not those of the model.

    The sizes of the vocabularies are compared, and which token every id of the corpus stands for, where a
    tokenizer.json lies beside both.
    """
    facts = version.manifest.tokenizer
    vocabulary = hub.read_config(model.url).vocab_size
    if facts.vocab_size > vocabulary:
        raise UserError(
            f"model {model.name} knows {vocabulary} tokens, but the corpus' tokenizer has {facts.vocab_size}"
        )
    url = files.join(model.url, TOKENIZER)
    if not files.exists(url):
        return
    if hashlib.sha256(files.read_bytes(url)).hexdigest() == facts.sha256:
        return
    known = _tokens(url)
    for number, token in sorted(_tokens(version.tokenizer_url).items()):
        if known.get(number) != token:
            raise UserError(
                f"model {model.name} has another tokenizer than corpus {version.name}: "
                f"token {number} is {known.get(number)!r} there and {token!r} in the corpus"
            )


def _tokens(url: str) -> dict[int, str]:
    """Token by id of a tokenizer.json."""
    vocabulary: dict[str, int] = hub.read_tokenizer(url).get_vocab(with_added_tokens=True)
    return {number: token for token, number in vocabulary.items()}


def model_key(model: ModelFolder) -> str:
    """A name of the model's content for outputs that depend on it: its weights and configuration.

    The weights of a run are those of its result; of another folder all bytes are read, since weights that
    were replaced have the same sizes.
    """
    content = files.size if model.result else files.digest
    entries = [(layout.name_of(url), content(url)) for url in model.weights()]
    result = model.result.to_json() if model.result else {}
    return files.key_of(model.url, entries, result, files.read_json(files.join(model.url, hub.CONFIG)))


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
