"""Settings of what is done to texts: quality rules, languages, benchmark items, personal data, tokens."""

import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from base.settings import Section
from pipelines.corpus.reading.settings import Kind


def rule(default: float, column: str, **bounds: float) -> Any:
    """The field of a quality rule: its threshold, and the measured column that it acts on.

    The field's name begins with min_ or max_, which says on which side of the threshold a document is
    dropped. A column is one of `quality.measure`, or q_control_fraction.
    """
    return Field(default, json_schema_extra={"column": column}, **bounds)  # type: ignore[call-overload]


NEEDS_SPACES = frozenset(
    (
        *("q_mean_word_length", "q_hash_ratio", "q_ellipsis_ratio", "q_alphabetic_word_fraction"),
        *("q_stop_words", "q_newline_ratio", "q_c4_sentences", "q_terminal_line_fraction"),
        *("q_short_line_fraction", *(f"q_top_{n}gram_character_fraction" for n in range(2, 5))),
    )
)
"""Columns that say nothing of a text in scripts without spaces (Chinese, Japanese, Thai, Khmer, Lao,
Burmese): they count words between spaces, marks that these scripts do not have, or lines by their letters. A
rule on one of them keeps such a document, and the report says how many it would have dropped."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A quality rule, as a rule set declares it and the configuration sets its threshold."""

    rules: str
    """The rule set."""
    field: str
    """The setting of the threshold within it."""
    column: str
    """The measured column."""
    limit: Literal["min", "max"]
    """Whether values below or above the threshold break the rule."""
    threshold: float

    @property
    def name(self) -> str:
        """The rule as reasons of drops have it."""
        return f"{self.rules}.{self.field}"


def _column(field: FieldInfo) -> str:
    assert isinstance(field.json_schema_extra, dict), "a rule is declared by rule()"
    return str(field.json_schema_extra["column"])


class RuleSection(Section):
    """A rule set. Each field is the whole declaration of a rule: everything else follows from it."""

    published: ClassVar[str]
    """Where the rules and their thresholds were published."""

    def declared(self, rules: str) -> list[Rule]:
        """The rules of this set, which is named `rules`, in order."""
        return [
            Rule(
                rules=rules,
                field=field,
                column=_column(info),
                limit="min" if field.startswith("min_") else "max",
                threshold=getattr(self, field),
            )
            for field, info in type(self).model_fields.items()
        ]


class BasicRules(RuleSection):
    """What no kind of text should fail; mild enough for code, mathematics, licences and docstrings."""

    published: ClassVar[str] = "piledriver"

    min_characters: int = rule(32, "q_characters", ge=0)
    """Shorter documents are dropped."""
    min_words: int = rule(2, "q_words", ge=0)
    """Fewer words, symbols apart: dropped. A piece of code without white space may be one word; in scripts
    without spaces words are those of dedup/words.py, for each rule that counts them."""
    max_control_fraction: float = rule(0.05, "q_control_fraction", ge=0, le=1)
    """Largest share of control characters (NUL apart) among the characters as read."""
    max_replacement_fraction: float = rule(0.05, "q_replacement_fraction", ge=0, le=1)
    """Largest share of U+FFFD among the characters."""
    max_duplicate_line_character_fraction: float = rule(
        0.6, "q_duplicate_line_character_fraction", ge=0, le=1
    )
    """Largest share of characters in lines that repeat an earlier line."""
    max_duplicate_5gram_character_fraction: float = rule(
        0.6, "q_duplicate_5gram_character_fraction", ge=0, le=1
    )
    """Largest share of characters in word 5-grams that repeat an earlier one."""


class GopherQualityRules(RuleSection):
    """Quality rules of Gopher with their published thresholds (Rae et al. 2021, arXiv 2112.11446, A.1.1)."""

    published: ClassVar[str] = "Rae et al. 2021, arXiv 2112.11446, A.1.1"

    min_words: int = rule(50, "q_words", ge=0)
    """Fewer words: dropped."""
    max_words: int = rule(100_000, "q_words", ge=0)
    """More words: dropped."""
    min_mean_word_length: float = rule(3, "q_mean_word_length", ge=0)
    """Smallest mean length of words, in characters."""
    max_mean_word_length: float = rule(10, "q_mean_word_length", ge=0)
    """Largest mean length of words, in characters."""
    max_hash_ratio: float = rule(0.1, "q_hash_ratio", ge=0)
    """Largest number of hash signs per word or symbol."""
    max_ellipsis_ratio: float = rule(0.1, "q_ellipsis_ratio", ge=0)
    """Largest number of ellipses per word or symbol."""
    max_bullet_line_fraction: float = rule(0.9, "q_bullet_line_fraction", ge=0, le=1)
    """Largest share of lines that begin with a bullet."""
    max_ellipsis_line_fraction: float = rule(0.3, "q_ellipsis_line_fraction", ge=0, le=1)
    """Largest share of lines that end with an ellipsis."""
    min_alphabetic_word_fraction: float = rule(0.8, "q_alphabetic_word_fraction", ge=0, le=1)
    """Smallest share of words and symbols with an alphabetic character."""
    min_stop_words: int = rule(2, "q_stop_words", ge=0)
    """Fewer different words of: the, be, to, of, and, that, have, with."""


class GopherRepetitionRules(RuleSection):
    """Repetition rules of Gopher with their published thresholds (Rae et al. 2021, table A1)."""

    published: ClassVar[str] = "Rae et al. 2021, arXiv 2112.11446, table A1"

    max_duplicate_line_fraction: float = rule(0.3, "q_duplicate_line_fraction", ge=0, le=1)
    """Largest share of lines that repeat an earlier one."""
    max_duplicate_paragraph_fraction: float = rule(0.3, "q_duplicate_paragraph_fraction", ge=0, le=1)
    """Largest share of paragraphs that repeat an earlier one."""
    max_duplicate_line_character_fraction: float = rule(
        0.2, "q_duplicate_line_character_fraction", ge=0, le=1
    )
    """The same for lines by characters."""
    max_duplicate_paragraph_character_fraction: float = rule(
        0.2, "q_duplicate_paragraph_character_fraction", ge=0, le=1
    )
    """The same for paragraphs by characters."""
    max_top_2gram_character_fraction: float = rule(0.2, "q_top_2gram_character_fraction", ge=0)
    """Largest share of characters in the most frequent word 2-gram."""
    max_top_3gram_character_fraction: float = rule(0.18, "q_top_3gram_character_fraction", ge=0)
    """The same for 3-grams."""
    max_top_4gram_character_fraction: float = rule(0.16, "q_top_4gram_character_fraction", ge=0)
    """The same for 4-grams."""
    max_duplicate_5gram_character_fraction: float = rule(
        0.15, "q_duplicate_5gram_character_fraction", ge=0, le=1
    )
    """Largest share of characters in word 5-grams that repeat an earlier one."""
    max_duplicate_6gram_character_fraction: float = rule(
        0.14, "q_duplicate_6gram_character_fraction", ge=0, le=1
    )
    """The same for 6-grams."""
    max_duplicate_7gram_character_fraction: float = rule(
        0.13, "q_duplicate_7gram_character_fraction", ge=0, le=1
    )
    """The same for 7-grams."""
    max_duplicate_8gram_character_fraction: float = rule(
        0.12, "q_duplicate_8gram_character_fraction", ge=0, le=1
    )
    """The same for 8-grams."""
    max_duplicate_9gram_character_fraction: float = rule(
        0.11, "q_duplicate_9gram_character_fraction", ge=0, le=1
    )
    """The same for 9-grams."""
    max_duplicate_10gram_character_fraction: float = rule(
        0.10, "q_duplicate_10gram_character_fraction", ge=0, le=1
    )
    """The same for 10-grams."""


class C4Rules(RuleSection):
    """Page rules of C4 (Raffel et al. 2020, JMLR 21, section 2.2).

    Lines count that end in a terminal mark and have three words, none over 1000 characters, and mention
    neither JavaScript nor cookie policies.
    """

    published: ClassVar[str] = "Raffel et al. 2020, JMLR 21, section 2.2"

    min_sentences: int = rule(5, "q_c4_sentences", ge=0)
    """Fewer sentences in the lines that count: dropped."""
    max_lorem_ipsum_lines: int = rule(0, "q_c4_lorem_ipsum", ge=0)
    """Most lines with "lorem ipsum"."""
    max_curly_bracket_lines: int = rule(0, "q_c4_curly_bracket", ge=0)
    """Most lines with a curly bracket."""


class FineWebRules(RuleSection):
    """Rules that FineWeb adds (Penedo et al. 2024, arXiv 2406.17557, section 3.6)."""

    published: ClassVar[str] = "Penedo et al. 2024, arXiv 2406.17557, section 3.6"

    min_terminal_line_fraction: float = rule(0.12, "q_terminal_line_fraction", ge=0, le=1)
    """Smallest share of lines that end in a sentence-terminal mark."""
    max_short_line_fraction: float = rule(0.67, "q_short_line_fraction", ge=0, le=1)
    """Largest share of lines of at most 30 characters."""
    max_duplicate_full_line_character_fraction: float = rule(
        0.01, "q_duplicate_full_line_character_fraction", ge=0, le=1
    )
    """Largest share of characters in lines that repeat an earlier one, blank lines and line ends left out."""
    max_newline_ratio: float = rule(0.3, "q_newline_ratio", ge=0)
    """Largest number of line ends per word or symbol."""


RuleSet = Literal["basic", "gopher_quality", "gopher_repetition", "c4", "fineweb"]


class QualityConfig(Section):
    """Which documents are clean enough. Thresholds act on measured columns."""

    enabled: bool = True
    """Switch all quality rules on or off."""
    rule_sets: dict[Kind, list[RuleSet]] = {}
    """Rule sets by kind of source; kinds that are not named have `basic` alone."""
    basic: BasicRules = BasicRules()
    """Thresholds of the rule set basic."""
    gopher_quality: GopherQualityRules = GopherQualityRules()
    """Thresholds of Gopher's quality rules."""
    gopher_repetition: GopherRepetitionRules = GopherRepetitionRules()
    """Thresholds of Gopher's repetition rules."""
    c4: C4Rules = C4Rules()
    """Thresholds of C4's rules."""
    fineweb: FineWebRules = FineWebRules()
    """Thresholds of FineWeb's rules."""

    def rules_of(self, kind: str) -> list[Rule]:
        """The rules that documents of a kind of source must keep, in the order in which they are asked."""
        sets = self.rule_sets.get(cast(Kind, kind), ["basic"]) if self.enabled else []
        return [rule for name in sets for rule in getattr(self, name).declared(name)]


def rules_markdown() -> str:
    """All quality rules, with the thresholds as published, as the documentation has them."""
    rows = [
        "| rule | measured column | drops | default | scripts without spaces | published in |",
        "|---|---|---|---|---|---|",
    ]
    settings = QualityConfig()
    for name in typing.get_args(RuleSet):
        section: RuleSection = getattr(settings, name)
        for rule in section.declared(name):
            side = "below" if rule.limit == "min" else "above"
            unspaced = "kept" if rule.column in NEEDS_SPACES else "judged"
            cells = [
                f"`{rule.name}`",
                f"`{rule.column}`",
                side,
                f"{rule.threshold:g}",
                unspaced,
                section.published,
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


class BenchmarkConfig(Section):
    """One benchmark whose items must not be in the corpus."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name in the report."""
    urls: list[str] = Field(min_length=1)
    """Files, folders or glob patterns: jsonl (compressed too) or parquet with one item a record, or text."""
    fields: list[str] = []
    """Text fields that make one passage, joined; dots reach into nested objects. Empty: every text field is
    a passage of its own."""


class DecontaminateConfig(Section):
    """Removing benchmark items from documents, by word n-grams."""

    benchmarks: list[BenchmarkConfig] = []
    """Benchmarks; none: nothing is looked for."""
    ngram: int = Field(13, ge=2)
    """Words of an n-gram."""
    min_words: int = Field(8, ge=2)
    """Passages of fewer words are not looked for; those of fewer than `ngram` words must be found whole."""
    max_items: int = Field(10, ge=1)
    """An n-gram of more items of one benchmark is boilerplate and is left out."""
    action: Literal["drop", "span"] = "drop"
    """Drop the document, or cut out the spans that were found."""
    min_ngrams: int = Field(1, ge=1)
    """Distinct n-grams of a passage that a document must have (all of them, where it has fewer)."""
    min_share: float = Field(0.0, ge=0, le=1)
    """Share of a passage's distinct n-grams that a document must have."""


class RedactConfig(Section):
    """What personal data and secrets are replaced with; null leaves that kind alone."""

    email: str | None = "email@example.com"
    """E-mail addresses (replacement as in FineWeb)."""
    ipv4: str | None = "192.0.2.1"
    """Public IPv4 addresses; the default is one of those reserved for documentation (RFC 5737)."""
    ipv6: str | None = "2001:db8::1"
    """Public IPv6 addresses; the default is reserved for documentation (RFC 3849)."""
    phone: str | None = "(202) 555-0100"
    """Telephone numbers; the default is one of the numbers kept for fiction (555-0100 to 555-0199)."""
    secret: str | None = "<KEY>"
    """Keys, tokens, and passwords in URLs (replacement as in StarCoderData)."""


class LanguageConfig(Section):
    """Identifying the language of documents."""

    enabled: bool = True
    """Whether the language of each document is identified."""
    max_characters: int = Field(1000, ge=1)
    """Characters at the start of a document that decide."""
    keep: dict[Kind, list[str]] = {}
    """Languages that stay, by kind of source (codes as fastText names them: en, de, zh); kinds that are not
    named keep all."""
    min_score: float = Field(0.65, ge=0, le=1)
    """Smallest probability of the language where `keep` names some (0.65 in FineWeb)."""

    @model_validator(mode="after")
    def _can_keep(self) -> "LanguageConfig":
        if self.keep and not self.enabled:
            raise ValueError("language.keep needs language.enabled")
        return self


class TokenizeConfig(Section):
    """The tokenizer."""

    tokenizer: str | None = None
    """URL of a `tokenizers` JSON file; absent: a byte-level BPE is trained on the corpus."""
    vocab_size: int = Field(4096, ge=257, le=2**31 - 1)
    """Size of a trained vocabulary; jobs.plan counts with it."""
    train_bytes: int = Field(16 * 2**20, ge=1024)
    """Text that a trained tokenizer is trained on, sampled over all sources."""
    end_of_document: str = "<|endoftext|>"
    """Token that ends every document."""
    special_tokens: Literal["text", "tokens"] = "text"
    """What becomes of text that spells a special token, such as `<|endoftext|>`: text like any other, or the
    token. The report counts them either way."""
    verify_documents: int = Field(8, ge=0)
    """Documents of each shard that are compared with `tokenizers`."""


class PluginsConfig(Section):
    """Code of one's own that works on texts, by import path `package.module:NAME`.

    pipelines/corpus/text/plugins.py says what it must be. Its version is part of what a corpus is made of.
    """

    filters: list[str] = []
    """Filters: they may drop documents that all quality rules keep."""
    edits: list[str] = []
    """Edits: they may change texts, one after the other, before personal data is replaced."""

    @field_validator("filters", "edits", mode="before")
    @classmethod
    def _paths(cls, values: Any) -> Any:
        """The import paths, also of `plugins.describe`, which manifests have."""
        if not isinstance(values, list):
            return values
        return [value["path"] if isinstance(value, dict) and "path" in value else value for value in values]
