"""The one configuration file: every section, loading, overrides and error messages.

Imports neither Ray nor torch, so that a bad file fails in well under two seconds.
"""

import difflib
import os
import re
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from base import files
from base.claims import ClaimsConfig
from base.credentials import hidden
from base.errors import UserError
from base.mixture import check_shares
from base.settings import Section
from dedup.config import DedupConfig
from model.config import ModelConfig, TrainConfig
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.settings import RejectsConfig, ScoreConfig, ShardConfig
from pipelines.corpus.text import plugins
from pipelines.corpus.text.settings import (
    DecontaminateConfig,
    LanguageConfig,
    PluginsConfig,
    QualityConfig,
    RedactConfig,
    TokenizeConfig,
)
from pipelines.inference.settings import EvaluateConfig, InferConfig
from pipelines.runtime.settings import RayConfig, TrackingConfig


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
    plugins: PluginsConfig = PluginsConfig()
    """Filters and edits of one's own."""
    tokenize: TokenizeConfig = TokenizeConfig()
    """Tokenizer."""
    shard: ShardConfig = ShardConfig()
    """Shards."""
    mixture: dict[str, float] = {}
    """Weight by source name: shares of training samples, normalised over all. Empty: by tokens."""
    mixture_epochs: dict[str, float] = {}
    """Epochs by source name, instead of weights: a source's share is its epochs × its tokens."""
    corpus: RejectsConfig = RejectsConfig()
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
    claims: ClaimsConfig = ClaimsConfig()
    """Two commands that write the same corpus, training run or output."""

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
        try:
            check_shares("mixture", self.mixture)
            check_shares("mixture_epochs", self.mixture_epochs)
        except UserError as error:
            raise ValueError(str(error)) from None
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


MAX_BYTES, MAX_DEPTH, MAX_VALUES = 2**20, 32, 100_000
"""Bytes of YAML, and what it may hold once its aliases are followed."""


def _parse(text: str | bytes) -> Any:
    """The value of YAML. Raises ValueError for what is none, or too large or deep for a configuration."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {}, 0)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(f"it is not valid YAML: {_one_line(error)}") from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    except (TypeError, OverflowError, KeyError, AttributeError) as error:
        raise ValueError(f"it is not valid YAML: {error}") from None


def _count(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values a node stands for, each alias as often as it is followed.

    Raises ValueError for too many, or too deep a nesting, which an alias of itself has too.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if id(node) in known:
        return known[id(node)]
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    total = 1 + sum(_count(child, known, depth + 1) for child in children)
    if total > MAX_VALUES:
        raise ValueError(f"its aliases stand for more than {MAX_VALUES:,} values")
    known[id(node)] = total
    return total


def load(url: str, overrides: list[str] | None = None) -> Config:
    """Read a YAML configuration and apply `section.field=value` overrides.

    Raises UserError naming the field, the value and what is allowed.
    """
    try:
        content = _parse(files.read_bytes(url))
    except FileNotFoundError:
        raise UserError(f"configuration {url} does not exist") from None
    except ValueError as error:
        raise UserError(f"configuration {url}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"configuration {url} must be a mapping of sections")
    for override in overrides or []:
        _apply(content, override)
    if isinstance(content.get("storage"), str):
        content = _fill(content, files.absolute(os.path.expandvars(content["storage"])))
        content["storage"] = files.absolute(os.path.expandvars(content["storage"]))
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
    if "\0" in value or value.encode(errors="replace").decode() != value:
        raise UserError(f"{value[:200]!a} holds what is no text: a null byte or half of a character")
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
        new = _parse(value)
    except ValueError as error:
        raise UserError(f"--set {override[:200]}: the value cannot be taken: {error}") from None
    *sections, field = path.split(".")
    if len(sections) > MAX_DEPTH:
        raise UserError(f"--set {path[:100]}…: no field lies so deep")
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
    """The part of the configuration that decides what is in a corpus version, its credentials hidden.

    The section `plugins`, with the versions of what it names, is there only if it names something.
    """
    values = config.model_dump(mode="json")
    parts = {name: hidden(value) for name, value in values.items() if name in BUILD_SECTIONS}
    described = plugins.describe(config.plugins)
    return parts | ({"plugins": described} if described else {})
