"""The one configuration file: every section, loading, overrides and error messages.

Imports neither Ray nor torch, so that a bad file fails in well under two seconds.
"""

import difflib
import math
import os
import re
from typing import Any, Literal

import xxhash
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from base import files
from base.credentials import hidden
from base.errors import UserError
from base.settings import Section
from dedup.config import DedupConfig
from model.config import ModelConfig, TrainConfig

Kind = Literal["prose", "code", "mathematics", "dialogue", "law"]


def slug(name: str) -> str:
    """The source name of a record as ids and paths have it: lower case, a hyphen for spaces and separators.

    A name that would lose other characters ends in a hash of it, so that C, C++ and C# are three sources.
    """
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.").lower() or "unnamed"
    if re.fullmatch(r"[A-Za-z0-9_.\-\s/\\:,;|()\[\]{}]*", name):
        return plain
    return f"{plain}-{xxhash.xxh3_64_hexdigest(name.encode())[:8]}"


class SourceConfig(Section):
    """One source of documents."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the source; part of document ids and shard paths."""
    urls: list[str] = Field(min_length=1)
    """Files, folders or glob patterns (any fsspec URL); their order does not matter."""
    format: Literal["auto", "jsonl", "json", "parquet", "arrow", "csv", "warc", "text"] = "auto"
    """auto decides by extension and content; json is arrays or values over several lines, arrow an IPC file
    or stream, warc includes WET; text is one document a file."""
    text_field: str = Field("text", min_length=1)
    """Field or column that holds the text; dots reach into nested objects where no field has the whole as
    its name. Not used by warc and text."""
    name_field: str | None = None
    """Field that names the source of each record (The Pile: meta.pile_set_name), by text or a whole number;
    records without it belong to `name`. Wikipedia (en) becomes wikipedia-en; names that lose more than that
    get a hash."""
    kind: Kind = "prose"
    """What the text is; decides which quality rules apply by default."""
    kinds: dict[str, Kind] = {}
    """Kind by the source name of the records, where name_field gives several; upper case, spaces and
    separators do not matter."""
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    """Of duplicates in several sources, the one with the highest priority stays."""
    max_loss: float = Field(0.9, gt=0, le=1)
    """The build stops when one stage drops more than this share of the source's documents."""

    @field_validator("urls")
    @classmethod
    def _in_order(cls, urls: list[str]) -> list[str]:
        """The same configuration, and hash of it, however the URLs are listed."""
        return sorted(set(urls))

    @field_validator("kinds")
    @classmethod
    def _by_slug(cls, kinds: dict[str, Kind]) -> dict[str, Kind]:
        """Kinds by the names that documents have."""
        found: dict[str, Kind] = {}
        for name, kind in kinds.items():
            if found.setdefault(slug(name), kind) != kind:
                raise ValueError(f"{name} is there twice, as {found[slug(name)]} and as {kind}")
        return found

    def kind_of(self, name: str) -> Kind:
        """The kind of the documents with this source name."""
        return self.kinds.get(slug(name), self.kind)


class IngestConfig(Section):
    """Reading sources."""

    batch_bytes: int = Field(16 * 2**20, ge=2**16)
    """Decompressed bytes that are parsed and processed at a time."""
    max_document_bytes: int = Field(64 * 2**20, ge=1024)
    """Longer records are rejected."""
    split_bytes: int = Field(256 * 2**20, ge=2**10)
    """Larger files are read in ranges of about so many bytes (as stored), by several workers, where their
    format allows: JSON lines (not compressed, or in several zstd frames), parquet, Arrow, WARC (not
    compressed, or with a gzip member for each record, as Common Crawl has them)."""
    invalid_utf8: Literal["reject", "cp1252"] = "reject"
    """What happens to a record that is not UTF-8: rejected, or read as Windows-1252."""
    on_damaged_file: Literal["reject", "stop"] = "reject"
    """A truncated or corrupt file: keep what can be read and reject the rest, or stop."""


class BasicRules(Section):
    """What no kind of text should fail; mild enough for code, mathematics, licences and docstrings."""

    min_characters: int = Field(32, ge=0)
    """Shorter documents are dropped."""
    min_words: int = Field(2, ge=0)
    """Fewer words, symbols apart: dropped. A piece of code without white space may be one word."""
    max_control_fraction: float = Field(0.05, ge=0, le=1)
    """Largest share of control characters (NUL apart) among the characters as read."""
    max_replacement_fraction: float = Field(0.05, ge=0, le=1)
    """Largest share of U+FFFD among the characters."""
    max_duplicate_line_character_fraction: float = Field(0.6, ge=0, le=1)
    """Largest share of characters in lines that repeat an earlier line."""
    max_duplicate_5gram_character_fraction: float = Field(0.6, ge=0, le=1)
    """Largest share of characters in word 5-grams that repeat an earlier one."""


class GopherQualityRules(Section):
    """Quality rules of Gopher with their published thresholds (Rae et al. 2021, arXiv 2112.11446, A.1.1)."""

    min_words: int = Field(50, ge=0)
    """Fewer words: dropped."""
    max_words: int = Field(100_000, ge=0)
    """More words: dropped."""
    min_mean_word_length: float = Field(3, ge=0)
    """Smallest mean length of words, in characters."""
    max_mean_word_length: float = Field(10, ge=0)
    """Largest mean length of words, in characters."""
    max_hash_ratio: float = Field(0.1, ge=0)
    """Largest number of hash signs per word or symbol."""
    max_ellipsis_ratio: float = Field(0.1, ge=0)
    """Largest number of ellipses per word or symbol."""
    max_bullet_line_fraction: float = Field(0.9, ge=0, le=1)
    """Largest share of lines that begin with a bullet."""
    max_ellipsis_line_fraction: float = Field(0.3, ge=0, le=1)
    """Largest share of lines that end with an ellipsis."""
    min_alphabetic_word_fraction: float = Field(0.8, ge=0, le=1)
    """Smallest share of words and symbols with an alphabetic character."""
    min_stop_words: int = Field(2, ge=0)
    """Fewer different words of: the, be, to, of, and, that, have, with."""


class GopherRepetitionRules(Section):
    """Repetition rules of Gopher with their published thresholds (Rae et al. 2021, table A1)."""

    max_duplicate_line_fraction: float = Field(0.3, ge=0, le=1)
    """Largest share of lines that repeat an earlier one."""
    max_duplicate_paragraph_fraction: float = Field(0.3, ge=0, le=1)
    """Largest share of paragraphs that repeat an earlier one."""
    max_duplicate_line_character_fraction: float = Field(0.2, ge=0, le=1)
    """The same for lines by characters."""
    max_duplicate_paragraph_character_fraction: float = Field(0.2, ge=0, le=1)
    """The same for paragraphs by characters."""
    max_top_2gram_character_fraction: float = Field(0.2, ge=0)
    """Largest share of characters in the most frequent word 2-gram."""
    max_top_3gram_character_fraction: float = Field(0.18, ge=0)
    """The same for 3-grams."""
    max_top_4gram_character_fraction: float = Field(0.16, ge=0)
    """The same for 4-grams."""
    max_duplicate_5gram_character_fraction: float = Field(0.15, ge=0, le=1)
    """Largest share of characters in word 5-grams that repeat an earlier one."""
    max_duplicate_6gram_character_fraction: float = Field(0.14, ge=0, le=1)
    """The same for 6-grams."""
    max_duplicate_7gram_character_fraction: float = Field(0.13, ge=0, le=1)
    """The same for 7-grams."""
    max_duplicate_8gram_character_fraction: float = Field(0.12, ge=0, le=1)
    """The same for 8-grams."""
    max_duplicate_9gram_character_fraction: float = Field(0.11, ge=0, le=1)
    """The same for 9-grams."""
    max_duplicate_10gram_character_fraction: float = Field(0.10, ge=0, le=1)
    """The same for 10-grams."""


class C4Rules(Section):
    """Page rules of C4 (Raffel et al. 2020, JMLR 21, section 2.2).

    Lines count that end in a terminal mark and have three words, none over 1000 characters, and mention
    neither JavaScript nor cookie policies.
    """

    min_sentences: int = Field(5, ge=0)
    """Fewer sentences in the lines that count: dropped."""
    max_lorem_ipsum_lines: int = Field(0, ge=0)
    """Most lines with "lorem ipsum"."""
    max_curly_bracket_lines: int = Field(0, ge=0)
    """Most lines with a curly bracket."""


class FineWebRules(Section):
    """Rules that FineWeb adds (Penedo et al. 2024, arXiv 2406.17557, section 3.6)."""

    min_terminal_line_fraction: float = Field(0.12, ge=0, le=1)
    """Smallest share of lines that end in a sentence-terminal mark."""
    max_short_line_fraction: float = Field(0.67, ge=0, le=1)
    """Largest share of lines of at most 30 characters."""
    max_duplicate_full_line_character_fraction: float = Field(0.01, ge=0, le=1)
    """Largest share of characters in lines that repeat an earlier one, blank lines and line ends left out."""
    max_newline_ratio: float = Field(0.3, ge=0)
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
    verify_documents: int = Field(8, ge=0)
    """Documents of each shard that are compared with `tokenizers`."""


class ShardConfig(Section):
    """Token shards."""

    target_tokens: int = Field(2**26, ge=1024)
    """Tokens in a shard, about."""
    seed: int = Field(42, ge=0)
    """Seed of the order of documents."""
    heldout_fraction: float = Field(0.01, ge=0, lt=1)
    """Share of each source's documents, chosen by id, that is kept for evaluation."""


class CorpusConfig(Section):
    """Where the corpus is and how much of what was dropped is kept to look at."""

    keep_rejects: int = Field(1000, ge=0)
    """Rejected records of each part and reason that are kept, with the start of their text; all count."""
    reject_sample_characters: int = Field(400, ge=0, le=3000)
    """Characters of text kept of each reject; personal data is replaced in them."""


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


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None = None
    """MLflow tracking URI; absent: sqlite in <storage>/mlflow.db."""
    experiment: str | None = None
    """Experiment name; absent: the configuration's name."""


class RayConfig(Section):
    """The cluster that commands run on."""

    address: str | None = None
    """Ray address; absent: the running cluster if there is one, else a local one for this command."""
    workers: int = Field(2, ge=1)
    """Tasks that run at a time in a corpus build."""


class Config(Section):
    """Everything one project needs: sources, corpus, model, training, evaluation, inference."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the project; the MLflow experiment."""
    storage: str
    """fsspec URL of the folder that holds corpus, checkpoints, results and the MLflow store. Elsewhere in
    the file, {storage} stands for it."""
    sources: list[SourceConfig] = Field(min_length=1)
    """Sources of documents."""
    ingest: IngestConfig = IngestConfig()
    """Reading."""
    quality: QualityConfig = QualityConfig()
    """Quality rules."""
    language: LanguageConfig = LanguageConfig()
    """Language identification."""
    score: ScoreConfig = ScoreConfig()
    """Scores by a model."""
    dedup: DedupConfig = DedupConfig()
    """Deduplication."""
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    """Decontamination."""
    redact: RedactConfig = RedactConfig()
    """Personal data and secrets."""
    tokenize: TokenizeConfig = TokenizeConfig()
    """Tokenizer."""
    shard: ShardConfig = ShardConfig()
    """Shards."""
    mixture: dict[str, float] = {}
    """Weight by source name: shares of training samples, normalised over all. Empty: by tokens."""
    mixture_epochs: dict[str, float] = {}
    """Epochs by source name, instead of weights: a source's share is its epochs × its tokens."""
    corpus: CorpusConfig = CorpusConfig()
    """Rejects."""
    model: ModelConfig = ModelConfig()
    """Architecture."""
    train: TrainConfig = TrainConfig()
    """Training."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Evaluation."""
    infer: InferConfig = InferConfig()
    """Inference."""
    tracking: TrackingConfig = TrackingConfig()
    """MLflow."""
    ray: RayConfig = RayConfig()
    """Ray."""

    @model_validator(mode="after")
    def _unique_sources(self) -> "Config":
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"source names must differ; named twice: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _one_mixture(self) -> "Config":
        if self.mixture and self.mixture_epochs:
            raise ValueError("mixture and mixture_epochs cannot both be given; empty one of them")
        for section, unit in (("mixture", "a weight is"), ("mixture_epochs", "epochs are")):
            values: dict[str, float] = getattr(self, section)
            for name, value in values.items():
                if not 0 <= value < math.inf:
                    raise ValueError(f"{section}.{name} = {value}: {unit} a finite number and not negative")
            if values and not any(values.values()):
                raise ValueError(f"{section}: every source has 0; at least one must be above it")
        return self


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice in a mapping is a mistake, not the last one's value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; raises ConstructorError for a second key of one name."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value} stands twice in one mapping", key.start_mark
                    )
                seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def load(url: str, overrides: list[str] | None = None) -> Config:
    """Read a YAML configuration and apply `section.field=value` overrides.

    Raises UserError naming the field, the value and what is allowed.
    """
    try:
        content = yaml.load(files.read_bytes(url), _Loader)  # noqa: S506 (a safe loader)
    except FileNotFoundError:
        raise UserError(f"configuration {url} does not exist") from None
    except OSError as error:
        raise UserError(f"configuration {url} cannot be read: {error.strerror or error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"configuration {url} is not valid YAML: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"configuration {url} must be a mapping of sections")
    for override in overrides or []:
        _apply(content, override)
    if isinstance(content.get("storage"), str):
        content["storage"] = files.absolute(os.path.expandvars(content["storage"]))
        content = _fill(content, content["storage"])
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise UserError(f"configuration {url}: {_explain(error)}") from None


def _one_line(error: yaml.YAMLError) -> str:
    """What is wrong with YAML, and where."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})"


def _fill(value: Any, storage: str) -> Any:
    """`value` with every `{storage}` in its strings replaced.

    Raises UserError for a placeholder that is nearly this one.
    """
    if isinstance(value, dict):
        return {name: _fill(item, storage) for name, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, storage) for item in value]
    if not isinstance(value, str):
        return value
    for name in re.findall(r"\{(\w+)\}", value):
        if name != "storage" and difflib.get_close_matches(name.lower(), ["storage"]):
            raise UserError(f"{value!r}: {{{name}}} stands for nothing; did you mean {{storage}}?")
    return value.replace("{storage}", storage)


def _apply(content: dict[str, Any], override: str) -> None:
    """Set one field of the raw content."""
    path, separator, value = override.partition("=")
    if not separator or not all(path.split(".")):
        raise UserError(f"--set {override}: write it as section.field=value")
    try:
        new = yaml.load(value, _Loader)  # noqa: S506 (a safe loader)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value is not valid YAML: {_one_line(error)}") from None
    *sections, field = path.split(".")
    target: Any = content
    for number, section in enumerate(sections):
        key = _key(target, section, override, ".".join(sections[:number]))
        if isinstance(target, dict) and target.get(key) is None:
            target[key] = {}
        target = target[key]
    target[_key(target, field, override, ".".join(sections))] = new


def _key(target: Any, name: str, override: str, above: str) -> str | int:
    """What `name` selects in a mapping or list that lies at `above`."""
    if isinstance(target, dict):
        return name
    if not isinstance(target, list):
        raise UserError(f"--set {override}: {above} is {target!r}, which has no fields")
    if not name.isdecimal() or int(name) >= len(target):
        raise UserError(
            f"--set {override}: {above} is a list; give a place in it from 0 to {len(target) - 1}"
        )
    return int(name)


def _explain(error: ValidationError) -> str:
    sentences = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"] if part != "[key]")
        if item["type"] == "extra_forbidden":
            known = _known_fields(item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            sentences.append(f"unknown key {field}; {hint}")
        elif item["type"] == "missing":
            sentences.append(f"{field} is missing")
        elif item["type"] == "value_error" and isinstance(item["input"], dict):
            # Of a section as a whole; the message names its fields.
            sentences.append(item["msg"].removeprefix("Value error, "))
        else:
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] in ("model_type", "model_attributes_type", "dict_type"):
                message = "Input should be a mapping"
            shown = repr(item["input"])
            sentences.append(f"{field} = {shown if len(shown) < 200 else shown[:200] + '…'}: {message}")
    return "; ".join(sentences)


def _known_fields(location: tuple[Any, ...]) -> list[str]:
    """The fields of the section at a place."""
    section: Any = Config
    for part in location:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            section = annotation if hasattr(annotation, "model_fields") else annotation.__args__[0]
    return list(section.model_fields)


BUILD_SECTIONS = (
    "sources",
    "ingest",
    "language",
    "score",
    "quality",
    "dedup",
    "decontaminate",
    "redact",
    "tokenize",
    "shard",
    "mixture",
    "mixture_epochs",
    "corpus",
)
"""Sections that decide what is in a corpus version."""


def build_configuration(config: Config) -> dict[str, Any]:
    """The part of the configuration that decides what is in a corpus version, its credentials hidden."""
    values = config.model_dump(mode="json")
    return {name: hidden(value) for name, value in values.items() if name in BUILD_SECTIONS}
