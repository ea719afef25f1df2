"""A file that is one JSON array, as lines: each element becomes a line of as many bytes."""

from collections.abc import Iterator

import numpy as np
from numba import njit

from pipelines.reading import decompress

_SPACE, _LINE_END, _RETURN, _QUOTE, _BACKSLASH, _COMMA = (ord(character) for character in ' \n\r"\\,')
_OPEN, _CLOSE, _OPEN_OBJECT, _CLOSE_OBJECT = (ord(character) for character in "[]{}")
_CONTROL = 31


def array_lines(url: str) -> Iterator[bytes]:
    """The elements of an array as lines, decompressed, in pieces.

    The brackets around it and line ends between tokens become spaces, the commas between elements line
    ends, so the bytes of a file are as many as before. Raises DamagedFile where decompress.pieces does.
    """
    state = np.zeros(3, np.int64)
    for piece in decompress.pieces(url):
        data = np.frombuffer(piece, np.uint8).copy()
        _to_lines(data, state)
        yield data.tobytes()


@njit("void(uint8[::1], int64[::1])", cache=True, nogil=True)
def _to_lines(data: np.ndarray, state: np.ndarray) -> None:
    """Rewrite a piece in place; `state` is the depth of brackets, in a string, after a backslash."""
    depth, quoted, escaped = state
    for at in range(len(data)):
        byte = data[at]
        if quoted:
            if byte == _LINE_END:
                data[at] = _CONTROL  # no more allowed in a string than a line end, and ends no line
            if escaped:
                escaped = 0
            elif byte == _BACKSLASH:
                escaped = 1
            elif byte == _QUOTE:
                quoted = 0
        elif byte == _QUOTE:
            quoted = 1
        elif byte in (_OPEN, _OPEN_OBJECT):
            depth += 1
            if depth == 1:
                data[at] = _SPACE
        elif byte in (_CLOSE, _CLOSE_OBJECT):
            depth -= 1
            if depth == 0:
                data[at] = _SPACE
        elif byte == _COMMA and depth == 1:
            data[at] = _LINE_END
        elif byte in (_LINE_END, _RETURN):
            data[at] = _SPACE
    state[0], state[1], state[2] = depth, quoted, escaped
