"""Configuration: what is wrong is named with its value and what is allowed."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from base.errors import UserError
from pipelines.config import Config, load
from pipelines.corpus.reading.settings import SourceConfig, slug

CONFIGS = Path(__file__).parents[2] / "configs"
GOOD = """
name: test
storage: STORAGE
sources:
  - {name: books, urls: ["{storage}/raw/*.jsonl"]}
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "config.yaml"
    file.write_text(GOOD.replace("STORAGE", str(tmp_path / "project")))
    return str(file)


def test_defaults_overrides_and_storage(path: str, tmp_path: Path) -> None:
    config = load(path, ["tokenize.vocab_size=8192", "train.optimizer.betas=[0.9, 0.99]", "ray.workers=1"])
    assert isinstance(config, Config)
    assert config.tokenize.vocab_size == 8192
    assert config.train.optimizer.betas == (0.9, 0.99)
    assert config.sources[0].urls == [f"{tmp_path}/project/raw/*.jsonl"]
    assert load(path, ["sources.0.urls=[x.txt]"]).sources[0].urls == ["x.txt"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tokenise.vocab_size=1", ["unknown key tokenise", "did you mean tokenize?"]),
        ("tokenize.vocabsize=1", ["unknown key tokenize.vocabsize", "vocab_size"]),
        ("sources.0.formt=text", ["unknown key sources.0.formt", "format"]),
        ("tokenize.vocab_size=3", ["tokenize.vocab_size = 3", "257"]),
        ("train.precision=fp8", ["train.precision = 'fp8'", "fp16", "bf16"]),
        ("model.num_heads=5", ["num_heads 5", "192"]),
        ("train.global_batch_size=9", ["global_batch_size 9", "multiple"]),
        ("dedup.threshold=1.5", ["dedup.threshold = 1.5", "1"]),
        ("nonsense", ["--set nonsense", "section.field=value"]),
        ("tokenize..x=1", ["--set tokenize..x=1", "section.field=value"]),
        ("name=[", ["--set name=[", "not valid YAML", "line 1, column 2"]),
        ("sources.5.name=x", ["--set sources.5.name=x", "sources is a list", "from 0 to 0"]),
        ("sources.first.name=x", ["sources is a list", "from 0 to 0"]),
        ("sources.0.name.z=1", ["sources.0.name is 'books'", "no fields"]),
        ("nothing.like=1", ["unknown key nothing", "known are name, storage, sources"]),
        ("tokenize.vocab_size={a: 1}", ["tokenize.vocab_size = {'a': 1}", "integer"]),
        ("tokenize=5", ["tokenize = 5", "mapping"]),
        ("quality.rule_sets.verse=[basic]", ["quality.rule_sets.verse = 'verse'", "'prose'", "'law'"]),
        ("mixture={books: -1}", ["mixture.books = -1", "not negative"]),
        ("mixture={books: .nan}", ["mixture.books = nan", "finite"]),
        ("mixture={books: 0}", ["mixture", "0"]),
        ("sources.0.priority=3000000000", ["sources.0.priority = 3000000000", "2147483648"]),
        ("sources.0.urls=['{storge}/raw']", ["{storge}", "did you mean {storage}?"]),
        ("sources=[{name: a, urls: [x]}, {name: a, urls: [y]}]", ["named twice: a"]),
        ("sources.0.format=jsnl", ["sources.0.format = 'jsnl': it is auto, jsonl, json, parquet", "or text"]),
        ("plugins.filter=[a:b]", ["unknown key plugins.filter; did you mean filters?"]),
        ("sources=[]", ["sources", "at least 1"]),
    ],
)
def test_mistakes_are_named(path: str, override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load(path, [override])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("a: [", "YAML"),
        ("just text", "mapping"),
        ("name: x", "storage is missing"),
        ("name: x\n\tstorage: y", "line 2, column 1"),
        ("name: x\nname: y", "key name stands twice .*line 2"),
        ("name: caf\udce9", "YAML"),
    ],
)
def test_broken_files(tmp_path: Path, content: str, word: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=word):
        load(str(file))
    with pytest.raises(UserError, match="does not exist"):
        load(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load(str(tmp_path))


BOMB = "{x: &a [0,0,0,0,0,0,0,0,0], " + ", ".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (BOMB + "}", "its aliases stand for more than 100,000 values"),
        ("&a [*a]", "nested more than 32 deep"),
        ("[" * 3000, "nested more than 32 deep"),
        ("[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("x" * 2**21, "more than 1,048,576 bytes"),
        ("2001-99-99", "month must be in"),
        ("1" * 5000, "integer string conversion"),
        ("{? [a] : b}", "unhashable key"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
    ],
)
def test_yaml_is_read_within_limits(path: str, tmp_path: Path, value: str, word: str) -> None:
    with pytest.raises(UserError, match=word) as error:
        load(path, [f"mixture={value}"])
    assert len(str(error.value)) < 1000
    file = tmp_path / "other.yaml"
    file.write_text(f"name: x\nmixture: {value}\n")
    with pytest.raises(UserError, match=word):
        load(str(file))


def test_an_alias_that_is_followed_a_few_times_is_read(path: str) -> None:
    urls = load(path, ["sources=[{name: a, urls: &u [x, y]}, {name: b, urls: *u}]"]).sources[1].urls
    assert urls == ["x", "y"]


@pytest.mark.parametrize("override", [".".join("a" * 500) + "=1", 'storage="a\\0b"', 'storage="\\ud800"'])
def test_what_can_be_no_field_or_path_is_told(path: str, override: str) -> None:
    with pytest.raises(UserError):
        load(path, [override])


def test_every_field_of_every_section_is_documented() -> None:
    import typing

    from base.settings import Section

    def check(model: type[Section]) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} has no description"
            for inner in (field.annotation, *typing.get_args(field.annotation)):
                if isinstance(inner, type) and issubclass(inner, Section):
                    check(inner)

    check(Config)


def test_names_of_records_stay_apart_where_they_lose_more_than_case_and_separators() -> None:
    assert slug("Wikipedia (en)") == "wikipedia-en"
    assert slug("Pile-CC") == slug("pile cc") == "pile-cc"
    names = ["C", "C++", "C#", "维基百科", "小说", "R&D", "R D"]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert slugs[0] == "c"
    assert [slug(name) for name in slugs] == slugs
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name) for name in slugs)


def test_kinds_are_by_the_names_of_the_records_or_what_becomes_of_them() -> None:
    source = SourceConfig(name="Web", urls=["x"], kinds={"ArXiv": "mathematics", "web": "law"})
    kinds = [source.kind_of(name) for name in ("arxiv", "Web", "books")]
    assert kinds == ["mathematics", "law", "prose"]
    with pytest.raises(ValidationError, match="arxiv is there twice, as code and as prose"):
        SourceConfig(name="s", urls=["x"], kinds={"ArXiv": "code", "arxiv": "prose"})


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_our_own_configurations_are_right(file: Path) -> None:
    assert load(str(file)).name == file.stem
