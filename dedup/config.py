"""Settings of deduplication."""

from typing import Any, Literal

from pydantic import Field, model_validator

from base.settings import Section


class MinHashConfig(Section):
    """MinHash signatures and their LSH bands (Broder 1997; Leskovec, Rajaraman, Ullman: MMDS ch. 3)."""

    shingle: Literal["word", "character"] = "word"
    """What an n-gram is made of: words (sequences of Unicode word characters, lower-cased) or characters."""
    ngram: int = Field(5, ge=1, le=64)
    """Words or characters in a shingle."""
    bands: int = Field(14, ge=1, le=512)
    """LSH bands; a pair is a candidate when all rows of one band agree."""
    rows: int = Field(8, ge=1, le=64)
    """Minima in a band; bands × rows permutations are computed."""
    seed: int = Field(1, ge=0)
    """Seed of the permutations."""


class LinesConfig(Section):
    """Boilerplate lines that are repeated across the documents of a source."""

    min_documents: int | None = Field(None, ge=2)
    """Lines that this many documents of a source hold are removed from its texts; absent: none are."""
    unit: Literal["line", "paragraph"] = "line"
    """What is compared: lines, or paragraphs (divided by two line feeds or more)."""
    min_bytes: int = Field(16, ge=1)
    """Shorter lines stay, without the white space at their ends."""


PRESETS: dict[str, dict[str, Any]] = {
    "pile": {"shingle": "word", "ngram": 5, "bands": 3, "rows": 3, "threshold": 0.5},
    "slimpajama": {"shingle": "character", "ngram": 13, "bands": 9, "rows": 13, "threshold": 0.8},
    "redpajama-v2": {"shingle": "word", "ngram": 13, "bands": 9, "rows": 13, "threshold": 0.8},
    "fineweb": {"shingle": "word", "ngram": 5, "bands": 14, "rows": 8, "threshold": 0.75},
    "nemo-curator": {"shingle": "character", "ngram": 24, "bands": 20, "rows": 13, "threshold": 0.8},
}
"""Published settings. What words are, and that a pair is verified, is piledriver's in all of them.

pile: Gao et al. 2020 (arXiv 2101.00027) and EleutherAI/openwebtext2, cleaning/generate_minhashes.py and
    minhash_lsh_dedupe.py: word 5-grams, 10 hash functions, MinHashLSH(threshold=0.5, num_perm=10), which
    datasketch splits into 3 bands of 3 rows.
slimpajama: Soboleva et al. 2023 and Cerebras modelzoo, slimpajama/dedup/to_hash.py: character 13-grams,
    128 hash functions, threshold 0.8, for which datasketch gives 9 bands of 13 rows. It removes
    punctuation first; this does not.
redpajama-v2: Weber et al. 2024 (arXiv 2411.12372) and the data card of RedPajama-Data-V2: word 13-grams,
    128 hash functions; 9 bands of 13 rows are its signature for similarity 0.8 (app/src/dedupe/minhash.py
    splits as datasketch does).
fineweb: Penedo et al. 2024 (arXiv 2406.17557) and datatrove, examples/fineweb.py: word 5-grams, 112 hash
    functions in 14 buckets of 8, aimed at documents that are at least 75 % similar.
nemo-curator: defaults of NVIDIA NeMo Curator's FuzzyDeduplicationWorkflow (docs.nvidia.com/nemo/curator):
    character 24-grams, 20 bands of 13 minima; its similarity threshold is 0.8 where it verifies.
"""


class DedupConfig(Section):
    """Exact and fuzzy deduplication."""

    preset: Literal["pile", "slimpajama", "redpajama-v2", "fineweb", "nemo-curator"] | None = Field(
        None, exclude=True
    )
    """Published settings to start from (dedup/config.py cites them); fields that are given replace theirs."""

    exact: bool = True
    """Drop documents whose normalised text equals that of another."""
    fuzzy: bool = True
    """Drop near-duplicates found by MinHash and verified by the exact similarity of their shingle sets."""
    minhash: MinHashConfig = MinHashConfig()
    """Signature parameters."""
    similarity: Literal["jaccard", "containment"] = "jaccard"
    """What verification measures of two shingle sets: |A∩B| / |A∪B|, or |A∩B| / min(|A|, |B|). Candidates
    come from MinHash bands either way, and those find a high Jaccard similarity: a text within one of five
    times its length has containment 1 and Jaccard 0.2, and is a candidate 1 time in 28,000 with 14 bands of
    8 rows (1 in 5 with 128 bands of 4). Which of the two stays is the policy's choice: a long text of lower
    quality goes for a short one within it."""
    threshold: float = Field(0.8, gt=0, le=1)
    """A candidate pair is a duplicate when the similarity of its shingle sets reaches this."""
    partitions: int = Field(256, ge=1, le=65536)
    """Most prefixes a band is split into, one a million documents; a restartable task has one or several."""
    lines: LinesConfig = LinesConfig()
    """Boilerplate lines or paragraphs."""
    span_tokens: int | None = Field(None, ge=8, le=1024)
    """Spans of this many tokens (divided by white space) or more that also stand earlier are removed from the
    texts; absent: none are. Lee et al. 2022 (arXiv 2107.06499) use 50."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        """Put the preset's values where none are given."""
        preset = PRESETS.get(values.get("preset") or "") if isinstance(values, dict) else None
        if preset is None:
            return values
        signature = {name: value for name, value in preset.items() if name != "threshold"}
        given = values.get("minhash", {})
        if isinstance(given, dict):
            given = signature | given
        return {"threshold": preset["threshold"]} | values | {"minhash": given}
