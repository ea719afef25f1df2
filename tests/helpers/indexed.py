"""A reader of indexed datasets of Megatron-LM and GPT-NeoX, written after their format alone."""

import struct
from pathlib import Path

import numpy as np

CODES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


def read_indexed(path: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Every sequence of an indexed dataset, and its document index."""
    index = Path(f"{path}.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    (version,) = struct.unpack("<Q", index[9:17])
    assert version == 1
    dtype = np.dtype(CODES[index[17]])
    sequences, documents = struct.unpack("<QQ", index[18:34])
    at = 34
    lengths = np.frombuffer(index, np.int32, sequences, at)
    at += 4 * sequences
    pointers = np.frombuffer(index, np.int64, sequences, at)
    at += 8 * sequences
    first = np.frombuffer(index, np.int64, documents, at)
    assert at + 8 * documents == len(index)
    tokens = Path(f"{path}.bin").read_bytes()
    return [
        np.frombuffer(tokens, dtype, length, pointer)
        for length, pointer in zip(lengths, pointers, strict=True)
    ], first
