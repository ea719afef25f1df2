import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from base.errors import UserError
from base.manifest import Version
from pipelines.inference.trained import Trained, check_tokenizer


def _tokenizer(*tokens: str, **more: Any) -> bytes:
    """A `tokenizers` JSON with these tokens and one that is added."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    added = [{"content": "<|end|>", "id": len(tokens)}]
    return json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added, **more}).encode()


@pytest.mark.parametrize("beside", [True, False])
def test_a_model_must_know_the_tokens_of_a_corpus(tmp_path: Path, beside: bool) -> None:
    model = Trained("tiny", str(tmp_path / "hf"), {})
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"vocab_size": 4}')
    if beside:
        (tmp_path / "hf" / "tokenizer.json").write_bytes(_tokenizer("a", "b", "c"))

    def check(content: bytes, vocab_size: int = 4) -> None:
        (tmp_path / "tokenizer.json").write_bytes(content)
        facts = {"file": "tokenizer.json", "vocab_size": vocab_size}
        facts["sha256"] = hashlib.sha256(content).hexdigest()
        check_tokenizer(model, Version(str(tmp_path), {"version": "v0002", "tokenizer": facts}, ""))

    check(_tokenizer("a", "b", "c"))
    check(_tokenizer("a", "b", "c", version="1.0"))  # another file with the same tokens
    with pytest.raises(UserError, match="model tiny knows 4 tokens, but the corpus' tokenizer has 5"):
        check(_tokenizer("a", "b", "c", "d"), 5)
    if beside:
        message = "tiny has another tokenizer than corpus v0002: token 1 is 'b' there and 'x' in the corpus"
        with pytest.raises(UserError, match=message):
            check(_tokenizer("a", "x", "c"))
