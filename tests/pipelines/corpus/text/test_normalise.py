import json
import re
import unicodedata
from pathlib import Path

import ftfy
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ftfy.fixes import fix_c1_controls
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.corpus.reading import ingest
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.text import normalise


def clean(*texts: str) -> tuple[list[str], dict[str, list[int]]]:
    column = pa.array(texts, pa.large_string())
    cleaned, columns = normalise.normalise(column)
    cleaned.validate(full=True)
    before, after = (pc.binary_length(c).to_numpy(zero_copy_only=False) for c in (column, cleaned))
    deltas = sum(c for name, c in columns.items() if name.startswith("delta_"))
    np.testing.assert_array_equal(before + deltas, after)
    assert all(c.dtype == np.int64 and len(c) == len(texts) for c in columns.values())
    return cleaned.to_pylist(), {name: c.tolist() for name, c in columns.items()}


def reference(text: str) -> str:
    """The rules after mojibake repair, one after the other."""
    if re.search("[\x80-\x84\x86-\x9f]", text) and not re.search("[\x81\x8d\x8f\x90\x9d]", text):
        text = fix_c1_controls(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x85", "\n")
    text = "".join(c for c in text if unicodedata.category(c) != "Cc" or c in "\n\t")
    letter = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf]"
    text = re.sub(f"(?<={letter})([\u2060\ufeff\u200b]*)\u200b(?={letter})", "\ue000", text)
    text = re.sub("[\u200b\u2060\ufeff]", "", text).replace("\ue000", "\u200b")
    body = text.rstrip(" \t\n")
    text = body + ("\n" if body and "\n" in text[len(body) :] else "")
    text = re.sub(r"\A[ \t\n]*\n", "", text)
    return unicodedata.normalize("NFC", text)


pieces = st.sampled_from(
    [
        " ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\x00",
        "\x0c",
        "\x7f",
        "\x85",
        "\x9b",
        "\x9d",
        "\x92",
        "\x83",
        "\u200b",
        "\ufeff",
        "\u2060",
        "\u200d",
    ]
    + [
        "e\u0301",
        "\u0301",
        "\u212b",
        "\u1100\u1161",
        "\ufffd",
        "\u2000",
        "a",
        "word",
        "é",
        "你好",
        "𝄞",
        "ខ្ញុំ",
        "ก",
        "\u0958",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(pieces | st.text(max_size=5), max_size=12).map("".join), max_size=5))
def test_rules_equal_the_reference(texts: list[str]) -> None:
    cleaned, columns = clean(*texts)
    for number, (text, result) in enumerate(zip(texts, cleaned, strict=True)):
        if not columns["n_mojibake"][number]:
            assert result == reference(text)
        assert clean(result)[0] == [result]


def test_mojibake_around_a_removed_character_is_repaired() -> None:
    cleaned, columns = clean("Â\x1f\xa0", "plain")
    assert cleaned == ["\xa0", "plain"]
    assert columns["n_control"] == columns["n_mojibake"] == [1, 0]


def test_each_change_is_counted() -> None:
    _, columns = clean(
        "\n\n  indented\r\nlines\rof\x85text  \n\n",
        "a\0\0b\x07\x9dc",
        "\ufeffa\u200bb\ufffd",
        "e\u0301",
        "it\x92s \x85\x80 5",
    )
    assert {name: values for name, values in columns.items() if any(values)} == {
        "n_windows_1252": [0, 0, 0, 0, 3],
        "delta_windows_1252": [0, 0, 0, 0, 3],
        "n_newline": [3, 0, 0, 0, 0],
        "delta_newline": [-2, 0, 0, 0, 0],
        "n_whitespace": [5, 0, 0, 0, 0],
        "delta_whitespace": [-5, 0, 0, 0, 0],
        "n_nul": [0, 2, 0, 0, 0],
        "delta_nul": [0, -2, 0, 0, 0],
        "n_control": [0, 2, 0, 0, 0],
        "delta_control": [0, -3, 0, 0, 0],
        "n_zero_width": [0, 0, 2, 0, 0],
        "delta_zero_width": [0, 0, -6, 0, 0],
        "n_replacement": [0, 0, 1, 0, 0],
        "n_nfc": [0, 0, 0, 1, 0],
        "delta_nfc": [0, 0, 0, -1, 0],
    }


def test_windows_1252_read_as_latin_1_keeps_its_quotes_dashes_and_euro_signs(shared_data: Path) -> None:
    said = "He said “it’s €5 – or more…”, the naïve façade — and so on"
    texts = [said.encode("windows-1252").decode("latin-1")]
    assert clean(*texts)[0] == [said]
    assert clean("one\x85two")[0] == ["one\ntwo"]  # NEL alone is a line end
    assert clean("\x93one\x81\x94")[0] == ["one"]  # no Windows-1252
    field = shared_data / "field" / "c1_quotes.jsonl"
    for line in field.read_text().splitlines() if field.exists() else []:
        text = json.loads(line)["text"]
        assert clean(text)[0] == [text.encode("latin-1").decode("windows-1252").strip()]


def test_a_zero_width_space_stays_where_it_divides_words(shared_data: Path) -> None:
    texts = ["ម្សិលមិញ\u200bខ្ញុំ\u200b\u200bទៅ\u200b", "\u200bไป\u200bตลาด \u200bครับ", "a\u200bb ກ\u200bb"]
    cleaned, columns = clean(*texts)
    assert cleaned == ["ម្សិលមិញ\u200bខ្ញុំ\u200bទៅ", "ไป\u200bตลาด ครับ", "ab ກb"]
    assert columns["n_zero_width"] == [2, 2, 2]
    field = shared_data / "field" / "asian.jsonl"
    for line in field.read_text().splitlines() if field.exists() else []:
        assert clean(json.loads(line)["text"])[0] == [json.loads(line)["text"]]


def test_clean_text_is_the_same_array() -> None:
    column = pa.array(["def f():  \n    return 1\n", "", "NAME\n       ls — list\n"], pa.large_string())
    cleaned, columns = normalise.normalise(column)
    assert cleaned is column
    assert not any(values.any() for values in columns.values())


def test_slices_and_empty_columns() -> None:
    column = pa.array(["x\0", "y", "z\r\n", ""], pa.large_string()).slice(1)
    assert normalise.normalise(column)[0].to_pylist() == ["y", "z\n", ""]
    assert len(normalise.normalise(column.slice(0, 0))[0]) == 0


@pytest.mark.parametrize("encoding", ["sloppy-windows-1252", "latin-1"])
def test_mojibake_is_repaired(encoding: str) -> None:
    original = "The employee’s “principal” place — § 34-909, naïve café, Bundesgesetz über Maße\n" * 3
    broken = original.encode().decode(encoding)
    cleaned, columns = clean(broken, original)
    assert cleaned == [original, original]
    assert columns["n_mojibake"][0] > 10
    assert columns["n_mojibake"][1] == 0


def test_an_example_of_mojibake_in_other_text_stays() -> None:
    text = "Wird „é“ als „Ã©“ gezeigt, war der Text UTF-8: größer, schöner, häufiger, möglich.\n"
    assert clean(text)[0] == [text]


def test_the_messy_files_against_their_truth(shared_data: Path) -> None:
    source = SourceConfig(name="s", urls=["x"])
    kinds = {}
    with open(shared_data / "pile_messy/truth/lines.jsonl") as lines:
        for line in lines:
            row = json.loads(line)
            kinds[row["file"], row["line"]] = row["kind"]
    expected = {
        "mojibake_utf8_as_cp1252": "n_mojibake",
        "nul_in_text": "n_nul",
        "zero_width_control_fffd": "n_zero_width",
        "binary_as_text": "n_control",
    }
    for path in sorted((shared_data / "pile_messy").glob("*.zst")):
        for batch in ingest.read(str(path), source, IngestConfig()):
            text = batch.documents["text"].combine_chunks()
            if not len(text):
                continue
            cleaned, columns = normalise.normalise(text)
            for row, record in enumerate(batch.documents["record"].to_pylist()):
                kind = kinds[path.name, record]
                if kind in expected:
                    assert columns[expected[kind]][row] > 0
                if kind in ("empty_text", "whitespace_text"):
                    assert cleaned[row].as_py() == ""
                if kind != "mojibake_utf8_as_cp1252":
                    assert columns["n_mojibake"][row] == 0


def test_clean_samples_stay_as_they_are(shared_data: Path) -> None:
    source = SourceConfig(name="s", urls=["x"])
    for name in (
        "pile_sample/de_gesetze-a-00",
        "pile_sample/man_pages-a-00",
        "pile_sample_sharealike/perldoc-b-00",
    ):
        for batch in ingest.read(str(shared_data / f"{name}.jsonl.zst"), source, IngestConfig()):
            text = batch.documents["text"].combine_chunks()
            cleaned, columns = normalise.normalise(text)
            assert not columns["n_mojibake"].any()
            changed = np.flatnonzero(pc.not_equal(text, cleaned).to_numpy(zero_copy_only=False))
            assert len(changed) < len(text) / 4
            for row in changed.tolist():
                assert cleaned[row].as_py() == reference(text[row].as_py())
                assert ftfy.fix_encoding(text[row].as_py()) == text[row].as_py()
