"""The kernel that copies windows of tokens out of mapped shards."""

from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from base.kernels import kernel


@intrinsic
def _pointer16(context: Any, address: Any) -> Any:
    """An integer as a pointer to uint16."""

    def generate(lowering: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], lowering.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(address), generate


@intrinsic
def _pointer32(context: Any, address: Any) -> Any:
    """An integer as a pointer to uint32."""

    def generate(lowering: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], lowering.get_value_type(signature.return_type))

    return types.CPointer(types.uint32)(address), generate


@kernel
def gather(
    addresses: NDArray[np.int64],
    starts: NDArray[np.int64],
    shard: NDArray[np.int64],
    position: NDArray[np.int64],
    width: int,
    vocab_size: int,
    rows: NDArray[np.int64],
) -> Any:
    """Copy rows of tokens out of mapped shards; a shard that holds a token outside the vocabulary, else -1.

    addresses: [shards] of token buffers; starts: [shards + 1] cumulative tokens; shard: [n] shard in which
    each row begins; position: [n] cumulative token at which it begins; width: bytes of a token; rows: [n,
    sequence_length + 1].
    """
    length = rows.shape[1]
    wrong = -1
    for row in range(rows.shape[0]):
        current = shard[row]
        filled = 0
        while filled < length:
            skip = position[row] + filled - starts[current]
            size = starts[current + 1] - starts[current]
            take = min(size - skip, length - filled)
            highest = np.int64(0)
            if width == 2:
                narrow = carray(_pointer16(addresses[current]), (size,), np.uint16)
                for token in range(take):
                    value = np.int64(narrow[skip + token])
                    if value > highest:
                        highest = value
                    rows[row, filled + token] = value
            else:
                wide = carray(_pointer32(addresses[current]), (size,), np.uint32)
                for token in range(take):
                    value = np.int64(wide[skip + token])
                    if value > highest:
                        highest = value
                    rows[row, filled + token] = value
            if highest >= vocab_size:
                wrong = current
            filled += take
            current += 1
    return wrong
