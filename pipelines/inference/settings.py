"""Settings of evaluation and batch generation."""

from pydantic import Field

from base.settings import Section


class EvaluateConfig(Section):
    """Held-out evaluation."""

    micro_batch_size: int = Field(8, ge=1)
    """Sequences in one forward pass."""
    max_documents: int = Field(200, ge=1)
    """Held-out documents per source, in shard order."""


class InferConfig(Section):
    """Batch generation."""

    prompts: str | None = None
    """URL of prompts: jsonl with a `prompt` field, parquet with such a column, or text with one a line."""
    output: str | None = None
    """URL of the folder for results; absent: <storage>/inference/<name>."""
    max_new_tokens: int = Field(48, ge=1)
    """Tokens generated at most."""
    temperature: float = Field(0.8, ge=0)
    """0 for greedy decoding."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus sampling (Holtzman et al. 2020)."""
    seed: int = Field(0, ge=0)
    """Seed of sampling; each row's seed also depends on its key."""
    batch_size: int = Field(16, ge=1)
    """Prompts generated together."""
    workers: int = Field(1, ge=1)
    """Ray Data actors, one model each."""
