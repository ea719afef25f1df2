"""Batch inference in this process: against greedy decoding by hand, resumed, and with rows that are wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from base.claims import ClaimsConfig, held
from base.errors import UserError
from model import hub
from pipelines.config import Config
from pipelines.inference.infer import BLOCK_ROWS, InferenceResult, infer, read_prompts
from pipelines.inference.models import ModelFolder
from pipelines.runtime import tracking
from tests.helpers.late import RUNNING
from tests.helpers.models import LENGTH, VOCAB, Asked, StoppedError, Told, config_of, write_model

if RUNNING:
    import torch

    from model.convert import export_hf
    from model.neox import NeoX


NEW = 8
ROWS = BLOCK_ROWS + 6


@pytest.fixture(scope="module", params=[False, True], ids=["", "attention_reset"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[NeoX, ModelFolder]:
    return write_model(tmp_path_factory.mktemp("infer"), attention_reset=request.param)


def _config(storage: Path, **settings: Any) -> Config:
    return config_of(storage, infer={"max_new_tokens": NEW, "temperature": 0, **settings})


def _ids(row: int) -> list[int]:
    return [1 + (3 * row + 7 * place) % (VOCAB - 1) for place in range(row % 9)]


def _text(ids: list[int]) -> str:
    return " ".join(f"w{number}" for number in ids)


def _prompts(folder: Path, rows: int = ROWS) -> str:
    path = folder / "prompts.jsonl"
    lines = [json.dumps({"id": f"row {row}", "prompt": _text(_ids(row))}) for row in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def _rows(result: InferenceResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(result.url).read_text().splitlines()]


def _greedy(model: NeoX, prompt: list[int]) -> list[int]:
    """The most probable tokens after a prompt, one at a time, up to the one that ends documents."""
    row = prompt or [0]
    made: list[int] = []
    while len(made) < NEW:
        with torch.no_grad():
            token = int(model(torch.tensor([row + made]))[0, -1, :VOCAB].argmax())
        if token == 0:
            break
        made.append(token)
    return made


def test_completions_equal_greedy_decoding_by_hand(made: tuple[NeoX, ModelFolder], tmp_path: Path) -> None:
    model, folder = made
    prompts, told, asked = _prompts(tmp_path), Told(), Asked()
    config = _config(tmp_path, workers=3)
    result, new = infer(config, folder, prompts, told, executor=asked)
    assert new and told.counts == [(0, 2), (1, 2), (2, 2)] and asked.calls == [(2, 3)]
    rows, lengths = _rows(result), []
    for number, row in enumerate(rows):
        ids = _ids(number)
        expected = _greedy(model, ids)
        assert row == {
            "key": f"row {number}",
            "prompt": _text(ids),
            "completion": _text(expected),
            "prompt_tokens": max(len(ids), 1),
            "new_tokens": len(expected),
            "finish": "length" if len(expected) == NEW else "end",
        }
        lengths.append(len(expected))
    assert 0 < sum(length < NEW for length in lengths) < ROWS
    assert (result.rows, result.errors, result.new_tokens) == (ROWS, 0, sum(lengths))
    written = json.loads(Path(result.url).with_name("result.json").read_text())
    assert list(written) == ["key", "url", "rows", "errors", "new_tokens", "seal"]
    assert InferenceResult.read(str(Path(result.url).with_name("result.json"))) == result
    more_workers = _config(tmp_path, workers=1)
    assert infer(more_workers, folder, prompts, Told(stop_after=0), executor=asked) == (result, False)


def test_rows_that_cannot_be_used_have_an_error(made: tuple[NeoX, ModelFolder], tmp_path: Path) -> None:
    most = LENGTH - NEW
    lines = [
        b'{"id": "good", "prompt": "w5 w6"}',
        b'{"key": 7, "prompt": ""}',
        b'{"prompt": ',
        b"[1]",
        b'{"id": "no text"}',
        b'{"id": "number", "prompt": 5}',
        json.dumps({"id": "fits", "prompt": "w1 " * most}).encode(),
        json.dumps({"id": "long", "prompt": "w1 " * (most + 1)}).encode(),
        b'{"prompt": "\xff"}',
        b'{"prompt": "w1 \\ud800"}',
        b'{"id": "\\udfff", "prompt": "w1"}',
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"\n".join(lines))
    result, _ = infer(_config(tmp_path), made[1], str(path), Told(), executor=Asked())
    rows = _rows(result)
    assert (result.rows, result.errors) == (len(lines), 8)
    assert [row["key"] for row in rows] == [
        *("good", "7", "2", "3", "no text", "number", "fits", "long", "8", "9", "10")
    ]
    assert [row["key"] for row in rows if "completion" in row] == ["good", "7", "fits"]
    errors = {row["key"]: row["error"] for row in rows if "error" in row}
    assert errors["2"].startswith(f"line 3 of {path}: Expecting value")
    assert errors["3"] == "row 3 is not an object"
    assert errors["no text"] == "row 4 has no text in the field prompt"
    assert errors["number"] == "row 5 has no text in the field prompt"
    assert errors["long"] == f"the prompt has {most + 1} tokens; with {NEW} new ones at most {most} fit"
    assert "'utf-8' codec can't decode" in errors["8"]
    assert all("surrogates not allowed" in errors[key] for key in ("9", "10"))
    assert [list(row) for row in rows if row["key"] in ("3", "long")] == [
        ["key", "error"],
        ["key", "prompt", "error"],
    ]


def test_a_killed_inference_repeats_no_finished_block(made: tuple[NeoX, ModelFolder], tmp_path: Path) -> None:
    folder, prompts, asked, told = made[1], _prompts(tmp_path), Asked(), Told()
    config = _config(tmp_path / "killed", temperature=0.9)
    with pytest.raises(StoppedError):
        infer(config, folder, prompts, Told(stop_after=1), executor=asked)
    (block,) = (tmp_path / "killed").rglob("blocks/*/*")
    before = block.stat().st_mtime_ns
    assert not list((tmp_path / "killed").rglob("result*"))
    result, new = infer(config, folder, prompts, told, executor=asked)
    assert new and told.counts == [(1, 2), (2, 2)] and asked.calls == [(2, 1), (1, 1)]
    assert block.stat().st_mtime_ns == before
    # A block that has changed since is no finished one.
    block.write_text(block.read_text().replace('"completion": "', '"completion": "x', 1))
    Path(result.url).unlink()
    assert infer(config, folder, prompts, told, executor=asked) == (result, True)
    whole = _config(tmp_path / "whole", temperature=0.9)
    other, _ = infer(whole, folder, prompts, Told(), executor=Asked())
    assert Path(result.url).read_bytes() == Path(other.url).read_bytes()


def test_sampling_depends_on_seed_and_key_alone(made: tuple[NeoX, ModelFolder], tmp_path: Path) -> None:
    prompts = _prompts(tmp_path, 12)
    backwards = tmp_path / "backwards.jsonl"
    backwards.write_text("\n".join(Path(prompts).read_text().splitlines()[::-1]))

    def completions(url: str, **settings: Any) -> dict[str, str]:
        config = _config(tmp_path, temperature=1.0, **settings)
        result, _ = infer(config, made[1], url, Told(), executor=Asked())
        return {row["key"]: row["completion"] for row in _rows(result)}

    first = completions(prompts)
    assert completions(str(backwards), batch_size=3) == first
    assert completions(prompts, seed=1) != first


def _change(folder: Path, name: str, change: Callable[[bytearray], None]) -> ModelFolder:
    """The model of a folder after one of its files has changed and kept its size and time."""
    path = folder / name
    content, facts = bytearray(path.read_bytes()), path.stat()
    change(content)
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_size == facts.st_size
    return ModelFolder(name="tiny", url=str(folder), result=None)


def _flip(content: bytearray) -> None:
    content[-3] ^= 1


def _other_word(content: bytearray) -> None:
    content[:] = content.replace(b'"w1"', b'"v1"')


@pytest.mark.parametrize(
    ("name", "change"), [("model.safetensors", _flip), ("tokenizer.json", _other_word)], ids=str
)
def test_other_content_of_the_model_is_another_inference(
    tmp_path: Path, name: str, change: Callable[[bytearray], None]
) -> None:
    folder, prompts = write_model(tmp_path)[1], _prompts(tmp_path, 3)
    config = _config(tmp_path)
    first, _ = infer(config, folder, prompts, Told(), executor=Asked())
    assert infer(config, folder, prompts, Told(), executor=Asked()) == (first, False)
    changed = _change(tmp_path / "hf", name, change)
    other, new = infer(config, changed, prompts, Told(), executor=Asked())
    assert new and other.key != first.key and other.url != first.url
    # The same content at another place is the same work.
    shutil.copytree(tmp_path / "hf", tmp_path / "copy" / "hf")
    copy = ModelFolder(name="tiny", url=str(tmp_path / "copy" / "hf"), result=None)
    assert infer(config, copy, prompts, Told(), executor=Asked()) == (other, False)


def test_what_a_recipe_has_left_in_a_tokenizer_is_off(tmp_path: Path) -> None:
    folder, prompts = write_model(tmp_path)[1], _prompts(tmp_path, 9)
    plain, _ = infer(_config(tmp_path / "plain"), folder, prompts, Told(), executor=Asked())
    path = tmp_path / "hf" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=12, pad_id=5, pad_token="w5")
    tokenizer.save(str(path))
    assert len(tokenizer.encode("w1 w2 w3 w4").ids) == 12
    other, new = infer(_config(tmp_path / "other"), folder, prompts, Told(), executor=Asked())
    assert new and _rows(other) == _rows(plain)


def test_bpe_dropout_is_off(tmp_path: Path) -> None:
    tokenizer = Tokenizer(BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.9))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    read = hub.read_tokenizer(str(tmp_path / "tokenizer.json"))
    assert all(read.encode("abab").ids == [2, 2] for _ in range(50))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_folder_gives_a_row_the_same_tokens_in_any_batch(tmp_path: Path, dtype: str) -> None:
    model, folder = write_model(tmp_path)
    state = {name: values.to(getattr(torch, dtype)) for name, values in model.state_dict().items()}
    tokenizer = str(tmp_path / "tokenizer.json")
    export_hf(state, model.config, VOCAB, folder.url, tokenizer=tokenizer)
    prompts = _prompts(tmp_path, 40)
    found = []
    for size in (1, 8, 40):
        config = _config(tmp_path, batch_size=size, temperature=1.0)
        found.append(_rows(infer(config, folder, prompts, Told(), executor=Asked())[0]))
    assert found[0] == found[1] == found[2]


def test_prompts_of_every_format(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\ntwo\n\n")
    assert [row.prompt for row in read_prompts(str(tmp_path / "lines.txt"))] == ["one", "two", ""]
    table = pa.table({"id": [3, None], "prompt": ["a", None]})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = read_prompts(str(tmp_path / "rows.parquet"))
    assert [(row.key, row.prompt, row.error) for row in rows] == [
        ("3", "a", None),
        ("1", None, "row 1 has no text in the field prompt"),
    ]
    pq.write_table(table.select(["id"]), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="has no column prompt, only id"):
        read_prompts(str(tmp_path / "other.parquet"))
    with pytest.raises(UserError, match="missing.jsonl does not exist"):
        read_prompts(str(tmp_path / "missing.jsonl"))


def test_other_prompts_into_the_same_folder_are_refused(
    made: tuple[NeoX, ModelFolder], tmp_path: Path
) -> None:
    config = _config(tmp_path, output=str(tmp_path / "out"))
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    result, new = infer(config, made[1], _prompts(first, 3), Told(), executor=Asked())
    before = sorted(path for path in (tmp_path / "out").rglob("*") if "blocks" not in path.parts)
    assert new and [path.name for path in before] == ["result.json", "results.jsonl"]
    with pytest.raises(UserError, match="result.json is of other prompts, another model or other settings"):
        infer(config, made[1], _prompts(second, 4), Told(), executor=Asked())
    assert infer(config, made[1], _prompts(second, 3), Told(), executor=Asked()) == (result, False)


def test_a_finished_inference_has_its_rows_where_it_lies(
    made: tuple[NeoX, ModelFolder], tmp_path: Path
) -> None:
    output, moved = tmp_path / "out", tmp_path / "moved"
    prompts = _prompts(tmp_path, 3)
    result, _ = infer(_config(tmp_path, output=str(output)), made[1], prompts, Told(), executor=Asked())
    rows = Path(result.url).read_bytes()
    Path(result.url).unlink()
    again = infer(_config(tmp_path, output=str(output)), made[1], prompts, Told(), executor=Asked())
    assert again == (result, True) and Path(result.url).read_bytes() == rows
    output.rename(moved)
    found, new = infer(_config(tmp_path, output=str(moved)), made[1], prompts, Told(), executor=Asked())
    assert not new and found.url == str(moved / "results.jsonl")


def test_two_inferences_into_the_same_folder_exclude_each_other(
    made: tuple[NeoX, ModelFolder], tmp_path: Path
) -> None:
    config = _config(tmp_path, output=str(tmp_path / "out"))
    prompts = _prompts(tmp_path, 3)
    sentence = "out is being written by infer of"
    with held(f"{tmp_path}/out", "infer", ClaimsConfig()), pytest.raises(UserError, match=sentence):
        infer(config, made[1], prompts, Told(), executor=Asked())
    assert infer(config, made[1], prompts, Told(), executor=Asked())[1]


def test_whatever_decides_the_completions_makes_them_anew(
    made: tuple[NeoX, ModelFolder], tmp_path: Path
) -> None:
    folder, prompts = made[1], _prompts(tmp_path, 3)
    usual: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9}

    def run(url: str = prompts, model: ModelFolder = folder, **settings: Any) -> tuple[InferenceResult, bool]:
        return infer(_config(tmp_path, **{**usual, **settings}), model, url, Told(), executor=Asked())

    first, new = run()
    assert new
    copied = shutil.copy(prompts, tmp_path / "copied.jsonl")
    elsewhere = replace(folder, url=folder.url + "/.")  # the same content is the same model
    for same in ({}, {"workers": 2}, {"url": str(copied)}, {"model": elsewhere}):
        assert run(**same) == (first, False)
    (tmp_path / "longer").mkdir()
    longer = _prompts(tmp_path / "longer", 4)
    keys = {first.key}
    for changes in (
        *({"temperature": 0.8}, {"top_p": 0.5}, {"seed": 3}, {"max_new_tokens": 5}, {"batch_size": 2}),
        {"url": longer},
    ):
        result, new = run(**changes)
        assert new and result.url != first.url, changes
        assert result.rows == (4 if "url" in changes else 3) == len(_rows(result))
        keys.add(result.key)
        assert run(**changes) == (result, False)
    assert len(keys) == 7


def test_a_tiny_nucleus_is_greedy_whatever_the_temperature(
    made: tuple[NeoX, ModelFolder], tmp_path: Path
) -> None:
    prompts = _prompts(tmp_path, 12)
    rows = []
    for name, settings in (("greedy", {}), ("nucleus", {"temperature": 2.0, "top_p": 1e-6})):
        config = _config(tmp_path / name, **settings)
        rows.append(_rows(infer(config, made[1], prompts, Told(), executor=Asked())[0]))
    assert rows[0] == rows[1]
    hot = _config(tmp_path, temperature=2.0, top_p=1.0)
    assert _rows(infer(hot, made[1], prompts, Told(), executor=Asked())[0]) != rows[0]


def test_texts_are_written_as_they_are(made: tuple[NeoX, ModelFolder], tmp_path: Path) -> None:
    folder, model = tmp_path / "hf", made[0]
    wanted = {token: _greedy(model, [token]) for token in range(1, 50)}
    marked, other, *_ = sorted({token for tokens in wanted.values() for token in tokens})
    words = {f"w{marked}": "<|mark|>", f"w{other}": "straße"}
    shutil.copytree(made[1].url, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {words.get(word, word): number for word, number in vocabulary.items()}
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": marked, "content": "<|mark|>"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    path = tmp_path / "prompts.jsonl"
    prompts = [token for token in wanted if f"w{token}" not in words]
    path.write_text("\n".join(json.dumps({"prompt": f"w{token}"}) for token in prompts))
    model_folder = replace(made[1], url=str(folder))
    result, _ = infer(_config(tmp_path), model_folder, str(path), Told(), executor=Asked())
    for token, row in zip(prompts, _rows(result), strict=True):
        expected = [words.get(word, word) for word in _text(wanted[token]).split()]
        assert row["completion"].split() == expected
    content = Path(result.url).read_text()
    assert "<|mark|>" in content and "straße" in content


def test_an_inference_is_in_mlflow(
    made: tuple[NeoX, ModelFolder], tmp_path: Path, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(mlflow_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    config = config_of(
        tmp_path, tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db"}, infer={"max_new_tokens": 3, "seed": 4}
    )
    place = tracking.Tracking.of(config)
    with tracking.run(place, "train", "key", {"training_run": "tiny"}) as trained:
        pass
    prompts = _prompts(tmp_path, 5)
    with open(prompts, "a") as file:
        file.write("[]\n")
    result, _ = infer(config, made[1], prompts, Told(), executor=Asked())
    found = tracking.find(place, "infer", key=result.key)
    assert found is not None and found.info.status == "FINISHED"
    assert found.data.metrics == {"rows": 6, "errors": 1, "new_tokens": result.new_tokens}
    assert {name: found.data.params[name] for name in ("max_new_tokens", "seed", "top_p")} == {
        "max_new_tokens": "3",
        "seed": "4",
        "top_p": "0.95",
    }
    tags = {name: found.data.tags[f"piledriver.{name}"] for name in ("model", "prompts", "upstream")}
    assert tags == {"model": "tiny", "prompts": prompts, "upstream": trained.id}
    client = tracking.client_of(place)
    assert [item.path for item in client.list_artifacts(found.info.run_id)] == ["results.jsonl"]


def test_the_key_of_a_row_is_its_id_its_key_or_its_number(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": 5, "key": "k"}, {"key": "k"}, {"id": 0, "key": "k"}, {}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({**row, "prompt": "p"}) for row in rows))
    assert [row.key for row in read_prompts(str(path))] == ["5", "k", "0", "3"]
