"""jobs.infer below the command line: prompts to completions with Ray Data, restartable by block.

A block of rows is one file; a finished block is never generated again. A row that cannot be used has an
`error` instead of a completion.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from base import claims, files
from base.claims import Claim
from base.errors import UserError
from base.layout import RESULT, TOKENIZER, Layout
from base.records import Record
from model import hub
from pipelines.config import Config
from pipelines.inference import models
from pipelines.inference.models import ModelFolder
from pipelines.inference.settings import InferConfig
from pipelines.runtime import tracking
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress, watched

BLOCK_ROWS = 64
RESULTS = "results.jsonl"
"""The rows of an inference, below its folder."""

log = logging.getLogger("piledriver.infer")


class Row(Record):
    """A row of the prompts and of the results: a prompt, what became of it, or why nothing did."""

    key: str
    """The row's `id` or `key`, else its 0-based number."""
    prompt: str | None = None
    """None if the row has none."""
    error: str | None = None
    completion: str | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    finish: Literal["end", "length"] | None = None
    """Whether the model ended the text, or was stopped at infer.max_new_tokens."""


class CompletedBlock(Record):
    """The rows of a block, each with what became of it; the block is done when it is there."""

    has_place: ClassVar[bool] = True
    needs_seal: ClassVar[bool] = True
    rows: list[Row]


class InferenceResult(Record):
    """What a batch inference made."""

    key: str
    """Names prompts, model and settings."""
    url: str
    """The results, a row a line."""
    rows: int
    errors: int
    """Rows without a completion."""
    new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive rows of the prompts, generated together."""

    rows: list[Row]
    output: str


def read_prompts(url: str) -> list[Row]:
    """The rows of a prompts file: with a prompt, or with an error.

    The key is the row's `id` or `key` field, else its 0-based number. Raises UserError if the file is
    missing or has no prompt column.
    """
    url = files.absolute(url)
    if not files.exists(url):
        raise UserError(f"infer.prompts: {url} does not exist")
    if url.endswith(".parquet"):
        table = files.read_parquet(url)
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
            rows.append(Row(key=str(number), error=f"line {number + 1} of {url}: {error}"))
    return rows


def _row(number: int, value: Any) -> Row:
    """The row of a JSON value; raises ValueError for what cannot be written as UTF-8."""
    if not isinstance(value, dict):
        return Row(key=str(number), error=f"row {number} is not an object")
    key = value.get("id", value.get("key"))
    key, prompt = str(number if key is None else key), value.get("prompt")
    key.encode()  # half of a surrogate pair is no text
    if not isinstance(prompt, str):
        return Row(key=key, error=f"row {number} has no text in the field prompt")
    prompt.encode()
    return Row(key=key, prompt=prompt)


class Generator:
    """A Ray Data actor that holds the model and writes completions of whole blocks."""

    def __init__(self, model: str, settings: InferConfig) -> None:
        """Load the model and its tokenizer once."""
        import torch

        self.model = models.load(model, "cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = hub.read_tokenizer(files.join(model, TOKENIZER))
        end = hub.read_config(model).eos_token_id
        vocabulary = self.tokenizer.get_vocab_size(with_added_tokens=True)
        if end is None or max(end, vocabulary - 1) >= self.model.padded_vocab_size:
            raise UserError(
                f"{model} cannot generate: its tokenizer has {vocabulary} tokens and end {end}, its model "
                f"{self.model.padded_vocab_size}"
            )
        self.end = end
        self.settings = settings

    def __call__(self, block: Block) -> None:
        """Generate one block."""
        results = list(block.rows)
        usable = self._encode(results)
        # Prompts of like length share a batch.
        usable.sort(key=lambda item: (len(item[1]), item[0]))
        for start in range(0, len(usable), self.settings.batch_size):
            self._complete(results, usable[start : start + self.settings.batch_size])
        CompletedBlock(rows=results).write(block.output)

    def _encode(self, results: list[Row]) -> list[tuple[int, list[int]]]:
        """Position and ids of each row that can be completed; the others get an error."""
        room = self.model.config.max_sequence_length - self.settings.max_new_tokens
        usable = []
        for position, row in enumerate(results):
            if row.prompt is None:
                continue
            ids = self.tokenizer.encode(row.prompt, add_special_tokens=False).ids or [self.end]
            if len(ids) <= room:
                usable.append((position, ids))
                continue
            error = (
                f"the prompt has {len(ids)} tokens; with {self.settings.max_new_tokens} new ones "
                f"at most {room} fit"
            )
            results[position] = row.model_copy(update={"error": error})
        return usable

    def _complete(self, results: list[Row], batch: list[tuple[int, list[int]]]) -> None:
        """Put completions in the place of the rows of a batch."""
        from model.generate import generate

        settings = self.settings
        seeds = [row_seed(settings.seed, results[position].key) for position, _ in batch]
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
            results[position] = Row(
                key=results[position].key,
                prompt=results[position].prompt,
                completion=self.tokenizer.decode(new, skip_special_tokens=False),
                prompt_tokens=len(ids),
                new_tokens=len(new),
                finish="end" if len(new) < settings.max_new_tokens else "length",
            )


def _is_done(block: Block) -> bool:
    """Whether the rows of a block are there."""
    done = CompletedBlock.found(block.output)
    wanted = [(row.key, row.prompt) for row in block.rows]
    return done is not None and [(row.key, row.prompt) for row in done.rows] == wanted


def row_seed(seed: int, key: str) -> int:
    """The sampling seed of a row: a function of the job's seed and the row's key alone."""
    return int(files.key_of(seed, key), 16) >> 1


def infer(
    config: Config,
    model: ModelFolder,
    prompts: str,
    progress: Progress,
    *,
    executor: Executor,
    tell: Callable[[str], None] = log.warning,
) -> tuple[InferenceResult, bool]:
    """Complete every prompt and record the run; returns its result, and whether it was made now.

    tell: gets a sentence about whom this command waits for. Raises UserError if another command writes the
    same folder, or what is there is of other prompts.
    """
    settings = config.infer
    rows = read_prompts(prompts)
    key = files.key_of(
        [row.to_json() for row in rows],
        models.model_key(model),
        settings.model_dump(mode="json", exclude={"workers", "output", "prompts"}),
    )
    url = files.absolute(settings.output or Layout(config.storage).inference(f"{model.name}-{key[:8]}"))
    with claims.held(url, "jobs.infer", config.claims, tell=tell) as claim:
        found = _finished(url, key)
        if found is not None:
            return found, False
        progress = watched(progress, claim.check, config.claims.stale_seconds / claims.BEATS)
        return _complete(config, model, prompts, rows, key, url, claim, progress, executor), True


def _finished(url: str, key: str) -> InferenceResult | None:
    """The result in a folder, if it is there with its rows. Raises UserError if it is of other work."""
    done = files.join(url, RESULT)
    found = InferenceResult.found_or_aside(done)
    if found is not None and found.key != key:
        raise UserError(
            f"{done} is of other prompts, another model or other settings: give another folder as "
            "infer.output, or remove that one"
        )
    results = files.join(url, RESULTS)
    if found is None or not files.exists(results):
        return None
    return found.model_copy(update={"url": results})  # wherever the folder was when it was written


def _complete(
    config: Config,
    model: ModelFolder,
    prompts: str,
    rows: list[Row],
    key: str,
    url: str,
    claim: Claim,
    progress: Progress,
    executor: Executor,
) -> InferenceResult:
    """Complete every prompt into the folder `url`."""
    settings = config.infer
    blocks = [
        Block(
            rows=rows[start : start + BLOCK_ROWS],
            output=files.join(url, "blocks", key, f"{start:09d}.json"),
        )
        for start in range(0, len(rows), BLOCK_ROWS)
    ]
    place = tracking.Tracking.of(config)
    tags = {"model": model.name, "prompts": prompts}
    tags |= tracking.upstream(place, "train", training_run=model.name)
    with tracking.run(place, "infer", key, tags) as run:
        run.params(settings.model_dump(mode="json"))
        missing = [block for block in blocks if not _is_done(block)]
        count = Counter(progress, "infer", len(blocks) - len(missing), len(blocks))
        arguments = {"model": model.url, "settings": settings}
        executor.map_actors(Generator, arguments, missing, count, workers=settings.workers)
        written = [row for block in blocks for row in CompletedBlock.read(block.output).rows]
        results = files.join(url, RESULTS)
        lines = (json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in written)
        claim.write(results, "".join(lines).encode())
        result = InferenceResult(
            key=key,
            url=results,
            rows=len(written),
            errors=sum(row.error is not None for row in written),
            new_tokens=sum(row.new_tokens or 0 for row in written),
        )
        run.metrics({"rows": result.rows, "errors": result.errors, "new_tokens": result.new_tokens})
        run.artifact(results)
        claim.publish(files.join(url, RESULT), result)
    return result
