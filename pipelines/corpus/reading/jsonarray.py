"""Arrays of JSON, and values over several lines, as lines: each becomes one of as many bytes."""

from collections.abc import Iterator

import numpy as np

from base.kernels import kernel
from pipelines.corpus.reading import decompress
from pipelines.corpus.reading.jsonlines import read_pieces
from pipelines.corpus.reading.records import BOM, Batch
from pipelines.corpus.reading.settings import IngestConfig, SourceConfig

_SPACE, _TAB, _LINE_END, _RETURN, _QUOTE, _BACKSLASH, _COMMA = (ord(byte) for byte in ' \t\n\r"\\,')
_OPEN, _CLOSE, _OPEN_OBJECT, _CLOSE_OBJECT = (ord(character) for character in "[]{}")
_MARK_1, _MARK_2, _MARK_3 = BOM
_CONTROL = 31


def read(url: str, source: SourceConfig, config: IngestConfig) -> Iterator[Batch]:
    """Read the elements of JSON arrays and the values outside of them; records are their numbers."""
    return read_pieces(url, array_lines(url), source, config, 0)


def array_lines(url: str) -> Iterator[bytes]:
    """Elements of arrays, and other values with white space between them, as lines, decompressed, in pieces.

    The brackets around an array and line ends between tokens become spaces; the commas between elements,
    the end of an array and the first white space after another value line ends, so the bytes of a file are
    as many as before. Raises DamagedFile where decompress.pieces does.
    """
    state = np.zeros(5, np.int64)
    start = True
    for piece in decompress.pieces(url):
        data = np.frombuffer(piece, np.uint8).copy()
        _to_lines(data[len(BOM) :] if start and piece.startswith(BOM) else data, state)
        start = False
        yield data.tobytes()


@kernel
def _to_lines(data: np.ndarray, state: np.ndarray) -> None:
    """Rewrite a piece in place.

    `state` is the depth of brackets, and whether this is in a string, after a backslash, in an array that is
    no part of a value, and on a line with something of a value that is in none.
    """
    depth, quoted, escaped, array, begun = state
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
        elif depth == 0 and (byte in (_SPACE, _TAB, _LINE_END, _RETURN)):
            data[at] = _LINE_END if begun else _SPACE
            begun = 0
        elif depth == 0 and not begun and byte in (_MARK_1, _MARK_2, _MARK_3):
            data[at] = _SPACE  # a byte order mark, where files were put together
        elif byte == _OPEN and depth == 0 and not begun:
            depth = array = 1
            data[at] = _SPACE
        elif byte == _CLOSE and depth == 1 and array:
            depth = array = 0
            data[at] = _LINE_END
        elif byte == _COMMA and depth == 1 and array:
            data[at] = _LINE_END
        elif byte in (_LINE_END, _RETURN):
            data[at] = _SPACE
        else:
            begun |= depth == 0
            if byte == _QUOTE:
                quoted = 1
            elif byte in (_OPEN, _OPEN_OBJECT):
                depth += 1
            elif byte in (_CLOSE, _CLOSE_OBJECT):
                depth = max(depth - 1, array)
    state[0], state[1], state[2], state[3], state[4] = depth, quoted, escaped, array, begun
