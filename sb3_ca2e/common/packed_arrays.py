"""Arrays one after another in a piece of memory."""

from collections.abc import Iterable

import numpy as np

#: Name, shape and dtype of an array.
Field = tuple[str, tuple[int, ...], np.dtype]


def size_of(fields: Iterable[Field]) -> int:
    """
    Return the memory that consecutive arrays take.

    :param fields: arrays to place one after another
    :return: size in bytes
    """
    return sum(_padded(int(np.prod(shape)) * dtype.itemsize) for _, shape, dtype in fields)


def views_of(memory: np.ndarray, fields: Iterable[Field]) -> dict[str, np.ndarray]:
    """
    Return views of consecutive arrays in memory.

    :param memory: ``(n_bytes,)`` uint8
    :param fields: arrays placed one after another
    :return: the arrays by name, views of ``memory``
    """
    arrays, offset = {}, 0
    for name, shape, dtype in fields:
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        arrays[name] = memory[offset : offset + n_bytes].view(dtype).reshape(shape)
        offset += _padded(n_bytes)
    return arrays


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // 8) * 8
