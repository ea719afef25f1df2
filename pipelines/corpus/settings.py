"""Settings of a corpus that belong to no text and no source: scores, shards, rejects."""

import math

from pydantic import Field, model_validator

from base.settings import Section
from pipelines.corpus.reading.settings import Kind


class ScoreConfig(Section):
    """Scores of documents by a model, as measured columns, and rules on them."""

    model: str | None = None
    """Training run of this project, or URL of a Hugging Face folder with a GPT-NeoX model and its tokenizer,
    whose perplexity is measured; absent: none is."""
    fasttext: str | None = None
    """URL of a fastText model (.bin or .ftz) that gives the probability of a label; absent: none does."""
    fasttext_label: str = "__label__hq"
    """The label."""
    max_characters: int = Field(8192, ge=1)
    """Characters at the start of a document that are scored."""
    max_perplexity: dict[Kind, float] = {}
    """Largest perplexity, by kind of source; kinds that are not named keep all."""
    min_fasttext: dict[Kind, float] = {}
    """Smallest probability of the label, by kind of source; kinds that are not named keep all."""
    pareto_alpha: dict[Kind, float] = {}
    """By kind of source: a document stays where a Pareto variate of this alpha, drawn by its id, is above
    1 - probability of the label, so that some with a low one stay. The Pile's rule for Common Crawl: 3."""

    @model_validator(mode="after")
    def _is_measured(self) -> "ScoreConfig":
        needs = {"max_perplexity": "model", "min_fasttext": "fasttext", "pareto_alpha": "fasttext"}
        for threshold, model in needs.items():
            if getattr(self, threshold) and getattr(self, model) is None:
                raise ValueError(f"score.{threshold} needs score.{model}")
            for kind, value in getattr(self, threshold).items():
                if not 0 < value < math.inf:
                    raise ValueError(f"score.{threshold}.{kind} = {value}: it is a finite number above 0")
        return self


class ShardConfig(Section):
    """Token shards."""

    target_tokens: int = Field(2**26, ge=1024)
    """Tokens in a shard, about."""
    seed: int = Field(42, ge=0)
    """Seed of the order of documents."""
    heldout_fraction: float = Field(0.01, ge=0, lt=1)
    """Share of each source's documents, chosen by id, that is kept for evaluation."""


class RejectsConfig(Section):
    """How much of what was dropped is kept to look at."""

    keep_rejects: int = Field(1000, ge=0)
    """Rejected records of each part and reason that are kept, with the start of their text; all count."""
    reject_sample_characters: int = Field(400, ge=0, le=3000)
    """Characters of text kept of each reject; personal data is replaced in them."""
