"""CPU seconds of datatrove's inner work on texts; run by an interpreter with datatrove.

    python peer_kernels.py TEXTS.json TOKENIZER.json

TEXTS holds a list of strings. Prints JSON: seconds of MinHash signatures (14 buckets of 8, word 5-grams), of
the four quality filters (each on every text), of encoding with `tokenizers`, as datatrove does, and of
rensa's MinHash with 112 permutations over word 5-grams (null where rensa is not installed). What loads or
compiles is done before on one text.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import tokenizers
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.hashing import HashConfig

try:
    import rensa
except ImportError:
    rensa = None


def seconds(work: Callable[[str], object], texts: list[str]) -> float:
    """CPU seconds of a function of every text."""
    work("This text is not timed, it loads what the work needs, and it has more than five words.")
    start = time.process_time()
    for text in texts:
        work(text)
    return time.process_time() - start


def shingles(text: str) -> set[str]:
    """Word 5-grams by white space, for rensa."""
    words = text.split()
    return {" ".join(words[at : at + 5]) for at in range(max(len(words) - 4, 1))}


def main() -> None:
    """Time each work, print the seconds."""
    with open(sys.argv[1]) as file:
        texts = json.load(file)
    folder = tempfile.mkdtemp()
    config = MinhashConfig(
        hash_config=HashConfig(hash_fc="sha1", precision=64), n_grams=5, num_buckets=14, hashes_per_bucket=8
    )
    signature = MinhashDedupSignature(output_folder=folder, config=config)
    # The filters share the words of the last texts; C4 asks for sentences line by line and goes last.
    filters = GopherQualityFilter(), GopherRepetitionFilter(), FineWebQualityFilter(), C4QualityFilter()
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[2])

    def sign(text: str) -> Any:
        grams = signature.get_shingles(text)
        return signature.get_signature(grams) if len(grams) else None

    def ask(text: str) -> list[Any]:
        return [rule.filter(Document(text=text, id="")) for rule in filters]

    def sign_with_rensa(text: str) -> Any:
        minhash = rensa.RMinHash(num_perm=112, seed=1)
        minhash.update(list(shingles(text)))
        return minhash.digest()

    found = {
        "signatures": seconds(sign, texts),
        "quality rules": seconds(ask, texts),
        "tokens": seconds(lambda text: tokenizer.encode_batch([text]), texts),
        "rensa": seconds(sign_with_rensa, texts) if rensa else None,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
