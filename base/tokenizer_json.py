"""Tokenizers in the JSON format of the library `tokenizers`, which panics over files that are odd."""

import json
from typing import Any

from tokenizers import Tokenizer


def parse(content: str) -> Tokenizer:
    """The tokenizer of a file's content. Raises ValueError, in one line, for what is none."""
    try:
        _check_prefix(json.loads(content))
        return Tokenizer.from_str(content)
    except BaseException as error:
        # `tokenizers` raises plain Exception, and what is none where its own code fails.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(" ".join(str(error).split())[:200]) from None


def _check_prefix(specification: Any) -> None:
    """Raise ValueError where the library would cut a token within a character, and abort.

    Of the second token of each merge it cuts off as many bytes as the model's continuing_subword_prefix has,
    whatever they are.
    """
    model = specification.get("model") if isinstance(specification, dict) else None
    prefix = model.get("continuing_subword_prefix") if isinstance(model, dict) else None
    merges = model.get("merges") if isinstance(model, dict) else None
    if not isinstance(prefix, str) or not prefix or not isinstance(merges, list):
        return
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if isinstance(pair, list) and pair and not str(pair[-1]).startswith(prefix):
            raise ValueError(f"merge {merge!r} does not go on with its continuing_subword_prefix {prefix!r}")
