import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup import hashing


def expected(texts, prefix=b""):
    return [xxhash.xxh3_128_digest(prefix + text.encode()) for text in texts]


@pytest.mark.parametrize("prefix", [b"", b"a", b"github\0", b"x" * 300])
def test_equals_xxhash_at_every_length(prefix):
    generator = np.random.default_rng(3)
    lengths = [*range(530), 1023, 1024, 1025, 1088, 2047, 2048, 2049, 5000, 100_003]
    texts = ["".join(map(chr, generator.integers(32, 127, length))) for length in lengths]
    assert hashing.hash128(pa.array(texts, pa.large_string()), prefix).to_pylist() == expected(texts, prefix)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=400)), st.binary(max_size=20))
def test_equals_xxhash_on_any_text(texts, prefix):
    assert hashing.hash128(pa.array(texts, pa.large_string()), prefix).to_pylist() == expected(texts, prefix)


def test_sliced_and_chunked_columns():
    texts = ["", "one", "two words", "é" * 100, "z" * 1000]
    array = pa.array(texts, pa.large_string())
    assert hashing.hash128(array[1:4]).to_pylist() == expected(texts[1:4])
    chunked = pa.chunked_array([array[3:], array[:2], array[:0]])
    assert hashing.hash128(chunked).to_pylist() == expected(texts[3:] + texts[:2])
    assert hashing.hash128(pa.chunked_array([], pa.large_string())).to_pylist() == []
    assert hashing.hash128(pa.array(texts, pa.string())).to_pylist() == expected(texts)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 2**40)), max_size=20))
def test_ordinals_are_added_as_big_endian_integers(pairs):
    ids = pa.array([value.to_bytes(16, "big") for value, _ in pairs], pa.binary(16))
    result = hashing.add_ordinals(ids, np.array([ordinal for _, ordinal in pairs], np.int64))
    assert result.to_pylist() == [((value + n) % 2**128).to_bytes(16, "big") for value, n in pairs]


def test_words_round_trip_and_order():
    ids = hashing.hash128(pa.array([str(i) for i in range(100)], pa.large_string()))
    high, low = hashing.id_words(ids[10:50])
    assert hashing.ids_from_words(high, low).equals(ids[10:50])
    ordered = [ids[10 + i].as_py() for i in np.lexsort((low, high))]
    assert ordered == sorted(ids[10:50].to_pylist())
    assert hashing.id_bytes(ids[10:50])[0].tobytes() == ids[10].as_py()
