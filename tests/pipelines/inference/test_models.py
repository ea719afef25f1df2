import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from base import files, manifest
from base.errors import UserError
from pipelines.inference.models import ModelFolder, check_tokenizer, load, model_key
from tests.helpers.corpus import write_corpus
from tests.helpers.models import write_model


def _tokenizer(*tokens: str, **more: Any) -> bytes:
    """A `tokenizers` JSON with these tokens and one that is added."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    added = [{"content": "<|end|>", "id": len(tokens)}]
    return json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added, **more}).encode()


@pytest.mark.parametrize("beside", [True, False])
def test_a_model_must_know_the_tokens_of_a_corpus(tmp_path: Path, beside: bool) -> None:
    model = ModelFolder(name="tiny", url=str(tmp_path / "hf"), result=None)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"vocab_size": 4}')
    if beside:
        (tmp_path / "hf" / "tokenizer.json").write_bytes(_tokenizer("a", "b", "c"))

    def check(content: bytes, vocab_size: int = 4) -> None:
        url = Path(write_corpus(tmp_path, {"a": [[4, 5]]}, vocab_size=vocab_size))
        url.with_name("tokenizer.json").write_bytes(content)
        written = json.loads(url.read_text())
        written["tokenizer"]["sha256"] = hashlib.sha256(content).hexdigest()
        url.write_text(json.dumps(written))
        check_tokenizer(model, manifest.open_version(str(url)))

    check(_tokenizer("a", "b", "c"))
    check(_tokenizer("a", "b", "c", version="1.0"))  # another file with the same tokens
    with pytest.raises(UserError, match="model tiny knows 4 tokens, but the corpus' tokenizer has 5"):
        check(_tokenizer("a", "b", "c", "d"), 5)
    if beside:
        message = "tiny has another tokenizer than corpus v0001: token 1 is 'b' there and 'x' in the corpus"
        with pytest.raises(UserError, match=message):
            check(_tokenizer("a", "x", "c"))


def test_content_decides_the_key_of_a_model(tmp_path: Path) -> None:
    url = "memory://models/key"

    def key(**changes: bytes) -> str:
        contents = {"config.json": b"{}", "tokenizer.json": b"t", "model.safetensors": b"abc", **changes}
        for name, content in contents.items():
            files.write_bytes(files.join(url, name), content)
        return model_key(ModelFolder(name="m", url=url, result=None))

    first = key()
    others = [key(**{name: b"abd"}) for name in ("config.json", "tokenizer.json", "model.safetensors")]
    assert len({first, *others}) == 4 and key() == first
    assert key(**{"training_args.json": b"abd"}) == first  # nothing reads it


def test_a_reset_of_attention_needs_the_token_that_ends_documents(tmp_path: Path) -> None:
    write_model(tmp_path, attention_reset=True)
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": None}))
    with pytest.raises(UserError, match="config.json has no eos_token_id"):
        load(str(tmp_path / "hf"), "cpu")
