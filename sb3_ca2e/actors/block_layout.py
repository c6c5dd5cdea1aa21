"""Memory layout of blocks of transitions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sb3_ca2e.replay.block import Block, ObservationColumn, lead_frames

#: Name, shape and dtype of an array in shared memory.
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


@dataclass(frozen=True)
class BlockLayout:
    """
    Memory layout of the block of one slot.

    :param columns: observation columns by key
    :param n_steps: transitions in a block; as many rows again are reserved for the ends of episodes
    :param action_shape: shape of a stored action
    :param action_dtype: dtype of a stored action
    """

    columns: dict[str, ObservationColumn]
    n_steps: int
    action_shape: tuple[int, ...]
    action_dtype: np.dtype

    @property
    def lead(self) -> int:
        """Number of frames before the first row."""
        return lead_frames(self.columns)

    def _fields(self) -> Iterator[Field]:
        rows = 2 * self.n_steps
        yield "priorities", (rows,), np.dtype(np.float64)
        yield "actions", (rows, *self.action_shape), self.action_dtype
        yield "rewards", (rows,), np.dtype(np.float32)
        yield "flags", (rows,), np.dtype(np.uint8)
        yield "ages", (rows + 1,), np.dtype(np.uint8)
        for key, column in self.columns.items():
            yield f"frames/{key}", (self.lead + rows + 1, *column.frame_shape), column.dtype

    @property
    def n_bytes(self) -> int:
        """Size of one block, in bytes."""
        return size_of(self._fields())

    def views(self, memory: np.ndarray) -> dict[str, np.ndarray]:
        """
        Return views of a block's fields.

        :param memory: ``(n_bytes,)`` uint8
        :return: one array for each field, views of ``memory``
        """
        return views_of(memory, self._fields())

    def block(self, slot: int, views: dict[str, np.ndarray], n_rows: int) -> Block:
        """
        Return a block as the learner reads it.

        :param slot: index of the slot
        :param views: fields as :meth:`views` returns them
        :param n_rows: number of rows written
        :return: the block, a view too
        """
        frames = {key: views[f"frames/{key}"][: self.lead + n_rows + 1] for key in self.columns}
        return Block(
            slot,
            frames,
            views["actions"][:n_rows],
            views["rewards"][:n_rows],
            views["flags"][:n_rows],
            views["ages"][: n_rows + 1],
            views["priorities"][:n_rows],
        )
