"""jobs.infer below the command line: prompts to completions with Ray Data, restartable by block.

A block of rows is one file; a finished block is never generated again. A row that cannot be used has an
`error` instead of a completion.
"""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from base import files
from base.errors import UserError
from pipelines.config import Config
from pipelines.inference import trained
from pipelines.inference.settings import InferConfig
from pipelines.runtime import tracking
from pipelines.runtime.cluster import map_actors
from pipelines.runtime.progress import Progress, counter

BLOCK_ROWS = 64


@dataclass(frozen=True)
class Block:
    """Consecutive rows of the prompts, generated together."""

    number: int
    rows: list[dict[str, Any]]
    output: str


def read_prompts(url: str) -> list[dict[str, Any]]:
    """The rows of a prompts file: {"key", "prompt"} or {"key", "error"}.

    The key is the row's `id` or `key` field, else its 0-based number. Raises UserError if the file is
    missing or has no prompt column.
    """
    url = files.absolute(url)
    if not files.exists(url):
        raise UserError(f"infer.prompts: {url} does not exist")
    if url.endswith(".parquet"):
        filesystem, path = files.split(url)
        with filesystem.open(path, "rb") as stream:
            table = pq.read_table(stream)
        if "prompt" not in table.column_names:
            raise UserError(
                f"infer.prompts: {url} has no column prompt, only {', '.join(table.column_names)}"
            )
        return [_row(number, value) for number, value in enumerate(table.to_pylist())]
    lines = files.read_bytes(url).split(b"\n")
    if lines and not lines[-1].strip():
        lines.pop()
    rows = []
    for number, line in enumerate(lines):
        try:
            text = line.decode()
            rows.append(_row(number, json.loads(text) if url.endswith(".jsonl") else {"prompt": text}))
        except ValueError as error:
            rows.append({"key": str(number), "error": f"line {number + 1} of {url}: {error}"})
    return rows


def _row(number: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"key": str(number), "error": f"row {number} is not an object"}
    key = value.get("id", value.get("key"))
    key = str(number if key is None else key)
    if not isinstance(value.get("prompt"), str):
        return {"key": key, "error": f"row {number} has no text in the field prompt"}
    return {"key": key, "prompt": value["prompt"]}


class Generator:
    """A Ray Data actor that holds the model and writes completions of whole blocks."""

    def __init__(self, model: str, settings: InferConfig) -> None:
        """Load the model and its tokenizer once."""
        import torch
        from tokenizers import Tokenizer

        self.model = trained.load(model, "cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = Tokenizer.from_str(files.read_bytes(files.join(model, "tokenizer.json")).decode())
        self.end = int(files.read_json(files.join(model, "config.json"))["eos_token_id"])
        self.settings = settings

    def __call__(self, block: Block) -> None:
        """Generate one block."""
        results = [dict(prompt) for prompt in block.rows]
        usable = self._encode(results)
        # Prompts of like length share a batch.
        usable.sort(key=lambda item: (len(item[1]), item[0]))
        for start in range(0, len(usable), self.settings.batch_size):
            self._complete(results, usable[start : start + self.settings.batch_size])
        content = "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results)
        files.write_bytes(block.output, content.encode())

    def _encode(self, results: list[dict[str, Any]]) -> list[tuple[int, list[int]]]:
        room = self.model.config.max_sequence_length - self.settings.max_new_tokens
        usable = []
        for position, result in enumerate(results):
            if "error" in result:
                continue
            ids = self.tokenizer.encode(result["prompt"], add_special_tokens=False).ids or [self.end]
            if len(ids) > room:
                result["error"] = (
                    f"the prompt has {len(ids)} tokens; with {self.settings.max_new_tokens} new ones "
                    f"at most {room} fit"
                )
                continue
            usable.append((position, ids))
        return usable

    def _complete(self, results: list[dict[str, Any]], batch: list[tuple[int, list[int]]]) -> None:
        from model.generate import generate

        settings = self.settings
        seeds = [row_seed(settings.seed, results[position]["key"]) for position, _ in batch]
        completions = generate(
            self.model,
            [ids for _, ids in batch],
            settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seeds=seeds,
            end_id=self.end,
        )
        for (position, ids), new in zip(batch, completions, strict=True):
            results[position] |= {
                "completion": self.tokenizer.decode(new, skip_special_tokens=False),
                "prompt_tokens": len(ids),
                "new_tokens": len(new),
                "finish": "end" if len(new) < settings.max_new_tokens else "length",
            }


def row_seed(seed: int, key: str) -> int:
    """The sampling seed of a row: a function of the job's seed and the row's key alone."""
    return int(files.key_of(seed, key), 16) >> 1


def infer(config: Config, model: trained.Trained, prompts: str, progress: Progress) -> dict[str, Any]:
    """Complete every prompt and record the run.

    Returns {"url": results.jsonl, "rows", "errors", "new_tokens", "new": bool}.
    """
    settings = config.infer
    rows = read_prompts(prompts)
    key = files.key_of(
        rows,
        trained.model_key(model),
        settings.model_dump(mode="json", exclude={"workers", "output", "prompts"}),
    )
    folder = settings.output or files.join(config.storage, "inference", f"{model.name}-{key[:8]}")
    url = files.absolute(folder)
    done = files.join(url, "result.json")
    if files.exists(done):
        found = files.read_json(done)
        if found["key"] == key:
            return {**found, "new": False}
    blocks = [
        Block(start, rows[start : start + BLOCK_ROWS], files.join(url, "blocks", key, f"{start:09d}.jsonl"))
        for start in range(0, len(rows), BLOCK_ROWS)
    ]
    place = tracking.Tracking.of(config)
    tags = {"model": model.name, "prompts": prompts}
    tags |= tracking.upstream(place, "train", training_run=model.name)
    with tracking.run(place, "infer", key, tags) as run:
        run.params(settings.model_dump(mode="json"))
        missing = [block for block in blocks if not files.exists(block.output)]
        count = counter(progress, "infer", len(blocks) - len(missing), len(blocks))
        arguments = {"model": model.url, "settings": settings}
        map_actors(Generator, arguments, missing, settings.workers, count)
        content = b"".join(files.read_bytes(block.output) for block in blocks)
        results = files.join(url, "results.jsonl")
        files.write_bytes(results, content)
        written = [json.loads(line) for line in content.splitlines()]
        result = {
            "key": key,
            "url": results,
            "rows": len(written),
            "errors": sum("error" in row for row in written),
            "new_tokens": sum(row.get("new_tokens", 0) for row in written),
        }
        run.metrics({name: result[name] for name in ("rows", "errors", "new_tokens")})
        run.artifact(results)
        files.write_json(done, result)
    return {**result, "new": True}
