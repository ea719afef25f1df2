"""Filters and edits from outside the package, by import path."""

import math
from pathlib import Path

import pyarrow as pa
import pytest

from base import files
from base.errors import UserError
from pipelines.config import Config, build_configuration
from pipelines.corpus.text import plugins
from pipelines.corpus.text.settings import PluginsConfig

MODULE = '''
import pyarrow as pa
import pyarrow.compute as pc


def few_links(texts):
    links = pc.count_substring(texts, "http")
    reasons = pc.if_else(pc.greater(links, 2), "too_many_links", pa.scalar(None, pa.string()))
    return reasons, links


few_links.name = "few_links"
few_links.version = 1


class NoWord:
    """A filter with a setting."""

    version = "2"

    def __init__(self, word):
        self.word, self.name = word, f"no_{word}"

    def __call__(self, texts):
        return [self.word if self.word in text else None for text in texts.to_pylist()]


no_spam = NoWord("spam")


class Upper:
    name, version = "upper", 3

    def __call__(self, texts):
        return pc.utf8_upper(texts)


upper = Upper()
number = 7


def plain(texts):
    return texts


def wrong(texts):
    size = len(texts)
    returns = {"short": texts[1:], "null": pa.nulls(size), "number": 7.5, "mask": [True] * size, "none": None}
    return returns[texts[0].as_py()]


wrong.name, wrong.version = "wrong", 1
'''
FILTERS = ["their_plugins:few_links", "their_plugins:no_spam"]
EDITS = ["their_plugins:upper"]


@pytest.fixture(autouse=True)
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_plugins.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def column(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def test_filters_measure_and_decide() -> None:
    texts = column("good", "http " * 3, "spam", "spam " + "http " * 4)
    table = pa.table(plugins.measure(texts, FILTERS))
    assert table.column_names == [
        "plugin_reason_few_links",
        "plugin_value_few_links",
        "plugin_reason_no_spam",
        "plugin_value_no_spam",
    ]
    reasons, values = plugins.decide(table, FILTERS)
    many, spam = "plugins.few_links.too_many_links", "plugins.no_spam.spam"
    assert reasons.to_pylist() == [None, many, spam, many]
    assert [values[1], values[3]] == [3, 4] and math.isnan(values[0]) and math.isnan(values[2])
    reasons, _ = plugins.decide(table, FILTERS[1:])
    assert reasons.to_pylist() == [None, None, spam, spam]
    nothing = plugins.measure(column(), FILTERS)
    assert pa.table(nothing).schema == table.schema
    assert plugins.measure(texts, []) == {}
    assert plugins.decide(table, [])[0].null_count == 4


def test_edits_change_texts() -> None:
    assert plugins.edit(column("a", "é"), EDITS[0]).to_pylist() == ["A", "É"]
    assert plugins.edit(column(), EDITS[0]).type == pa.large_string()


def test_what_a_corpus_depends_on() -> None:
    settings = PluginsConfig(filters=FILTERS, edits=EDITS)
    plugins.check(settings)
    described = plugins.describe(settings)
    assert described == {
        "filters": [
            {"path": FILTERS[0], "name": "few_links", "version": 1},
            {"path": FILTERS[1], "name": "no_spam", "version": "2"},
        ],
        "edits": [{"path": EDITS[0], "name": "upper", "version": 3}],
    }
    assert PluginsConfig.model_validate(described) == settings
    assert plugins.describe(PluginsConfig()) == {}


def test_a_configuration_names_versions_and_one_without_plugins_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = {"name": "n", "storage": "memory://s", "sources": [{"name": "a", "urls": ["memory://a.txt"]}]}
    plain = build_configuration(Config.model_validate(content))
    # What the code gave before there were plugins, with the settings that have come since.
    assert files.key_of(plain) == "7640cc4bb91bfacb"
    config = Config.model_validate({**content, "plugins": {"filters": FILTERS, "edits": EDITS}})
    with_plugins = build_configuration(config)
    assert {**with_plugins, "plugins": None} == {**plain, "plugins": None}
    assert with_plugins["plugins"] == plugins.describe(config.plugins)
    monkeypatch.setattr("their_plugins.few_links.version", 2)
    assert files.key_of(build_configuration(config)) != files.key_of(with_plugins)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("their_plugins", "'their_plugins' is no import path; write it as package.module:NAME"),
        ("nowhere:x", "nowhere:x cannot be imported: No module named 'nowhere'"),
        ("their_plugins:nothing", "their_plugins:nothing cannot be imported: their_plugins has no nothing"),
        ("their_plugins:number", "plugin their_plugins:number cannot be called"),
        ("their_plugins:plain", "plugin their_plugins:plain has name None; give it an attribute `name`"),
        ("their_plugins:NoWord", "plugin their_plugins:NoWord has name None"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(path: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        plugins.check(PluginsConfig(edits=[path]))


def test_versions_and_names_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="plugins.filters: .*no_spam and .* the same name no_spam"):
        plugins.check(PluginsConfig(filters=[FILTERS[1], FILTERS[1]]))
    plugins.check(PluginsConfig(filters=EDITS, edits=EDITS))
    plugins.find(FILTERS[0])
    monkeypatch.delattr("their_plugins.few_links.version")
    with pytest.raises(UserError, match="few_links has version None; give it an attribute `version`"):
        plugins.check(PluginsConfig(filters=FILTERS))
    monkeypatch.setattr("their_plugins.no_spam.name", "few_links")
    monkeypatch.setattr("their_plugins.few_links.version", 1, raising=False)
    with pytest.raises(UserError, match="few_links and their_plugins:no_spam have the same name few_links"):
        plugins.check(PluginsConfig(filters=FILTERS))


@pytest.mark.parametrize(
    ("returns", "filters", "edits"),
    [
        ("short", "returned 1 values for 2 texts", "returned 1 values for 2 texts"),
        ("mask", "returned no column of string: bool is no text", "returned no column of large_string"),
        ("number", "returned no column of string", "returned no column of large_string"),
        ("null", None, "returned null for a text"),
        ("none", "returned no column of string", "returned no column of large_string"),
    ],
)
def test_what_a_plugin_returns_is_checked(returns: str, filters: str | None, edits: str | None) -> None:
    for sentence, call in (
        (filters, lambda texts: plugins.measure(texts, ["their_plugins:wrong"])),
        (edits, lambda texts: plugins.edit(texts, "their_plugins:wrong")),
    ):
        if sentence is None:
            call(column(returns, "x"))
        else:
            with pytest.raises(UserError, match=sentence):
                call(column(returns, "x"))
