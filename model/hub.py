"""What lies in a Hugging Face folder beside the weights, read without torch."""

import json
from typing import Any

from base import files
from base.errors import UserError


def read_tokenizer(url: str) -> Any:
    """A tokenizer.json as the library `tokenizers` reads it, which gives a text all its tokens, always alike.

    What a training recipe may have left in the file is off: truncation, padding and BPE dropout. Raises
    UserError if there is no such file.
    """
    from tokenizers import Tokenizer

    if not files.exists(url):
        raise UserError(f"tokenizer {url} does not exist")
    content = json.loads(files.read_bytes(url))
    content |= {"truncation": None, "padding": None}
    if content["model"].get("dropout") is not None:
        content["model"]["dropout"] = None
    return Tokenizer.from_str(json.dumps(content))
