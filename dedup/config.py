"""Settings of deduplication."""

from typing import Literal

from pydantic import Field

from base.settings import Section


class MinHashConfig(Section):
    """MinHash signatures and their LSH bands (Broder 1997; Leskovec, Rajaraman, Ullman: MMDS ch. 3)."""

    shingle: Literal["word", "character"] = "word"
    """What an n-gram is made of: words (runs of Unicode word characters, lower-cased) or characters."""
    ngram: int = Field(5, ge=1, le=64)
    """Words or characters in a shingle."""
    bands: int = Field(14, ge=1, le=512)
    """LSH bands; a pair is a candidate when all rows of one band agree."""
    rows: int = Field(8, ge=1, le=64)
    """Minima in a band; bands × rows permutations are computed."""
    seed: int = Field(1, ge=0)
    """Seed of the permutations."""


class DedupConfig(Section):
    """Exact and fuzzy deduplication."""

    exact: bool = True
    """Drop documents whose normalised text equals that of another."""
    fuzzy: bool = True
    """Drop near-duplicates found by MinHash and verified by exact Jaccard similarity."""
    minhash: MinHashConfig = MinHashConfig()
    """Signature parameters."""
    threshold: float = Field(0.8, gt=0, le=1)
    """A candidate pair is a duplicate when the Jaccard similarity of its shingle sets reaches this."""
    partitions: int = Field(8, ge=1, le=65536)
    """Prefixes each band is split into; every (band, prefix) is one restartable task."""
