"""Scores of documents by a model: perplexity of a GPT-NeoX checkpoint, probability of a fastText label.

They are columns beside the other attributes, in files of their own: thresholds on them change nothing else.
(Perplexity filters: Wenzek et al. 2020, CCNet, arXiv 1911.00359; a fastText classifier: Li et al. 2024,
DataComp-LM, arXiv 2406.11794; one whose threshold is drawn by chance: Brown et al. 2020, GPT-3, arXiv
2005.14165, appendix A, and Gao et al. 2020, The Pile, arXiv 2101.00027, with EleutherAI's pile-cc-filtering.)
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from base import arrow, files
from base.errors import UserError
from dedup import hashing
from pipelines.corpus.reading.settings import Kind
from pipelines.corpus.settings import ScoreConfig
from pipelines.corpus.stages.measure import Measured
from pipelines.corpus.stages.stage import Stage, only, unkeyed
from pipelines.corpus.stages.survivors import DOCUMENTS
from pipelines.corpus.text.quality import Limit
from pipelines.corpus.text.tokenizer import Tokenizer
from pipelines.inference import models
from pipelines.runtime.executor import Executor
from pipelines.runtime.progress import Counter, Progress

RULES = {"max_perplexity", "min_fasttext", "pareto_alpha"}
"""Settings that act on scores and change none."""
BATCH_ROWS = 16
"""Windows in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of every part; none without models."""

    key: str | None
    tables: dict[str, str]
    """By part, the table of scores, row-aligned with the attributes."""


@dataclass(frozen=True, kw_only=True)
class Score(Stage):
    """Score the documents of every part by the configured models."""

    name: ClassVar[str] = "scores"
    version: ClassVar[int] = 2
    measured: Measured = unkeyed()
    """Each output is of one part, whose key its own has."""
    settings: ScoreConfig
    """Without the rules on scores."""
    model: str | None
    """Key of the model that gives perplexities."""
    classifier: str | None
    """Digest of the fastText model."""
    storage: str = unkeyed()
    """Where the training run lies that `settings.model` may name."""

    @classmethod
    def of(cls, config: ScoreConfig, measured: Measured, storage: str) -> "Score":
        """The stage of a configuration, with the contents of the models that it names."""
        settings = only(config, *(name for name in type(config).model_fields if name not in RULES))
        return cls(
            measured=measured,
            settings=settings,
            model=models.model_key(models.find(storage, config.model)) if config.model else None,
            classifier=files.digest(config.fasttext) if config.fasttext else None,
            storage=storage,
        )

    def run(self, executor: Executor, progress: Progress) -> Scored:
        """Score the parts that are not scored."""
        if self.model is None and self.classifier is None:
            return Scored(key=None, tables={})
        measured, documents = self.measured, self.measured.documents
        tables = {}
        for item in measured.inputs:
            key = files.key_of(self.key, measured.keys[item.source])
            tables[item.part] = measured.layout.work(self.name, key, f"{item.part}.parquet")
        missing = [
            ScorePart(documents=documents[item.part], output=tables[item.part])
            for item in measured.inputs
            if not files.whole(tables[item.part])
        ]
        arguments = {"config": self.settings, "storage": self.storage}
        executor.map_actors(Scorer, arguments, missing, Counter(progress, "score", 0, len(missing)))
        return Scored(key=self.key, tables=tables)


@dataclass(frozen=True, kw_only=True)
class ScorePart:
    """One part to score: its documents file, and the table to write (row-aligned with it)."""

    documents: str
    output: str


class Scorer:
    """A Ray Data actor that holds the models and scores parts."""

    def __init__(self, config: ScoreConfig, storage: str) -> None:
        """Load the models once."""
        self.config = config
        self.perplexity = Perplexity(models.find(storage, config.model).url) if config.model else None
        self.classifier = Classifier(config.fasttext, config.fasttext_label) if config.fasttext else None

    def __call__(self, task: ScorePart) -> None:
        """Score one part: q_perplexity and q_fasttext, float32."""
        names = [name for name in ("perplexity", "classifier") if getattr(self, name)]
        columns: dict[str, list[np.ndarray]] = {COLUMNS[name]: [np.zeros(0, np.float32)] for name in names}
        [texts] = arrow.open_columns(task.documents, pa.schema([DOCUMENTS.field("text")]))
        for number in range(texts.num_record_batches):
            text = texts.get_batch(number)["text"]
            text = pc.utf8_slice_codeunits(text, 0, self.config.max_characters)
            for name in names:
                columns[COLUMNS[name]].append(getattr(self, name)(text))
        table = {name: np.concatenate(pieces) for name, pieces in columns.items()}
        files.write_parquet(task.output, pa.table(table))


COLUMNS = {"perplexity": "q_perplexity", "classifier": "q_fasttext"}


class Perplexity:
    """Perplexity of texts under a piledriver checkpoint, with the tokenizer that lies beside it."""

    def __init__(self, url: str) -> None:
        """Load the Hugging Face folder; raises UserError if it holds no GPT-NeoX model or no tokenizer."""
        import torch

        self.model = models.load(url, "cuda" if torch.cuda.is_available() else "cpu")
        settings = files.join(url, "tokenizer_config.json")
        if not files.exists(settings):
            raise UserError(f"score.model = {url!r}: the folder holds no tokenizer_config.json")
        end = files.read_json(settings)["eos_token"]
        self.tokenizer = Tokenizer.load(files.join(url, "tokenizer.json"), end)

    def __call__(self, text: pa.LargeStringArray) -> np.ndarray:
        """exp(loss in nats a token) of each text, the end of document included; float32."""
        from model.score import document_nats

        ids = self.tokenizer.encode(text)
        nats = document_nats(
            self.model,
            ids.values.to_numpy(),
            ids.offsets.to_numpy(),
            self.tokenizer.end_of_document_id,
            self.model.config.max_sequence_length,
            BATCH_ROWS,
        )
        tokens = pc.list_value_length(ids).to_numpy(zero_copy_only=False)
        perplexity: np.ndarray = np.exp(np.minimum(nats / tokens, 80.0)).astype(np.float32)
        return perplexity


class Classifier:
    """Probability of one label of a fastText model."""

    def __init__(self, url: str, label: str) -> None:
        """Load the model; raises UserError if the file is no fastText model or lacks the label."""
        import fasttext

        with tempfile.TemporaryDirectory() as folder:
            local = files.local_path(url)
            if local is None:
                local = str(Path(folder, "model.bin"))
                Path(local).write_bytes(files.read_bytes(url))
            try:
                self.model = fasttext.load_model(local)
            except ValueError as error:
                raise UserError(f"score.fasttext = {url!r} is no fastText model: {error}") from None
        labels, _ = self.model.predict("", k=-1, threshold=-1.0)
        if label not in labels:
            some = ", ".join(sorted(labels)[:20])
            raise UserError(f"score.fasttext_label = {label!r}: the model's labels are {some}")
        self.label = label

    def __call__(self, text: pa.LargeStringArray) -> np.ndarray:
        """Probability of the label for each text, its line feeds taken as spaces; float32."""
        lines = pc.replace_substring(text, "\n", " ").to_pylist()
        # The binding has no call for several texts that works.
        scores = np.zeros(len(lines), np.float32)
        for row, line in enumerate(lines):
            labels, probabilities = self.model.predict(line, k=-1, threshold=-1.0)
            scores[row] = probabilities[labels.index(self.label)]
        return scores


def check(config: ScoreConfig, storage: str) -> None:
    """Raise UserError if a configured model does not exist, or lacks the label."""
    if config.model:
        try:
            models.check_fits(models.find(storage, config.model))
        except UserError as error:
            raise UserError(f"score.model = {config.model!r}: {error}") from None
    if config.fasttext:
        if not files.exists(config.fasttext):
            raise UserError(f"score.fasttext = {config.fasttext!r} does not exist")
        Classifier(config.fasttext, config.fasttext_label)


def thresholds(config: ScoreConfig) -> dict[str, list[Limit]]:
    """The thresholds on each column, for pictures."""
    found = {
        "q_perplexity": [("max", value) for value in sorted(set(config.max_perplexity.values()))],
        "q_fasttext": [("min", value) for value in sorted(set(config.min_fasttext.values()))],
    }
    return {name: limits for name, limits in found.items() if limits}


def decide_score(attributes: pa.Table, kind: Kind, config: ScoreConfig) -> tuple[pa.StringArray, np.ndarray]:
    """Which documents are dropped for their scores: (reason or null, the score that decided)."""
    reason = np.full(attributes.num_rows, None, object)
    value = np.full(attributes.num_rows, np.nan)
    if kind in config.max_perplexity:
        measured = attributes["q_perplexity"].to_numpy()
        high = measured > np.float32(config.max_perplexity[kind])
        reason[high], value[high] = "score.max_perplexity", measured[high]
    if kind in config.min_fasttext:
        measured = attributes["q_fasttext"].to_numpy()
        low = (measured < np.float32(config.min_fasttext[kind])) & np.isnan(value)
        reason[low], value[low] = "score.min_fasttext", measured[low]
    if kind in config.pareto_alpha:
        measured = attributes["q_fasttext"].to_numpy().astype(np.float64)
        # numpy's pareto(alpha) is above x with probability (1 + x) ** -alpha; the id stands for chance.
        high, _ = hashing.id_words(attributes["document_id"])
        unlucky = high / 2.0**64 >= (2 - measured) ** -config.pareto_alpha[kind]
        low = unlucky & np.isnan(value)
        reason[low], value[low] = "score.pareto_alpha", measured[low]
    return pa.array(reason, pa.string()), value
