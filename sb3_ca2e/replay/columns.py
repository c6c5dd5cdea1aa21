"""Columns of rows, on the CPU or on a device."""

import numpy as np
import torch as th

from sb3_ca2e.common.transfers import copy_all


def put(start: int, *written: tuple[th.Tensor, np.ndarray]) -> None:
    """
    Write consecutive rows of columns.

    :param start: the first row
    :param written: ``(n_rows, *shape)`` columns, each with its ``(n, *shape)`` values
    """
    copy_all([(column[start : start + len(values)], values) for column, values in written])


def take(column: th.Tensor, rows: th.Tensor) -> th.Tensor:
    """
    Copies of rows of a column.

    :param column: ``(n_rows, *shape)``
    :param rows: ``(batch,)`` int64
    :return: ``(batch, *shape)``
    """
    if column.is_cpu:
        return th.from_numpy(column.numpy().take(rows.numpy(), axis=0))  # three times as fast as PyTorch's
    return column.index_select(0, rows)


def _zeros(shape: tuple[int, ...], dtype: np.dtype, device: th.device | str) -> th.Tensor:
    """A column. On the CPU, pages that are never written are never used."""
    if th.device(device).type == "cpu":
        # NumPy asks for large pages, PyTorch does not, and rows drawn at random are read faster from them.
        return th.from_numpy(np.zeros(shape, dtype))
    return th.zeros(shape, dtype=th.from_numpy(np.empty(0, dtype)).dtype, device=device)
