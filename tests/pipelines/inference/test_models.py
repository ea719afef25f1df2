import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from base import files, manifest
from base.claims import ClaimsConfig, held
from base.errors import UserError
from base.layout import Layout
from pipelines.inference import models
from pipelines.inference.models import ModelFolder, check_tokenizer
from pipelines.training import results
from pipelines.training.results import RunResult
from tests.helpers.corpus import write_corpus
from tests.helpers.late import RUNNING
from tests.helpers.models import write_model

if RUNNING:
    from safetensors.torch import load_file, save_file


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


def _finished(storage: Path, run: str, loss: float = 2.0) -> RunResult:
    """A run that is noted as the newest finished one."""
    values: dict[str, Any] = dict.fromkeys(RunResult.model_fields) | {"run_url": run, "step": 5, "tokens": 9}
    values |= {"skipped_steps": 0, "rollbacks": 0, "resumed_from": 0, "evaluation": {}, "last_loss": loss}
    values |= {"checkpoint_stalls": [], "version": "v0001", "manifest_hash": "0", "model": "hf"}
    result = RunResult(**{**values, "unigram_entropy": 3.0})
    url = Layout(str(storage)).run(run)
    files.remove(url)  # a result is never replaced
    with held(url, "train", ClaimsConfig()) as claim:
        results.record(str(storage), run, result, claim)
    return result


def test_a_model_is_found_by_its_run_its_folder_or_as_the_newest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished run; run jobs.train first"):
        models.find(str(tmp_path), None)
    written = {run: _finished(tmp_path, run) for run in ("first", "second")}
    for name, run in ((None, "second"), ("second", "second"), ("first", "first")):
        found = models.find(str(tmp_path), name)
        wanted = ModelFolder(name=run, url=Layout(str(tmp_path)).model(run), result=written[run])
        assert found == wanted
    folder = tmp_path / "elsewhere" / "tiny"
    with pytest.raises(UserError, match=f"{folder} is neither a finished run below {tmp_path}/training nor"):
        models.find(str(tmp_path), str(folder))
    with pytest.raises(UserError, match="third is neither a finished run"):
        models.find(str(tmp_path), "third")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert models.find(str(tmp_path), str(folder)) == ModelFolder(name="tiny", url=str(folder), result=None)


def test_whatever_changes_a_model_changes_its_key(tmp_path: Path) -> None:
    _, folder = write_model(tmp_path)
    keys = [models.model_key(folder)]
    assert models.model_key(folder) == keys[0]
    weights = Path(folder.url, "model.safetensors")
    tensors = load_file(weights)
    tensors["gpt_neox.final_layer_norm.weight"] += 1  # as many bytes as before
    save_file(tensors, weights, {"format": "pt"})
    keys.append(models.model_key(folder))
    shutil.copy(weights, weights.with_name("model-2.safetensors"))
    keys.append(models.model_key(folder))
    config = Path(folder.url, "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "rotary_pct": 0.5}))
    keys.append(models.model_key(folder))
    for loss in (2.0, 1.0):
        result = _finished(tmp_path, "run", loss)
        keys.append(models.model_key(ModelFolder(name="run", url=folder.url, result=result)))
    keys.append(models.model_key(ModelFolder(name="run", url=str(tmp_path / "hf") + "/", result=result)))
    assert len(set(keys)) == len(keys)


def test_weights_that_do_not_fit_are_named_before_they_are_read(tmp_path: Path) -> None:
    _, folder = write_model(tmp_path)
    models.check_fits(folder)
    path = Path(folder.url, "model.safetensors")
    content = Path(folder.url, "config.json")
    whole, tensors = json.loads(content.read_text()), load_file(path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model_type": "llama"}, "holds a llama model, not gpt_neox"),
        ({"hidden_size": 32}, r"embed_in.weight is \(128, 16\), the configuration asks for \(128, 32\)"),
        ({"vocab_size": 64}, r"embed_in.weight is \(128, 16\), the configuration asks for \(64, 16\)"),
        ({"intermediate_size": 48}, r"layers.0.mlp.dense_h_to_4h.weight is \(64, 16\), .* \(48, 16\)"),
        ({"num_hidden_layers": 3}, r"layers.2.attention.query_key_value.weight is missing"),
    ]
    for changes, message in cases:
        content.write_text(json.dumps({**whole, **changes}))
        with pytest.raises(UserError, match=message):
            models.check_fits(folder)
    content.write_text(json.dumps(whole))
    name = "gpt_neox.layers.1.attention.query_key_value.weight"
    save_file({**tensors, name: tensors[name][:16].clone()}, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"query_key_value.weight is \(16, 16\), .* \(48, 16\)"):
        models.check_fits(folder)


def test_tokens_that_were_added_and_vocabularies_that_are_lists_are_compared(tmp_path: Path) -> None:
    model = ModelFolder(name="tiny", url=str(tmp_path / "hf"), result=None)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"vocab_size": 3}')
    url = Path(write_corpus(tmp_path, {"a": [[4, 5]]}, vocab_size=3))
    version = manifest.open_version(str(url))
    unigram = {
        "model": {"vocab": [["a", -1.0], ["b", -2.0]]},
        "added_tokens": [{"content": "<|end|>", "id": 2}],
    }
    url.with_name("tokenizer.json").write_text(json.dumps(unigram))
    (tmp_path / "hf" / "tokenizer.json").write_bytes(_tokenizer("a", "b"))
    check_tokenizer(model, version)
    for other, message in [
        ({**unigram, "added_tokens": [{"content": "<|stop|>", "id": 2}]}, "token 2 is '<|end|>' there and"),
        ({**unigram, "model": {"vocab": [["b", -1.0], ["a", -2.0]]}}, "token 0 is 'a' there and 'b' in"),
    ]:
        url.with_name("tokenizer.json").write_text(json.dumps(other))
        with pytest.raises(UserError, match=re.escape(message)):
            check_tokenizer(model, version)
