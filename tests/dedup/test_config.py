"""Published presets: what they set, what replaces them, and the LSH curve that results."""

import numpy as np
import pyarrow as pa
import pytest

from dedup import minhash
from dedup.config import PRESETS, DedupConfig, MinHashConfig


def test_a_preset_fills_what_is_not_given():
    config = DedupConfig.model_validate({"preset": "slimpajama", "minhash": {"bands": 10}})
    assert config.minhash == MinHashConfig(shingle="character", ngram=13, bands=10, rows=13)
    assert config.threshold == 0.8
    given = {"preset": "pile", "threshold": 0.7, "minhash": MinHashConfig()}
    assert DedupConfig.model_validate(given).threshold == 0.7
    assert DedupConfig.model_validate(given).minhash == MinHashConfig()


def test_what_is_written_of_a_configuration_is_the_settings_whatever_preset_they_came_from():
    config = DedupConfig.model_validate({"preset": "fineweb"})
    plain = config.model_dump(mode="json")
    assert "preset" not in plain and DedupConfig.model_validate(plain) == config.model_copy(
        update={"preset": None}
    )
    assert plain == DedupConfig(threshold=0.75).model_dump(mode="json")


# Where half of the pairs are candidates: (1 - 2^(-1/bands))^(1/rows).
@pytest.mark.parametrize(
    ("name", "permutations", "half"),
    [
        ("pile", 9, 0.591),
        ("slimpajama", 117, 0.819),
        ("redpajama-v2", 117, 0.819),
        ("fineweb", 112, 0.685),
        ("nemo-curator", 260, 0.771),
    ],
)
def test_the_curve_of_a_preset(name, permutations, half):
    assert name in PRESETS
    config = DedupConfig.model_validate({"preset": name}).minhash
    assert config.bands * config.rows == permutations
    similarities = np.linspace(0, 1, 1001)
    curve = minhash.candidate_probability(similarities, config)
    assert curve[0] == 0 and curve[-1] == 1 and (np.diff(curve) >= 0).all()
    assert similarities[np.searchsorted(curve, 0.5)] == pytest.approx(half, abs=0.002)


@pytest.mark.parametrize("name", list(PRESETS))
def test_signatures_follow_the_curve(name):
    config = DedupConfig.model_validate({"preset": name}).minhash.model_copy(
        update={"shingle": "word", "ngram": 1}
    )
    shared, own, pairs = 80, 10, 1500
    generator = np.random.default_rng(1)
    texts = []
    for _ in range(pairs):
        words = generator.choice(10**6, shared + 2 * own, replace=False)
        texts.append(" ".join(map(str, words[: shared + own])))
        texts.append(" ".join(map(str, np.concatenate([words[:shared], words[shared + own :]]))))
    bands, _ = minhash.signatures(pa.array(texts, pa.large_string()), config)
    agree = (bands[::2] == bands[1::2]).any(axis=1).mean()
    expected = minhash.candidate_probability(np.array(shared / (shared + 2 * own)), config)
    assert agree == pytest.approx(expected, abs=4 * np.sqrt(0.25 / pairs))


def best_split(threshold: float, permutations: int) -> tuple[int, int]:
    """Bands and rows with the least sum of false positives and negatives, as datasketch chooses."""
    similarity = np.linspace(0, 1, 2001)
    below = similarity <= threshold

    def errors(bands: int, rows: int) -> float:
        found = 1 - (1 - similarity**rows) ** bands
        return float(np.where(below, found, 1 - found).sum())

    splits = [(b, r) for b in range(1, permutations + 1) for r in range(1, permutations // b + 1)]
    return min(splits, key=lambda split: errors(*split))


@pytest.mark.parametrize("name, permutations", [("pile", 10), ("slimpajama", 128), ("redpajama-v2", 128)])
def test_presets_that_publish_a_threshold_have_the_bands_that_were_chosen_for_it(name, permutations):
    preset = PRESETS[name]
    assert (preset["bands"], preset["rows"]) == best_split(preset["threshold"], permutations)
