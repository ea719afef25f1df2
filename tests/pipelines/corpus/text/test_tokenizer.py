import hashlib
import json
import logging
import os
import pickle
import random
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference
from tokenizers import models, pre_tokenizers, trainers

from base.errors import UserError
from pipelines.corpus.text import pretokenize
from pipelines.corpus.text.bpe import byte_alphabet
from pipelines.corpus.text.tokenizer import Tokenizer, train
from pipelines.corpus.text.tokenizer import facts as facts_of

END = "<|endoftext|>"
TRAINING = [
    "The quick brown fox's den isn't far; they'll say we've won, I'm sure you'd agree.",
    "def main():\n    for i in range(1024):\n        print(i * 3.14159)  # naïve café\n",
    "größer Straße Übung 東京都 日本語 한국어 привет мир עברית العربية हिन्दी 🙂🙃👩‍👩‍👧",
    "aaaa abababab aaaaaaaa 0000 1234567890 ---- ==== \t\t\t\n\n\n",
] * 8


def trained(**changes: object) -> bytes:
    return json.dumps(json.loads(train(TRAINING, 700, END)) | changes, ensure_ascii=False).encode()


def with_added(*tokens: tuple[str, bool]) -> bytes:
    """A trained tokenizer with further added tokens: (content, normalized)."""
    reference = Reference.from_str(train(TRAINING, 700, END).decode())
    content = json.loads(reference.to_str())
    for number, (text, normalized) in enumerate(tokens, start=reference.get_vocab_size()):
        content["added_tokens"].append(
            {"id": number, "content": text, "normalized": normalized, "special": not normalized}
            | {"single_word": False, "lstrip": False, "rstrip": False}
        )
    return json.dumps(content, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer(train(TRAINING, 700, END), END)


@pytest.fixture(scope="module")
def neox(shared_data: Path) -> Tokenizer:
    return Tokenizer.load(str(shared_data / "tokenizer" / "tokenizer.json"), END)


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer.encode(pa.array(texts, pa.large_string()), end=False).to_pylist()
    return ids


def assert_equal(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.fast
    for text, found, wanted in zip(
        texts, encode(tokenizer, texts), tokenizer.encode_reference(texts), strict=True
    ):
        assert found == wanted, repr(text[:200])


def real_documents(shared_data: Path, documents: int | None) -> list[str]:
    """The readable documents of all sample files, or the first ones of each file."""
    texts = []
    for folder in ("pile_sample", "pile_sample_sharealike", "pile_messy"):
        for file in sorted((shared_data / folder).glob("*.jsonl.zst")):
            content = b""
            reader = zstandard.ZstdDecompressor().stream_reader(file.open("rb"), read_across_frames=True)
            try:
                while chunk := reader.read(2**20):
                    content += chunk
                    if documents and content.count(b"\n") > documents:
                        break
            except zstandard.ZstdError:
                pass
            for line in content.split(b"\n")[:documents]:
                try:
                    text = json.loads(line)["text"]
                    text.encode()
                    texts.append(text)
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
    return texts


fragments = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(min_codepoint=0x300, max_codepoint=0x36F), max_size=3),
    st.text(" \t\n\r\f\v\x85\xa0\u2003\u2028\u3000", min_size=1, max_size=30),
    st.text(" ", min_size=1, max_size=60),
    st.text("0123456789٣²Ⅷ", max_size=12),
    st.sampled_from(["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'", "'S", "'l", "'v", "’s", " 's", "''s"]),
    st.sampled_from(
        [END, "<|padding|>", "<|endoftext", "<|", "|>", END + "\u0338", "\u212a", "\u037e", "\u1fef"]
    ),
    st.sampled_from(["👩‍👩‍👧", "🇩🇪", "e\u0301", "각", "\u1100\u1161\u11a8", "\ufffd", "\x00", "\U0010ffff"]),
    st.sampled_from(["the", " quick", "ing", "A", "é", "-" * 70, "=" * 33, "ab" * 40, "x" * 31, "y" * 32]),
)
documents = st.lists(fragments, max_size=12).map("".join)
quick = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(st.lists(documents, min_size=1, max_size=4))
@example(["", " ", "  ", "a ", " a", "  a", "\n\n", "\n a", "'", "''s", "\n'set", "\t're"])
def test_ids_equal_tokenizers_for_a_trained_tokenizer(small: Tokenizer, texts: list[str]) -> None:
    assert_equal(small, texts)


@quick
@given(st.lists(documents, min_size=1, max_size=4))
@example([" " * count + "x" for count in range(60)])
@example([f"a\u0301{END}\u0338b", "<|endoftext|\u226f", "a\U0001fae8\u0301"])
def test_ids_equal_tokenizers_for_neox(neox: Tokenizer, texts: list[str]) -> None:
    assert_equal(neox, texts)


def test_ids_equal_tokenizers_on_real_documents(neox: Tokenizer, small: Tokenizer, shared_data: Path) -> None:
    texts = [text[:20_000] for text in real_documents(shared_data, 6)]
    assert len(texts) > 100
    assert_equal(neox, texts)
    assert_equal(small, texts)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["neox", "trained"])
def test_ids_equal_tokenizers_on_all_documents(
    neox: Tokenizer, real_data: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    texts = real_documents(real_data, None)
    assert len(texts) > 9_000
    tokenizer = neox if which == "neox" else Tokenizer(train(texts[::40], 4096, END), END)
    for start in range(0, len(texts), 1000):
        assert_equal(tokenizer, texts[start : start + 1000])


def test_code_point_table_is_that_of_tokenizers() -> None:
    table, derived = pretokenize.code_point_classes(), pretokenize.derive_classes()
    assert len(table) == pretokenize.CODE_POINTS
    assert np.array_equal(table & 3, derived & 3)
    # Another Python may know more characters, but none that is missing a flag here.
    assert not np.any((derived & pretokenize.COMPOSES != 0) & (table & 12 == 0))


@pytest.mark.slow
def test_every_code_point_in_context(neox: Tokenizer) -> None:
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    texts = [
        "".join(f"a{chr(point)}1{chr(point)} {chr(point)}!\n" for point in points[start : start + 512])
        for start in range(0, len(points), 512)
    ]
    assert_equal(neox, texts)


@pytest.mark.parametrize("word", ["a", "ab", "th", "-", "é", "日本"])
def test_long_words(neox: Tokenizer, word: str) -> None:
    assert_equal(neox, [word * (size // len(word)) for size in (31, 32, 63, 64, 65, 66, 1000, 50_000)])


def test_a_long_random_word_is_not_quadratic(neox: Tokenizer) -> None:
    word = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=2**20))
    assert_equal(neox, [word[:100_000]])
    start = time.process_time()
    encode(neox, [word])
    assert time.process_time() - start < 5


def test_added_tokens_overlap_and_normalise() -> None:
    content = with_added(
        ("<a>", False),
        ("<a>b", False),
        ("a;", False),
        ("  ", True),
        ("    ", True),
        ("xé", True),
        (">b c", True),
    )
    texts = [
        "<a><a>b c<a",
        "a\u037e a; \u037e",
        "     <a>     x",
        "xe\u0301 xé",
        "z>b c <a>b c",
        "<a>\u0301",
        ";a;a",
    ]
    assert_equal(Tokenizer(content, END), texts)


SPELLED = [f"a{END}b", "plain", f"{END}{END} c<|padding|>", f"a\u0301{END}\u0338b", "<|endoftext", ""]


def test_a_spelled_special_token_is_text_unless_asked_for(neox: Tokenizer, shared_data: Path) -> None:
    texts = [*SPELLED]
    field = shared_data / "field" / "endoftext.jsonl"
    texts += [json.loads(line)["text"] for line in field.read_text().splitlines()] if field.exists() else []
    assert_equal(neox, texts)
    end = neox.end_of_document_id
    assert not any(end in ids for ids in encode(neox, texts))
    assert [neox.decode(ids) for ids in encode(neox, texts)] == [
        unicodedata.normalize("NFC", text) for text in texts
    ]
    tokens = Tokenizer(
        Path(shared_data / "tokenizer" / "tokenizer.json").read_bytes(), END, special_tokens="tokens"
    )
    assert_equal(tokens, texts)
    assert [ids.count(end) for ids in encode(tokens, texts)] == [text.count(END) for text in texts]
    assert [
        pickle.loads(pickle.dumps(one)).encode(pa.array(texts)) == one.encode(pa.array(texts))
        for one in (neox, tokens)
    ] == [True, True]
    for tokenizer in (neox, tokens):
        counts = tokenizer.spelled(pa.array(SPELLED, pa.large_string()))
        assert {token: found.tolist() for token, found in counts.items()} == {
            END: [1, 0, 2, 1, 0, 0],
            "<|padding|>": [0, 0, 1, 0, 0, 0],
        }


@pytest.mark.parametrize("listed", [True, False])
def test_the_end_of_document_is_text_even_where_its_file_does_not_call_it_special(listed: bool) -> None:
    content = json.loads(trained())
    content["added_tokens"][0]["special"] = False
    content["added_tokens"] = content["added_tokens"] if listed else []
    tokenizer = Tokenizer(json.dumps(content).encode(), END)
    assert_equal(tokenizer, SPELLED)
    assert not any(tokenizer.end_of_document_id in ids for ids in encode(tokenizer, SPELLED))


@pytest.mark.parametrize("other", ["|>", "<|", "<|endoftext|> ", "of", "|>x", "x<|"])
def test_added_tokens_that_overlap_a_special_one(other: str) -> None:
    content = json.loads(with_added((other, False)))
    content["added_tokens"][-1]["special"] = False
    texts = [f"x{END} x", f"a{other}{END}{other}b", "<|endof|> text"]
    tokenizer = Tokenizer(json.dumps(content).encode(), END)
    assert encode(tokenizer, texts) == tokenizer.encode_reference(texts)


def test_dropout_truncation_and_padding_of_a_file_are_off() -> None:
    content = json.loads(trained())
    content["model"]["dropout"] = 0.5
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        **{"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0},
        **{"pad_type_id": 0, "pad_token": END},
    }
    tokenizer = Tokenizer(json.dumps(content).encode(), END)
    assert_equal(tokenizer, TRAINING)
    assert encode(tokenizer, TRAINING) == encode(Tokenizer(trained(), END), TRAINING)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (5, r"tokenizer gives two tokens the id 5: '.' and '<\|x\|>'"),
        (2**31, "the id 2147483648; the largest is"),
    ],
)
def test_ids_that_are_no_ids_are_refused(number: int, message: str) -> None:
    content = json.loads(with_added(("<|x|>", False)))
    content["added_tokens"][-1]["id"] = number
    with pytest.raises(UserError, match=message):
        Tokenizer(json.dumps(content).encode(), END)
    content = json.loads(trained())
    content["model"]["vocab"]["two words"] = number
    with pytest.raises(UserError, match=message.replace(r"<\|x\|>", "two words")):
        Tokenizer(json.dumps(content).encode(), END)


def test_bytes_without_an_entry_vanish() -> None:
    names = byte_alphabet()
    vocabulary = {END: 0} | {names[byte]: at for at, byte in enumerate(b"abc ", start=1)} | {"bc": 5, "ac": 6}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [["b", "c"], ["a", "c"]]}
    assert_equal(Tokenizer(trained(model=model), END), ["abc xbyc", "axc", "x", "abéc" * 30])


def test_a_full_cache_changes_nothing(shared_data: Path) -> None:
    texts = [text[:5_000] for text in real_documents(shared_data, 3)]
    content = (shared_data / "tokenizer" / "tokenizer.json").read_bytes()
    tiny, usual = Tokenizer(content, END, cache_slots=4), Tokenizer(content, END)
    expected = encode(usual, texts)
    assert encode(usual, texts) == expected
    assert encode(tiny, texts) == expected


def test_arrays_of_every_shape(small: Tokenizer) -> None:
    texts = ["one two", "", "thre\u0301e", "four"]
    array = pa.array(texts, pa.large_string())
    whole = small.encode(array)
    assert whole.type == pa.large_list(pa.uint16())
    assert [ids[-1] for ids in whole.to_pylist()] == [small.end_of_document_id] * 4
    assert [small.decode(ids[:-1]) for ids in whole.to_pylist()] == ["one two", "", "thr\u00e9e", "four"]
    assert small.encode(array.slice(1, 2)).to_pylist() == whole.to_pylist()[1:3]
    assert small.encode(pa.chunked_array([array.slice(0, 1), array.slice(1)])).equals(whole)
    assert small.encode(pa.array(texts)).equals(whole)
    assert small.encode(array.slice(0, 0)).to_pylist() == []
    assert small.encode(pa.chunked_array([], pa.large_string())).to_pylist() == []
    with pytest.raises(ValueError, match="nulls"):
        small.encode(pa.array(["a", None], pa.large_string()))


def test_attributes_of_neox(real_data: Path, neox: Tokenizer) -> None:
    assert (neox.vocab_size, neox.end_of_document_id, neox.dtype) == (50277, 0, np.dtype(np.uint16))
    assert neox.sha256.startswith("56ac4821e129d2c5")


def test_attributes(small: Tokenizer) -> None:
    assert small.vocab_size <= 700
    large = with_added(("<far>", False))
    content = json.loads(large)
    content["model"]["vocab"] |= {f"token{number}": number for number in range(700, 70_000)}
    assert Tokenizer(json.dumps(content).encode(), END).dtype == np.uint32


def test_verify_names_the_first_difference(small: Tokenizer) -> None:
    text = pa.array(["one two three", "four five"], pa.large_string())
    ids = small.encode(text)
    small.verify(text, ids)
    values = ids.values.to_numpy().copy()
    values[ids.offsets[1].as_py() + 1] += 1
    with pytest.raises(RuntimeError, match="document 1 differs from `tokenizers` at token 1"):
        small.verify(text, pa.LargeListArray.from_arrays(ids.offsets, values))
    with pytest.raises(RuntimeError, match="document 0"):
        small.verify(text, small.encode(text, end=False))


def test_unusable_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="does not exist"):
        Tokenizer.load(str(path), END)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        Tokenizer.load(str(tmp_path), END)
    path.write_text("{}")
    with pytest.raises(UserError, match="tokenizer.json is not a tokenizer"):
        Tokenizer.load(str(path), END)
    path.write_bytes(train(TRAINING, 300, END))
    with pytest.raises(UserError, match="no token '<eos>'"):
        Tokenizer.load(str(path), "<eos>")


def test_a_file_that_is_not_written_as_others_is_told_or_encoded_slowly(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    whole, told = train(TRAINING, 300, END), 0
    odd: list[Any] = [[], ["NFC"], {}, 1, "a", [[[]]], True]
    for place in (["model"], ["model", "vocab"], ["pre_tokenizer"], ["normalizer"], ["added_tokens", 0]):
        for value in odd:
            content = inner = json.loads(whole)
            for step in place[:-1]:
                inner = inner[step]
            inner[place[-1]] = value
            path.write_text(json.dumps(content))
            try:
                facts_of(str(path), END)
            except UserError as error:
                told += "\n" not in str(error)
    assert told >= 20
    # The library would abort.
    content = json.loads(whole)
    content["model"]["continuing_subword_prefix"] = "a"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not go on with its continuing_subword_prefix 'a'"):
        facts_of(str(path), END)


def word_level() -> bytes:
    reference = Reference(models.WordLevel(unk_token="?"))
    reference.pre_tokenizer = pre_tokenizers.Whitespace()
    reference.train_from_iterator(["a b c"], trainers.WordLevelTrainer(special_tokens=["?", END]))
    return reference.to_str().encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (word_level(), "its model is WordLevel"),
        (trained(normalizer={"type": "Lowercase"}), "its normalizer is Lowercase"),
        (trained(pre_tokenizer=None), "its pre-tokenizer is absent"),
        (
            trained(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}),
            "prefix space",
        ),
        (trained(model=json.loads(trained())["model"] | {"ignore_merges": True}), "ignore_merges"),
    ],
)
def test_unknown_tokenizers_fall_back(content: bytes, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer = Tokenizer(content, END)
    assert [reason in record.getMessage() for record in caplog.records] == [True]
    assert not tokenizer.fast
    texts = ["A b c", "", "hello there"]
    ids = tokenizer.encode(pa.array(texts, pa.large_string()))
    assert ids.to_pylist() == [
        [*wanted, tokenizer.end_of_document_id] for wanted in tokenizer.encode_reference(texts)
    ]
    tokenizer.verify(pa.array(texts, pa.large_string()), ids)


@pytest.mark.parametrize("content", [trained(), word_level()])
def test_facts_are_those_of_the_tokenizer(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    facts = facts_of(str(path), END)
    loud = len(caplog.records)
    tokenizer = Tokenizer.load(str(path), END)
    assert loud == (not tokenizer.fast)
    assert facts == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": END,
        "end_of_document_id": tokenizer.end_of_document_id,
        "dtype": tokenizer.dtype.name,
    }


def test_pickled_copy_encodes_alike(small: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(small))
    assert copy.sha256 == small.sha256
    assert encode(copy, TRAINING[:4]) == encode(small, TRAINING[:4])


def test_training_is_deterministic(tmp_path: Path) -> None:
    content = train(iter(TRAINING), 400, END)
    tokenizer = Tokenizer(content, END)
    assert (tokenizer.vocab_size, tokenizer.end_of_document_id, tokenizer.fast) == (400, 0, True)
    script = (
        "import json, sys; from pipelines.corpus.text.tokenizer import train\n"
        "texts = json.load(sys.stdin); sys.stdout.buffer.write(train(texts, 400, '<|endoftext|>'))"
    )
    for threads in ("1", "4"):
        child = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps(TRAINING).encode(),
            env=os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONPATH": str(Path(__file__).parents[4])},
            capture_output=True,
            check=True,
        )
        assert child.stdout == content
