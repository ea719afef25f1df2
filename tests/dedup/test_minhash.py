import itertools

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup import minhash, words
from dedup.config import MinHashConfig
from tests.helpers.words import PASSED, split

LETTERS = (
    '+−-<“"):;…'
    "abAB 019_.,-\n\téÉßİıΣσςªºµǅⅣⅷⓐ²½ÅÅ中文字かなカปที่ณា្ក၊က"
    "\u064b\u200d\u093f\u0307\u0301\u00a0\u2009\u3000'·ʰ𝐀𐐀\U000e0101"
)
TEXT = st.text(st.sampled_from(LETTERS), max_size=60) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=60
)


def symbols_of(gap):
    """The characters of a gap that count: marks of prose only if no white space or closing mark follows."""
    kept, held = [], []
    for character in gap:
        entry = int(words.symbols()[ord(character)])
        if entry & words.DIVIDES:
            held.append(entry & words.SYMBOL)
        elif entry:
            if not entry & words.ENDS:
                kept += held
            held = []
            kept += [entry & words.SYMBOL] * bool(entry & words.SYMBOL)
    return tuple(kept), tuple(kept + held)


def word_shingles(text, n=5):
    found, _ = split(text)
    if 0 < len(found) < n:
        return {tuple(found)}
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


def seen_shingles(text, n=5):
    """Word shingles with what stands between the words, as the sets hold them."""
    found, gaps = split(text)
    n = min(n, len(found))
    shingles = []
    for i in range(len(found) - n + 1 if found else 0):
        inner = [symbols_of(gap)[1] for gap in gaps[i : i + n]]
        if i == 0 or n > 1:
            inner[0] = ()
        shingles.append((*zip(inner, found[i : i + n], strict=True),))
    before, behind = symbols_of(gaps[0])[1], symbols_of(gaps[-1])[0]
    if 0 < len(shingles) <= minhash.EDGE_SHINGLES:
        shingles[0] = (before, *shingles[0]) if before else shingles[0]
        shingles[-1] = (*shingles[-1], behind) if behind else shingles[-1]
    return set(shingles)


def character_shingles(text, n=5):
    characters = " ".join(text.lower().translate(PASSED).split())
    if 0 < len(characters) < n:
        return {characters}
    return {characters[i : i + n] for i in range(len(characters) - n + 1)}


def column(texts):
    return pa.array(texts, pa.large_string())


def sets(texts, config):
    offsets, values = minhash.shingle_sets(column(texts), config)
    return [set(values[offsets[i] : offsets[i + 1]].tolist()) for i in range(len(texts))]


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=8), st.sampled_from(["word", "character"]), st.integers(1, 6))
def test_shingles_are_those_of_the_definition(texts, shingle, n):
    reference = [(seen_shingles if shingle == "word" else character_shingles)(text, n) for text in texts]
    result = sets(texts, MinHashConfig(shingle=shingle, ngram=n))
    for ours, theirs in zip(result, reference, strict=True):
        assert len(ours) == len(theirs)
    for i, one in enumerate(reference):
        for j, other in enumerate(reference):
            assert len(result[i] & result[j]) == len(one & other), (texts[i], texts[j])


def test_every_code_point_is_classed_and_lower_cased_as_python_does():
    texts = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    config = MinHashConfig(ngram=1)
    ours = minhash.shingle_sets(column(texts), config)[0]
    assert (np.diff(ours) == [len(split(text)[0]) for text in texts]).all()
    pairs = [(text, text.lower()) for text in texts if text.lower() != text and len(text.lower()) == 1]
    upper = minhash.shingle_sets(column(["a" + a + "b" for a, _ in pairs]), config)[1]
    lower = minhash.shingle_sets(column(["a" + b + "b" for _, b in pairs]), config)[1]
    assert (upper == lower).all()


def test_long_documents_pass_through_the_buffer():
    generator = np.random.default_rng(1)
    texts = [" ".join(map(str, generator.integers(0, 5000, 20_000)))] * 2 + ["x " * 4100, "x y " * 4096]
    assert [len(one) for one in sets(texts, MinHashConfig())] == [len(word_shingles(t)) for t in texts]
    bands, counts = minhash.signatures(column(texts), MinHashConfig())
    assert counts.tolist() == [19_996, 19_996, 4096, 8188]
    assert (bands[0] == bands[1]).all()
    characters = sets(texts, MinHashConfig(shingle="character"))
    assert [len(one) for one in characters] == [len(character_shingles(t)) for t in texts]


def test_signatures_do_not_depend_on_neighbours():
    texts = ["one two three four five six", "", "a b", "!!", "one two three four five six seven"]
    together, counts = minhash.signatures(column(texts), MinHashConfig())
    assert counts.tolist() == [2, 0, 1, 0, 3]
    for i in (0, 2, 4):
        alone, _ = minhash.signatures(column(texts[i : i + 1]), MinHashConfig())
        assert (alone[0] == together[i]).all()
    assert (minhash.signatures(column(texts)[2:], MinHashConfig())[0][2] == together[4]).all()


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8])
def test_rate_of_equal_minima_is_the_jaccard_similarity(similarity):
    """One row a band: band hashes are equal as often as the sets are similar, with binomial variance."""
    config = MinHashConfig(ngram=1, bands=256, rows=1)
    shared = round(100 * 2 * similarity / (1 + similarity))
    rates = []
    for pair in range(200):
        both = [f"s{pair}x{i}" for i in range(shared)]
        left = both + [f"l{pair}x{i}" for i in range(100 - shared)]
        right = both + [f"r{pair}x{i}" for i in range(100 - shared)]
        bands, _ = minhash.signatures(column([" ".join(left), " ".join(right)]), config)
        rates.append((bands[0] == bands[1]).mean())
    exact = shared / (200 - shared)
    variance = exact * (1 - exact) / 256
    assert abs(np.mean(rates) - exact) < 4 * np.sqrt(variance / 200)
    assert 0.7 < np.var(rates) / variance < 1.4


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, max_size=8))
def test_text_hash_is_of_the_text_with_single_spaces(texts):
    expected = [xxhash.xxh3_128_digest(" ".join(text.split()).encode()) for text in texts]
    assert minhash.text_hash(column(texts)).to_pylist() == expected


@settings(deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=2))
def test_similarity_of_sets(texts):
    offsets, values = minhash.shingle_sets(column(texts), MinHashConfig(ngram=2))
    out = np.empty(1, np.float32)
    one, other = (seen_shingles(text, 2) for text in texts)
    minhash.compare_sets(offsets, values, np.array([0]), np.array([1]), False, out)
    assert out[0] == np.float32(len(one & other) / max(len(one | other), 1))
    minhash.compare_sets(offsets, values, np.array([0]), np.array([1]), True, out)
    assert out[0] == np.float32(len(one & other) / max(min(len(one), len(other)), 1))


def test_sets_of_texts_of_any_length_are_sorted_and_distinct():
    generator = np.random.default_rng(3)
    words = [f"w{number}" for number in range(500)]
    # The last has as few different shingles as one can have of many: they share a bucket of the sort.
    texts = [" ".join(generator.choice(words, count)) for count in (0, 1, 63, 64, 65, 1000, 200_000)]
    texts.append("a b " * 50_000)
    config = MinHashConfig(ngram=2)
    offsets, values = minhash.shingle_sets(pa.array(texts, pa.large_string()), config)
    for number, text in enumerate(texts):
        tokens = text.split()
        found = values[offsets[number] : offsets[number + 1]]
        expected = {" ".join(tokens[i : i + 2]) for i in range(max(len(tokens) - 1, min(len(tokens), 1)))}
        assert len(found) == len(expected) and (found[1:] > found[:-1]).all()


def similarities(texts, config=None):
    offsets, values = minhash.shingle_sets(column(texts), config or MinHashConfig())
    left, right = (np.ascontiguousarray(side) for side in np.array(np.triu_indices(len(texts), 1)))
    out = np.empty(len(left), np.float32)
    minhash.compare_sets(offsets, values, left, right, False, out)
    return out


DIFFERENT = {
    "operators": ["what is 541 + 529 * 62 in all of it", "what is 541 - 529 / 62 in all of it"],
    "minus": ["the result is -5 as it was", "the result is 5 as it was"],
    "comparisons": ["it holds that a < b for all of them", "it holds that a > b for all of them"],
    "not equal": ["assert x != y or else it all fails", "assert x == y or else it all fails"],
    "decimal point": [
        "it costs 1.5 for all of them",
        "it costs 1:5 for all of them",
        "it costs 1, 5 for all of them",
    ],
    "brackets": ["take (a + b) * c and then d", "take a + (b * c) and then d"],
    "factorial": ["what is 5! + 3 in all of it", "what is 5 + 3 in all of it"],
    "currency": ["we paid $ 5 for all of them", "we paid € 5 for all of them"],
    "languages": ["I write it in C", "I write it in C++", "I write it in C#"],
    "first": ["-- not this", "not this"],
    "Hindi": ["किताब मेरी मेज पर रखी है और कलम भी वहीं है", "कीताब मेरा मोज पर रखा है और कलम भी वही है"],
    "Tamil": ["கல் கால் வில் வீல் பல்", "கால் கல் வீல் வில் பால்"],
    "sets": ["x ∈ A ∩ B then y and z follow", "x ∉ A ∪ B then y and z follow"],
}
SAME = {
    "case": ["Some Words Of It All Here", "some words of it all here"],
    "quotation marks": ["he said “yes, it’s” and then went", 'he said "yes, it\'s" and then went'],
    "dashes": [
        "he went – so they say – home",
        "he went — so they say - home",
        "he went − so they say ‒ home",
    ],
    "marks of prose": ["one, two; three. Four five six…", "one two three four five six"],
    "ends of quotations": ['he said "yes it is." And more of it', 'he said "yes it is" and more of it'],
    "full width": ["we have 1＋2 of all of them", "we have 1+2 of all of them"],
    "Arabic": ["كَتَبَ الوَلَدُ الدَّرْسَ فِي المَدْرَسَةِ", "كتب الولد الدرس في المدرسة"],
    "Hebrew": ["בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם", "בראשית ברא אלהים את השמים"],
    "joiners": ["नमस्\u200dते और सब को यहाँ से", "नमस्ते और सब को यहाँ से"],
    "what could not be read": ["so much\ufffd of \ufffdit was\xad lost here", "so much of it was lost here"],
    "emoji": ["good ❤\ufe0f for all of you here", "good ❤ for all of you here"],
}


@pytest.mark.parametrize("texts", DIFFERENT.values(), ids=DIFFERENT)
def test_texts_that_say_something_else_are_no_duplicates(texts):
    assert similarities(texts).max() < 0.8


@pytest.mark.parametrize("texts", SAME.values(), ids=SAME)
def test_texts_that_only_look_different_are_duplicates(texts):
    """In signatures too, since only candidates are compared."""
    assert similarities(texts).min() == 1
    bands, _ = minhash.signatures(column(texts), MinHashConfig())
    assert (bands == bands[0]).all()


def test_texts_without_spaces_meet_though_a_word_is_changed():
    """One of their sentences is no longer all that a shingle could be."""
    chinese = "昨天下午我们几个人去了村子后面的小山路上下了一阵雨大家躲在一棵老树下面等雨停了才继续往上走" * 2
    thai = "เมื่อวานนี้ฉันเดินไปตลาดกับแม่แล้วซื้อผักกับปลากลับมาทำอาหารเย็นกินกันทั้งบ้านจนอิ่ม" * 2
    changes = (chinese, chinese.replace("老树", "大树", 1)), (thai, thai.replace("ผักกับปลา", "ผักกับไก่", 1))
    for text, changed in changes:
        assert 0.7 < similarities([text, changed])[0] < 1
        assert similarities([text, "前言" + text])[0] > 0.9
    assert similarities([chinese, thai])[0] == 0


def test_changed_words_cost_the_same_whatever_stands_beside_them():
    """Texts that differ in words alone are as similar as their words, in prose as in formulas."""
    generator = np.random.default_rng(5)
    for marks in ([" "], [" ", " + ", " * (", ") = ", ", ", "->"]):
        for _ in range(20):
            one = [f"w{number}" for number in generator.integers(0, 300, 200)]
            gaps = generator.choice(marks, 200).tolist()
            other = [f"x{number}" if generator.random() < 0.03 else word for number, word in enumerate(one)]
            texts = ["".join(itertools.chain(*zip(found, gaps, strict=True))) for found in (one, other)]
            first, second = (word_shingles(text) for text in texts)
            assert similarities(texts)[0] == pytest.approx(
                len(first & second) / len(first | second), abs=0.02
            )
