"""Quality of documents: measured columns, and the decision from them.

The definitions follow Gopher (Rae et al. 2021), C4 (Raffel et al. 2020) and FineWeb (Penedo et al. 2024) as
datatrove 0.10 reads them, down to its words and sentences (those of spaCy's English tokenizer, see `words`):
benchmarks/quality.py compares the verdicts. All rule sets, `basic` included, count the same words.

Between spaces a Chinese or Thai text has one word a clause. Where half of a text or more is in scripts
without spaces (`UNSPACED`) its words are those of dedup/words.py, and rules on columns that need spaces
(settings.NEEDS_SPACES) do not judge it.
"""

import numpy as np
import pyarrow as pa

from dedup.hashing import string_buffers
from dedup.words import count_unspaced
from pipelines.corpus.reading.settings import SourceConfig
from pipelines.corpus.text import textscan
from pipelines.corpus.text.settings import NEEDS_SPACES, QualityConfig, Rule

UNSPACED = np.float32(0.5)
"""Smallest share of characters in scripts without spaces of a text that is in such a script."""

# Measured column: (numerator, denominator) of the kernel's counts. Without denominator it is the count.
_FRACTIONS = {
    "mean_word_length": ("word_characters", "words"),
    "hash_ratio": ("hashes", "tokens"),
    "ellipsis_ratio": ("ellipses", "tokens"),
    "bullet_line_fraction": ("bullet_lines", "lines"),
    "ellipsis_line_fraction": ("ellipsis_lines", "lines"),
    "alphabetic_word_fraction": ("alphabetic_words", "tokens"),
    "replacement_fraction": ("replacements", "characters"),
    "duplicate_line_fraction": ("duplicate_lines", "gopher_lines"),
    "duplicate_line_character_fraction": ("duplicate_line_characters", "characters"),
    "duplicate_paragraph_fraction": ("duplicate_paragraphs", "paragraphs"),
    "duplicate_paragraph_character_fraction": ("duplicate_paragraph_characters", "characters"),
    **{f"top_{n}gram_character_fraction": (f"top_{n}gram_characters", "characters") for n in range(2, 5)},
    **{
        f"duplicate_{n}gram_character_fraction": (f"duplicate_{n}gram_characters", "characters")
        for n in range(5, 11)
    },
    "terminal_line_fraction": ("terminal_lines", "full_lines"),
    "short_line_fraction": ("short_lines", "full_lines"),
    "newline_ratio": ("newlines", "tokens"),
}
_COUNTS = (
    "characters",
    "words",
    "tokens",
    "lines",
    "stop_words",
    "c4_lines",
    "c4_sentences",
    "c4_javascript_lines",
    "c4_policy_lines",
    "c4_lorem_ipsum",
    "c4_curly_bracket",
)

Limit = tuple[str, float]
"""A threshold: "min" or "max", and the value."""


def measure(text: pa.LargeStringArray) -> pa.Table:
    """The measured columns of each document, names beginning with q_.

    Counts are int32 (q_characters int64), shares and ratios float32; a share of nothing is 0.
    """
    data, offsets = string_buffers(text)
    counts = textscan.counts(data, offsets)
    unspaced = count_unspaced(data, offsets)
    at = {name: counts[:, number] for number, name in enumerate(textscan.COLUMNS)}
    columns = {f"q_{name}": at[name].astype(np.int32) for name in _COUNTS}
    share = (unspaced[:, 1] / np.maximum(at["characters"], 1)).astype(np.float32)
    columns["q_unspaced_fraction"] = share
    columns["q_words"] = np.where(share >= UNSPACED, unspaced[:, 0], at["words"]).astype(np.int32)
    columns["q_characters"] = np.ascontiguousarray(at["characters"])
    for name, (above, below) in _FRACTIONS.items():
        columns[f"q_{name}"] = (at[above] / np.maximum(at[below], 1)).astype(np.float32)
    columns["q_duplicate_full_line_character_fraction"] = (
        at["duplicate_full_line_characters"] / np.maximum(at["characters"] - at["newlines"], 1)
    ).astype(np.float32)
    return pa.table({name: pa.array(column) for name, column in columns.items()})


def decide(attributes: pa.Table, source: SourceConfig, config: QualityConfig) -> tuple[pa.Array, pa.Array]:
    """Which documents are dropped, by the rule sets of the source's kind.

    attributes: the columns of `measure` and the n_control column of `normalise`. Returns (reason, value):
    reason is null for a document that stays, else the first rule that it breaks, as rule set and field
    ("gopher_quality.min_words"); value is what was measured for that rule (float64, NaN if it stays).
    """
    reason = np.full(attributes.num_rows, None, object)
    value = np.full(attributes.num_rows, np.nan)
    undecided = np.ones(attributes.num_rows, np.bool_)
    for rule in config.rules_of(source.kind):
        measured, broken = breaks(attributes, rule)
        broken &= undecided & judged(attributes, rule)
        reason[broken] = rule.name
        value[broken] = measured[broken]
        undecided &= ~broken
    return pa.array(reason, pa.string()), pa.array(value)


def judged(attributes: pa.Table, rule: Rule) -> np.ndarray:
    """The documents that a rule can judge: not those in scripts without spaces if its column needs spaces."""
    if rule.column not in NEEDS_SPACES:
        return np.ones(attributes.num_rows, np.bool_)
    mask: np.ndarray = attributes["q_unspaced_fraction"].to_numpy() < UNSPACED
    return mask


def count_unjudged(attributes: pa.Table, source: SourceConfig, config: QualityConfig) -> dict[str, int]:
    """Documents that break a rule which cannot judge them, by rule."""
    counts = {
        rule.name: int((breaks(attributes, rule)[1] & ~judged(attributes, rule)).sum())
        for rule in config.rules_of(source.kind)
        if rule.column in NEEDS_SPACES
    }
    return {name: count for name, count in counts.items() if count}


def breaks(attributes: pa.Table, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """(measured values, which documents break the rule)."""
    if rule.column == "q_control_fraction":
        measured = control_fraction(attributes)
    else:
        measured = attributes[rule.column].to_numpy()
    # Thresholds are compared as the columns store them, so that equality is equality.
    limit = np.float32(rule.threshold)
    return measured, measured < limit if rule.limit == "min" else measured > limit


def thresholds(kinds: list[str], config: QualityConfig) -> dict[str, list[Limit]]:
    """The thresholds that the rule sets of these kinds put on each measured column, for pictures."""
    limits: dict[str, set[Limit]] = {}
    for kind in kinds:
        for rule in config.rules_of(kind):
            limits.setdefault(rule.column, set()).add((rule.limit, rule.threshold))
    return {column: sorted(of_one, key=lambda limit: limit[1]) for column, of_one in limits.items()}


def control_fraction(attributes: pa.Table) -> np.ndarray:
    """Share of control characters among the characters as read."""
    control = attributes["n_control"].to_numpy()
    share: np.ndarray = control / np.maximum(attributes["q_characters"].to_numpy() + control, 1)
    return share
