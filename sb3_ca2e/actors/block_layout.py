"""How blocks of transitions lie in memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sb3_ca2e.replay.block import Block, ObservationColumn, lead_frames

#: Name, shape and dtype of an array in shared memory.
Field = tuple[str, tuple[int, ...], np.dtype]


def size_of(fields: Iterable[Field]) -> int:
    """
    :param fields: arrays to lay one behind the other
    :return: bytes that they take
    """
    return sum(_padded(int(np.prod(shape)) * dtype.itemsize) for _, shape, dtype in fields)


def views_of(memory: np.ndarray, fields: Iterable[Field]) -> dict[str, np.ndarray]:
    """
    :param memory: ``(n_bytes,)`` uint8
    :param fields: arrays that lie one behind the other in it
    :return: they, all views of ``memory``
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
    Where the fields of one slot's block lie.

    :param columns: the observation columns
    :param n_steps: transitions in a block; as many rows again are kept free for the ends of episodes
    :param action_shape: shape of a stored action
    :param action_dtype: its dtype
    """

    columns: dict[str, ObservationColumn]
    n_steps: int
    action_shape: tuple[int, ...]
    action_dtype: np.dtype

    @property
    def lead(self) -> int:
        """Frames before the first row."""
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
        """Size of one block."""
        return size_of(self._fields())

    def views(self, memory: np.ndarray) -> dict[str, np.ndarray]:
        """
        :param memory: ``(n_bytes,)`` uint8
        :return: an array for each field, all views of ``memory``
        """
        return views_of(memory, self._fields())

    def block(self, slot: int, views: dict[str, np.ndarray], n_rows: int) -> Block:
        """
        :param slot: the slot
        :param views: the fields, as :meth:`views` gave them
        :param n_rows: rows written
        :return: the block, a view as well
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
