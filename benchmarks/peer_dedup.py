"""MinHash bands of another tool; run by an interpreter that has it.

    python peer_dedup.py datatrove|rensa|text-dedup TEXTS.json BANDS.json

TEXTS holds a list of strings. BANDS gets {"bands": for each text a list of 14 strings, null for one without
shingles; "seconds": CPU seconds; "version"}. 112 permutations in 14 bands of 8, word 5-grams, each tool's own
idea of words; rensa has none, it gets those of Python's `split`. What loads or compiles is done before.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

BANDS, ROWS = 14, 8

Tool = tuple[Callable[[str], Any], Callable[[Any], list[str]]]
"""What makes the signature of a text, None without shingles, and what divides it into bands."""


def datatrove() -> Tool:
    """Signatures of its MinhashDedupSignature, as examples/fineweb.py sets it."""
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(
        hash_config=HashConfig(hash_fc="sha1", precision=64),
        n_grams=5,
        num_buckets=BANDS,
        hashes_per_bucket=ROWS,
    )
    signature = MinhashDedupSignature(output_folder=tempfile.mkdtemp(), config=config)

    def sign(text: str) -> Any:
        grams = signature.get_shingles(text)
        return signature.get_signature(grams) if len(grams) else None

    return sign, lambda bands: [" ".join(f"{value:x}" for value in band) for band in bands]


def rensa() -> Tool:
    """Signatures of RMinHash."""
    from rensa import RMinHash

    def sign(text: str) -> Any:
        words = text.split()
        if not words:
            return None
        minhash = RMinHash(num_perm=BANDS * ROWS, seed=1)
        minhash.update(list({" ".join(words[at : at + 5]) for at in range(max(len(words) - 4, 1))}))
        return minhash.digest()

    def split(values: list[int]) -> list[str]:
        return [" ".join(f"{v:x}" for v in values[at : at + ROWS]) for at in range(0, BANDS * ROWS, ROWS)]

    return sign, split


def text_dedup() -> Tool:
    """Signatures of text_dedup.minhash with its defaults: 64-bit arithmetic on 32-bit sha1."""
    import numpy as np
    from text_dedup.minhash import RNG, SIGNATURE_COLUMN, embed_func
    from text_dedup.utils.hashfunc import sha1_hash

    prime = np.uint64((1 << 61) - 1)
    permutations = tuple(RNG.randint(first, prime, size=(BANDS * ROWS,), dtype=np.uint64) for first in (1, 0))
    ranges = [(at, at + ROWS) for at in range(0, BANDS * ROWS, ROWS)]

    def sign(text: str) -> Any:
        found = embed_func(
            text,
            0,
            num_perm=BANDS * ROWS,
            ngram_size=5,
            min_length=0,
            hashranges=ranges,
            permutations=permutations,
            hash_func=lambda data: sha1_hash(data, d=32),
            dtype=np.uint64,
            max_hash=np.uint32((1 << 32) - 1),
            modulo_prime=prime,
        )
        return found[SIGNATURE_COLUMN]

    return sign, lambda bands: [band.hex() for band in bands]


def main() -> None:
    """Sign every text."""
    tool = sys.argv[1]
    sign, split = {"datatrove": datatrove, "rensa": rensa, "text-dedup": text_dedup}[tool]()
    with open(sys.argv[2]) as file:
        texts = json.load(file)
    sign("This text is not timed, it loads what the work needs, and it has more than five words.")
    start = time.process_time()
    signatures = [sign(text) for text in texts]
    seconds = time.process_time() - start
    bands = [None if one is None else split(one) for one in signatures]
    with open(sys.argv[3], "w") as file:
        json.dump({"bands": bands, "seconds": seconds, "version": version(tool)}, file)


if __name__ == "__main__":
    main()
