"""jobs.explain on a small corpus of two versions, built by the real pipeline."""

import json
import sys

import pyarrow.compute as pc
import pytest

from base import files
from base.errors import UserError
from jobs import explain as command
from jobs.session import run
from pipelines.config import Config
from pipelines.corpus.views import explain
from tests.helpers import builds

BASE = [
    f"The {word} fox number {i} jumps over dog {i * 7} and then sleeps in field {i * 13}."
    for i, word in enumerate(["quick", "brown", "lazy", "red", "old", "new", "big", "small", "tall"] * 3)
]

SHIPS = [f"Ship {i} sails past island {i * 7} and anchors near reef {i * 13} at night." for i in range(27)]


def near(text: str) -> str:
    return text.replace("fox number 3", "cat number 3")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    long = " ".join(BASE)
    # Record 2 is the longest, which is the one to keep.
    records = [
        {"text": long},
        {"text": near(long)},
        {"text": "  ".join(BASE)},
        {"text": "x"},
        {"text": "Something else altogether, about boats. " + " ".join(BASE[::-1])[:300]},
        {"text": 5},
        # The last stays; the second, of the same words, would, and so the first is its twin.
        {"text": " ".join(SHIPS)},
        {"text": "  ".join(SHIPS)},
        {"text": " ".join(SHIPS) + " The captain writes all of it down in the log of the ship."},
    ]
    (folder / "one.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = Config.model_validate(
        {
            "name": "explain",
            "storage": str(folder / "storage"),
            "sources": [{"name": "a", "urls": [str(folder / "*.jsonl")], "max_loss": 1.0}],
            "tokenize": {"vocab_size": 300, "train_bytes": 1024},
            "ray": {"workers": 1},
        }
    )
    builds.run(config)
    (folder / "two.jsonl").write_text(json.dumps({"text": near(long) + " And wakes."}) + "\n")
    version = builds.refresh(config).version
    return folder, version


def identifiers(version):
    table = files.read_parquet(files.join(version.url, "dropped/duplicates.parquet"))
    return table["document_id"].to_pylist(), table["kept_id"].to_pylist()


def test_a_near_duplicate_names_the_kept_one_and_shows_the_difference(corpus):
    _, version = corpus
    text = "\n".join(explain.explain(version, "one.jsonl:1"))
    assert "dropped in v0001 as near_duplicate of document " in text and "similarity 0.9" in text
    assert "one.jsonl, record 1" in text and "one.jsonl, record 2" in text
    assert "-The red fox number 3 jumps" in text and "+The red cat number 3 jumps" in text
    by_id = explain.explain(version, text.split()[1])
    assert by_id == text.split("\n")


def test_an_exact_duplicate_and_a_kept_document_show_the_cluster(corpus):
    _, version = corpus
    exact = "\n".join(explain.explain(version, "one.jsonl:0"))
    assert "as exact_duplicate of" in exact and "same but for white space" in exact
    assert "(this document)" in exact
    kept = "\n".join(explain.explain(version, "one.jsonl:2"))
    assert "kept in v0001, in v0001/shards/a/" in kept and "and 3 dropped" in kept
    alone = "\n".join(explain.explain(version, "one.jsonl:4"))
    assert "kept in v0001" in alone and "no document of these versions was dropped" in alone


def test_the_twin_of_a_near_duplicate_is_told_as_such(corpus):
    _, version = corpus
    twin = "\n".join(explain.explain(version, "one.jsonl:6"))
    assert "dropped in v0001 as exact_duplicate of a near_duplicate of document" in twin
    assert "-The captain writes" in twin and "one.jsonl, record 8" in twin
    assert "dropped in v0001 as near_duplicate of document" in "\n".join(
        explain.explain(version, "one.jsonl:7")
    )


def test_a_duplicate_of_an_older_version(corpus):
    _, version = corpus
    assert version.name == "v0002"
    (new,), (kept,) = identifiers(version)
    text = "\n".join(explain.explain(version, new.hex()))
    assert f"dropped in v0002 as near_duplicate of document {kept.hex()} of v0001" in text
    assert "And wakes." in text


def test_quality_drops_and_rejects_have_their_reason(corpus):
    _, version = corpus
    short = "\n".join(explain.explain(version, "one.jsonl:3"))
    table = files.read_parquet(files.join(version.url, "../v0001/dropped/quality.parquet"))
    reason = table.filter(pc.equal(table["record"], 3))["reason"][0].as_py()
    assert f"dropped in v0001, stage quality: {reason}" in short
    rejected = explain.explain(version, "one.jsonl:5")
    assert "never became a document" in rejected[0]


def test_mistakes_are_named(corpus):
    folder, version = corpus
    with pytest.raises(UserError, match="neither an id of 32 hexadecimal digits nor file:record"):
        explain.explain(version, "12345")
    with pytest.raises(UserError, match="hold no document 0000"):
        explain.explain(version, "0" * 32)
    with pytest.raises(UserError, match="no input file of v0002 ends in three.jsonl"):
        explain.explain(version, "three.jsonl:1")
    with pytest.raises(UserError, match="record 99 of .*one.jsonl is no document"):
        explain.explain(version, f"{folder}/one.jsonl:99")


def test_the_command(corpus, capsys, monkeypatch):
    folder, version = corpus
    config = folder / "config.json"
    settings = {
        "name": "explain",
        "storage": str(folder / "storage"),
        "sources": [{"name": "a", "urls": ["x"]}],
    }
    config.write_text(json.dumps(settings))
    arguments = ["explain", "one.jsonl:1", "--config", str(config), "--corpus", "v0001", "--lines", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as result:
        run(command.main)
    assert result.value.code == 0
    assert "more lines of the diff" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["explain", "nothing", "--config", str(config)])
    with pytest.raises(SystemExit) as result:
        run(command.main)
    assert result.value.code == 2 and capsys.readouterr().err.startswith("error: document 'nothing'")


LETTER = "Write to jane.doe@firm.com or call 202-456-1111 about it. "
OTHER_LETTER = "Write to john.roe@firm.com or call 202-456-1414 about it. "


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A corpus that keeps personal data, of two files of one name, with a large cluster."""
    folder = tmp_path_factory.mktemp("private")
    long, ships = " ".join(BASE), " ".join(SHIPS)
    texts = [
        long + " " + LETTER + "It ends here, with a kept one.",
        long + " " + LETTER + "It ends so.",
        ships + " " + LETTER + "And so on.",
        ships + " " + OTHER_LETTER + "And so on.",
    ]
    whole = " ".join(f"Stone {i} lies below tree {i * 3} in the wood of {i * 11} paths." for i in range(30))
    for name, records in (("x", texts), ("y", [whole] * 24)):
        builds.write(folder / name / "a.jsonl", records)
    config = Config.model_validate(
        {
            "name": "private",
            "storage": str(folder / "storage"),
            "sources": [{"name": "a", "urls": [str(folder / "*" / "*.jsonl")], "max_loss": 1.0}],
            "tokenize": {"vocab_size": 300, "train_bytes": 1024},
            "redact": {"email": None, "ipv4": None, "ipv6": None, "phone": None, "secret": None},
        }
    )
    return folder, builds.run(config).version


def test_a_diff_shows_no_personal_data_that_the_corpus_keeps(private):
    _, version = private
    text = "\n".join(explain.explain(version, "x/a.jsonl:1"))
    assert "dropped in v0001 as near_duplicate" in text
    assert "--- kept" in text and "+++ this document" in text
    assert "-It ends here, with a kept one." in text and "+It ends so." in text
    assert " Write to email@example.com or call (202) 555-0100 about it." in text
    assert "jane.doe" not in text and "456-1111" not in text
    lines = explain.explain(version, "x/a.jsonl:1", diff_lines=2)
    assert lines[-3:-1] == ["--- kept", "+++ this document"] and lines[-1].endswith("more lines of the diff")
    whole = [line for line in text.split("\n") if line.startswith(("---", "+", "-", " ", "@"))]
    whole = whole[whole.index("--- kept") :]
    assert lines[-1] == f"and {len(whole) - 2} more lines of the diff"
    assert explain.explain(version, "x/a.jsonl:1", diff_lines=len(whole)) == text.split("\n")


def test_texts_that_differ_in_personal_data_alone(private):
    _, version = private
    dropped = [explain.explain(version, f"x/a.jsonl:{record}") for record in (2, 3)]
    (lines,) = [lines for lines in dropped if "near_duplicate of" in "\n".join(lines)]
    assert lines[-1] == "no diff: the first 200,000 characters are the same but for personal data"
    assert "firm.com" not in "\n".join(lines)


def test_of_a_large_cluster_the_first_are_shown(private):
    _, version = private
    explained = [explain.explain(version, f"y/a.jsonl:{record}") for record in range(24)]
    (kept,) = [lines for lines in explained if any(line.startswith("kept in") for line in lines)]
    assert "and 23 dropped" in "\n".join(kept)
    shown = [line for line in kept if line.startswith("  1.0000")]
    assert len(shown) == 20 and kept[-1] == "  and 3 more"
    assert shown == sorted(shown)
    assert all("exact_duplicate  a  v0001  " in line and line.endswith("/y/a.jsonl") for line in shown)


def test_a_name_that_several_files_have(private):
    folder, version = private
    names = f"{folder}/x/a.jsonl or {folder}/y/a.jsonl"
    with pytest.raises(UserError, match=f"a.jsonl may be {names}; give more of the path"):
        explain.explain(version, "a.jsonl:0")
    with pytest.raises(UserError, match="no input file of v0001 ends in .jsonl"):
        explain.explain(version, ".jsonl:0")
    by_end, by_url = (explain.explain(version, f"{name}:0") for name in ("x/a.jsonl", f"{folder}/x/a.jsonl"))
    assert by_end == by_url


def test_without_the_texts_everything_else_is_told(private):
    folder, version = private
    there = explain.explain(version, "x/a.jsonl:1")
    identifier = there[0].split()[1]
    documents = folder / "storage" / "corpus" / "documents"
    documents.rename(documents.with_name("elsewhere"))
    try:
        lines = explain.explain(version, identifier)
    finally:
        documents.with_name("elsewhere").rename(documents)
    assert lines[0] == there[0] and lines[2:4] == there[2:4]
    assert lines[-1] == "no diff: the documents file of one of them is gone"


def test_a_document_that_is_read_again_from_a_file_that_grew_or_was_renamed_is_still_kept(tmp_path):
    raw = tmp_path / "raw"
    texts = builds.documents(3, 30)
    builds.write(raw / "books/a.jsonl", texts)
    builds.write(raw / "web/b.jsonl", builds.documents(4, 30))
    settings = builds.config(raw, tmp_path / "storage")
    first = builds.run(settings).version
    expected = {place: explain.explain(first, f"books/a.jsonl:{place}") for place in range(30)}
    builds.write(raw / "books/a.jsonl", [*texts, *builds.documents(9, 1)])
    (raw / "web/b.jsonl").rename(raw / "web/c.jsonl")
    second = builds.refresh(settings).version
    assert second.name == "v0002"
    kept = 0
    for place in range(30):
        lines = explain.explain(second, f"books/a.jsonl:{place}")
        by_id = explain.explain(second, lines[0].split()[1])
        assert by_id == lines
        if any(line.startswith("kept in v0001") for line in expected[place]):
            kept += 1
            assert any(line.startswith("kept in v0001") for line in lines)
            again = f"read again in v0002 from {raw}/books/a.jsonl, record {place}, and known already"
            assert lines[-1] == again
        assert lines[0] == expected[place][0]
        assert any(line.startswith("dropped") for line in lines) == any(
            line.startswith("dropped") for line in expected[place]
        )
    assert kept > 10
    assert any(line.startswith("kept in v0002") for line in explain.explain(second, "books/a.jsonl:30"))
    renamed = explain.explain(second, "web/c.jsonl:0")
    assert any(line.startswith("kept in v0001") for line in renamed)
    assert renamed[-1] == f"read again in v0002 from {raw}/web/c.jsonl, record 0, and known already"


def test_rules_that_cannot_judge_a_script_are_named(tmp_path):
    text = "".join(f"第{number}只狐狸跳过了那条懒狗，然后在田野里睡着了。" for number in range(40))
    (tmp_path / "one.jsonl").write_text(
        json.dumps({"text": text}) + "\n" + json.dumps({"text": BASE[0]}) + "\n"
    )
    config = Config.model_validate(
        {
            "name": "script",
            "storage": str(tmp_path / "storage"),
            "sources": [{"name": "a", "urls": [str(tmp_path / "*.jsonl")], "max_loss": 1.0}],
            "quality": {"rule_sets": {"prose": ["gopher_quality"]}},
            "tokenize": {"vocab_size": 300, "train_bytes": 1024},
            "ray": {"workers": 1},
        }
    )
    version = builds.run(config).version
    told = "\n".join(explain.explain(version, "one.jsonl:0"))
    assert "kept in v0001" in told
    assert "not judged by" in told and "gopher_quality.min_stop_words" in told
    assert "not judged by" not in "\n".join(explain.explain(version, "one.jsonl:1"))
