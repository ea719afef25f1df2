import collections
import json
import re
import typing
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.corpus.reading import ingest
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig
from pipelines.corpus.text import normalise, quality
from pipelines.corpus.text.settings import BasicRules, QualityConfig, RuleSet, rule, rules_markdown
from pipelines.corpus.text.words import SENTENCE, SYMBOL, TERMINAL, classes, words_of

SOURCE = SourceConfig(name="s", urls=["x"])


def characters_of(bit: np.uint32) -> tuple[str, ...]:
    """Characters of a class; that the classes are those of datatrove, benchmarks/quality.py shows."""
    return tuple(map(chr, np.flatnonzero(classes() & bit).tolist()))


ENDS_LINE, ENDS_SENTENCE = characters_of(TERMINAL), characters_of(SENTENCE)
SYMBOLS = frozenset(characters_of(SYMBOL))


def repeats(elements: list[str]) -> tuple[int, int]:
    seen: set[str] = set()
    number = characters = 0
    for element in elements:
        if element in seen:
            number += 1
            characters += len(element)
        seen.add(element)
    return number, characters


def sentences(line: str) -> int:
    """Sentences as spaCy's sentencizer counts them; white space other than one space is a word to it."""
    found, ended = 1, False
    for white, piece in re.findall(r"(\s*)(\S+)", line):
        marks = words_of(piece)
        for word in [" ", *marks] if white not in ("", " ") else marks:
            if word in ENDS_SENTENCE:
                ended = True
            elif ended and not all(unicodedata.category(c)[0] == "P" for c in word):
                found += 1
                ended = False
    return found


def c4(text: str) -> dict[str, int]:
    counts: collections.Counter[str] = collections.Counter()
    policies = (
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
    )
    for line in text.splitlines():
        line = line.strip()
        pieces = line.split()
        line = re.sub(r"\[[0-9]*\]|\[edit\]|\[citation needed\]", "", line)
        if any(len(piece) > 1000 for piece in pieces) or len(pieces) < 3:
            continue
        if not line.endswith((".", "?", "!", '"', "'")) or line.endswith("..."):
            continue
        low = line.lower()
        counts["c4_lorem_ipsum"] += "lorem ipsum" in low
        if "javascript" in low:
            counts["c4_javascript_lines"] += 1
            continue
        counts["c4_curly_bracket"] += "{" in line
        if any(policy in low for policy in policies):
            counts["c4_policy_lines"] += 1
            continue
        counts["c4_lines"] += 1
        counts["c4_sentences"] += sentences(line)
    return counts


def reference(text: str) -> dict[str, float]:
    names = words_of(text)
    words = [word for word in names if any(c not in SYMBOLS for c in word)]
    n_tokens, size = max(len(names), 1), max(len(text), 1)
    lines = text.splitlines()
    runs = re.split("\n+", text)
    full = [line for line in text.split("\n") if line.strip()]
    paragraphs = re.split("\n{2,}", text.strip())
    result: dict[str, float] = {
        "characters": len(text),
        "words": len(words),
        "tokens": len(names),
        "lines": len(lines),
        "stop_words": len({"the", "be", "to", "of", "and", "that", "have", "with"}.intersection(names)),
        "mean_word_length": sum(map(len, words)) / max(len(words), 1),
        "hash_ratio": text.count("#") / n_tokens,
        "ellipsis_ratio": (text.count("...") + text.count("…")) / n_tokens,
        "bullet_line_fraction": sum(s.strip().startswith(("•", "-")) for s in lines) / max(len(lines), 1),
        "ellipsis_line_fraction": sum(s.strip().endswith(("...", "…")) for s in lines) / max(len(lines), 1),
        "alphabetic_word_fraction": sum(any(c.isalpha() for c in word) for word in names) / n_tokens,
        "replacement_fraction": text.count("\ufffd") / size,
        "duplicate_line_fraction": repeats(runs)[0] / len(runs),
        "duplicate_line_character_fraction": repeats(runs)[1] / size,
        "duplicate_paragraph_fraction": repeats(paragraphs)[0] / len(paragraphs),
        "duplicate_paragraph_character_fraction": repeats(paragraphs)[1] / size,
        "terminal_line_fraction": sum(s.endswith(ENDS_LINE) for s in full) / max(len(full), 1),
        "short_line_fraction": sum(len(s) <= 30 for s in full) / max(len(full), 1),
        "newline_ratio": text.count("\n") / n_tokens,
        "duplicate_full_line_character_fraction": repeats(full)[1] / max(len(text) - text.count("\n"), 1),
        **dict.fromkeys(("c4_lines", "c4_sentences", "c4_javascript_lines", "c4_policy_lines"), 0),
        **dict.fromkeys(("c4_lorem_ipsum", "c4_curly_bracket"), 0),
        **c4(text),
    }
    for n in range(2, 5):
        grams = [tuple(names[i : i + n]) for i in range(len(names) - n + 1)]
        gram, times = collections.Counter(grams).most_common(1)[0] if grams else ((), 0)
        result[f"top_{n}gram_character_fraction"] = len(" ".join(gram)) * times / size
    for n in range(5, 11):
        seen = set()
        characters = at = 0
        while at + n <= len(names):
            gram = tuple(names[at : at + n])
            if gram in seen:
                characters += len("".join(gram))
                at += n
            else:
                seen.add(gram)
                at += 1
        result[f"duplicate_{n}gram_character_fraction"] = characters / size
    return result


def assert_equal_reference(texts: list[str]) -> None:
    measured = quality.measure(pa.array(texts, pa.large_string())).to_pylist()
    for text, row in zip(texts, measured, strict=True):
        for name, value in reference(text).items():
            assert row[f"q_{name}"] == pytest.approx(value, rel=1e-6), (name, text)


PIECES = [
    *(
        " ",
        "\t",
        "\n",
        "\n\n",
        "\n\n\n",
        ". ",
        "...",
        "…",
        "#",
        "- ",
        "• ",
        "the ",
        "of ",
        "and",
        "a b ",
        "é",
    ),
    *(
        "one two three four five ",
        "don't ",
        "3.14 ",
        "1,000 ",
        "你好",
        "۳_",
        "{",
        "}",
        "[1]",
        "[edit]",
        "!",
        "?",
    ),
    *("JavaScript ", "lorem ipsum ", "terms of use ", "use cookies ", "privacy policy ", "\ufffd", '"', "'"),
    *("’s ", "\u00a0", "e\u0301", "𝄞", "Line that repeats.\n", "(x) ", "==", "\u3002\n"),
    *(
        "\r",
        "\r\n",
        "\u2028",
        "\x0c",
        "  ",
        "use of cookies ",
        "[citation needed]",
        "[12] end.",
        "Ends here. ",
    ),
]
# Every code point from U+20000 on counts as a letter, those that no letter has been given included.
CHARACTERS = st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs"])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(PIECES) | st.text(CHARACTERS, max_size=3), max_size=40).map("".join),
        max_size=4,
    )
)
def test_measures_equal_the_reference(texts: list[str]) -> None:
    assert_equal_reference(texts)


def test_long_and_repetitive_documents_equal_the_reference() -> None:
    words = np.random.default_rng(0).integers(0, 6, 3000)
    assert_equal_reference(
        [
            " ".join(f"w{w}" for w in words),
            "spam and eggs " * 400,
            "Buy now!\n" * 300,
            "x" * 1001 + " two three.\nand this line counts.\n",
            "\n".join(" ".join(f"v{w}" for w in words[i : i + 9]) + "." for i in range(0, 3000, 5)),
        ]
    )


def test_real_documents_equal_the_reference(shared_data: Path) -> None:
    texts = []
    for path in sorted((shared_data / "pile_sample").glob("*.zst")):
        batch = next(ingest.read(str(path), SOURCE, IngestConfig(batch_bytes=2**16)))
        text, _ = normalise.normalise(batch.documents["text"].combine_chunks())
        texts += [t[:8000] for t in text.slice(0, 4).to_pylist()]
    assert_equal_reference(texts)


def test_no_documents() -> None:
    assert quality.measure(pa.array([], pa.large_string())).num_rows == 0


def attributes(*texts: str) -> pa.Table:
    text, changes = normalise.normalise(pa.array(texts, pa.large_string()))
    return quality.measure(text).append_column("n_control", pa.array(changes["n_control"]))


LONG = "The quick brown fox jumps over the lazy dog and runs with all of them to that other place. "


def test_decision_names_the_first_broken_rule_and_its_value() -> None:
    table = attributes("Short", LONG, "\x01\x02\x03 " * 30 + LONG, "word word.\n" * 50)
    reason, value = quality.decide(table, SOURCE, QualityConfig())
    assert reason.to_pylist() == [
        "basic.min_characters",
        None,
        "basic.max_control_fraction",
        "basic.max_duplicate_line_character_fraction",
    ]
    assert value[0].as_py() == 5
    assert np.isnan(value[1].as_py())
    assert value[2].as_py() == pytest.approx(90 / (90 + 30 + len(LONG) - 1))


def test_rule_sets_follow_the_kind_and_thresholds_the_configuration() -> None:
    table = attributes(LONG)
    gopher = QualityConfig(rule_sets={"prose": ["basic", "gopher_quality"], "code": []})
    assert quality.decide(table, SOURCE, gopher)[0].to_pylist() == ["gopher_quality.min_words"]
    code = SOURCE.model_copy(update={"kind": "code"})
    assert quality.decide(attributes(""), code, gopher)[0].to_pylist() == [None]
    strict = QualityConfig(basic=BasicRules(min_characters=1000))
    assert quality.decide(table, SOURCE, strict)[0].to_pylist() == ["basic.min_characters"]
    off = strict.model_copy(update={"enabled": False})
    assert quality.decide(table, SOURCE, off)[0].to_pylist() == [None]


def test_every_rule_of_every_set_acts_on_a_measured_column() -> None:
    table = attributes(LONG * 3, "", "# ... \n" * 9)
    table_of_docs = rules_markdown()
    for name in typing.get_args(RuleSet):
        config = QualityConfig(rule_sets={"prose": [name]})
        reason, _ = quality.decide(table, SOURCE, config)
        assert len(reason) == 3
        section = getattr(config, name)
        declared = section.declared(name)
        assert [one.field for one in declared] == list(section.model_dump())
        for one in declared:
            assert one.field.startswith(f"{one.limit}_")
            assert one.column in table.column_names or one.column == "q_control_fraction"
            assert f"| `{one.name}` | `{one.column}` |" in table_of_docs


PUBLISHED = {
    "basic": "words<2 characters<32 control_fraction>.05 replacement_fraction>.05 "
    "duplicate_line_character_fraction>.6 duplicate_5gram_character_fraction>.6",
    "gopher_quality": "words<50 words>100000 mean_word_length<3 mean_word_length>10 hash_ratio>.1 "
    "ellipsis_ratio>.1 bullet_line_fraction>.9 ellipsis_line_fraction>.3 alphabetic_word_fraction<.8 "
    "stop_words<2",
    "gopher_repetition": "duplicate_line_fraction>.3 duplicate_paragraph_fraction>.3 "
    "duplicate_line_character_fraction>.2 duplicate_paragraph_character_fraction>.2 "
    "top_2gram_character_fraction>.2 top_3gram_character_fraction>.18 top_4gram_character_fraction>.16 "
    "duplicate_5gram_character_fraction>.15 duplicate_6gram_character_fraction>.14 "
    "duplicate_7gram_character_fraction>.13 duplicate_8gram_character_fraction>.12 "
    "duplicate_9gram_character_fraction>.11 duplicate_10gram_character_fraction>.10",
    "c4": "c4_sentences<5 c4_lorem_ipsum>0 c4_curly_bracket>0",
    "fineweb": "terminal_line_fraction<.12 short_line_fraction>.67 "
    "duplicate_full_line_character_fraction>.01 newline_ratio>.3",
}
"""The measured columns whose values below or above a threshold are dropped, as the papers have them."""
FIELDS = {
    "c4_sentences": "sentences",
    "c4_lorem_ipsum": "lorem_ipsum_lines",
    "c4_curly_bracket": "curly_bracket_lines",
}
"""Settings that are not named after their column."""


@pytest.mark.parametrize("rules", PUBLISHED)
def test_a_document_is_dropped_beyond_each_published_threshold_and_not_at_it(rules: str) -> None:
    limits = [
        (one[:at], one[at], float(one[at + 1 :]))
        for one in PUBLISHED[rules].split()
        for at in [one.replace(">", "<").index("<")]
    ]
    config = QualityConfig(rule_sets={"prose": [rules]})
    # Between all thresholds of the set, so that only the value that is tried can break a rule.
    usual = {name: np.float32(0) for name in attributes(LONG).column_names}
    usual |= {
        f"q_{name}": np.float32(limit + (1 if limit >= 1 else 0.1))
        for name, side, limit in limits
        if side == "<"
    }
    usual |= {"q_characters": np.float32(1e6), "n_control": np.float32(0)}
    tried = []
    for name, side, limit in limits:
        for way in (0, 1):
            at = np.float32(limit)
            row = dict(usual)
            value = np.nextafter(at, np.float32(np.inf if side == ">" else -np.inf)) if way else at
            if name == "control_fraction":
                # control / (characters + control), of which a share is either side of the limit.
                row |= {"q_characters": np.float32(950), "n_control": np.float32(51 if way else 49)}
            else:
                row[f"q_{name}"] = value
            tried.append((row, (name, side) if way else None))
    columns = {name: pa.array([row[name] for row, _ in tried], pa.float32()) for name in usual}
    reasons, _ = quality.decide(pa.table(columns), SOURCE, config)
    expected = [
        broken and f"{rules}.{'max' if broken[1] == '>' else 'min'}_{FIELDS.get(broken[0], broken[0])}"
        for _, broken in tried
    ]
    assert reasons.to_pylist() == expected
    assert len(limits) == len(config.rules_of("prose"))


class StricterRules(BasicRules):
    """A rule from outside: its declaration is all that it takes."""

    max_hash_ratio: float = rule(0.5, "q_hash_ratio", ge=0)
    """Largest number of hash signs per word or symbol."""


def test_a_rule_is_one_declaration() -> None:
    config = QualityConfig(basic=StricterRules())
    table = attributes("# " * 40 + LONG, LONG)
    reason, value = quality.decide(table, SOURCE, config)
    assert reason.to_pylist() == ["basic.max_hash_ratio", None]
    assert value[0].as_py() == pytest.approx(table["q_hash_ratio"][0].as_py())
    assert ("max", 0.5) in quality.thresholds(["prose"], config)["q_hash_ratio"]


def test_the_messy_files_against_their_truth(shared_data: Path) -> None:
    kinds = {}
    with open(shared_data / "pile_messy/truth/lines.jsonl") as lines:
        for line in lines:
            row = json.loads(line)
            kinds[row["file"], row["line"]] = row["kind"]
    dropped: collections.Counter[str] = collections.Counter()
    kept: collections.Counter[str] = collections.Counter()
    for path in sorted((shared_data / "pile_messy").glob("*.zst")):
        for batch in ingest.read(str(path), SOURCE, IngestConfig()):
            if batch.documents.num_rows == 0:
                continue
            table = attributes(*batch.documents["text"].to_pylist())
            reason, _ = quality.decide(table, SOURCE, QualityConfig())
            for record, why in zip(batch.documents["record"].to_pylist(), reason.to_pylist(), strict=True):
                (dropped if why else kept)[kinds[path.name, record]] += 1
    bad = {"repetitive_spam": 8, "binary_as_text": 5, "empty_text": 13, "whitespace_text": 5}
    assert {kind: dropped[kind] for kind in bad} == bad
    assert not set(bad) & set(kept)
    assert set(dropped) - set(bad) <= {"base"}
    assert dropped["base"] <= 6
