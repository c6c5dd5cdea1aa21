"""
How blocks reach the learner, in memory that both map.

No lock is ever shared: every byte has one writer.
"""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sb3_ca2e.actors.supervision import Pulse
from sb3_ca2e.replay.block import Block, ObservationColumn, lead_frames

#: Handovers that an actor may have under way: it fills one while the learner reads the other.
BUFFERS = 2


def shared_file(n_bytes: int, name: str) -> int:
    """
    Memory that processes can share and that vanishes with the last of them, however they end.

    :param n_bytes: its size; reserved now, so that a lack of memory is an error here and no SIGBUS later
    :param name: shown in /proc, for debugging
    :return: a file descriptor
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(f"sb3_ca2e-{name}")
    else:  # pragma: no cover - an unlinked file does the same where memfd is missing
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        # The kernel would rather kill this process than refuse what no machine of this size can hold.
        if n_bytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        os.truncate(fd, n_bytes)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, max(n_bytes, 1))
    except OSError as error:
        os.close(fd)
        raise MemoryError(
            f"Could not reserve {n_bytes / 2**20:.1f} MiB of shared memory for the actors ({error.strerror}); "
            "lower n_actors or local_buffer_size, or free memory."
        ) from error
    return fd


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


class BlockBuffers:
    """
    The block buffers of one actor process, and its signs of life.

    :param layout: layout of a block
    :param slots: the slots of the process
    :param fd: shared file to map; None for memory of this process
    """

    def __init__(self, layout: BlockLayout, slots: list[int], fd: int | None = None):
        self.layout, self.slots = layout, slots
        memory = map_file(fd) if fd is not None else np.zeros(self.size(layout, len(slots)), dtype=np.uint8)
        self.pulse = Pulse(memory)
        parts = memory[Pulse.SIZE :].reshape(BUFFERS, len(slots), layout.n_bytes)
        self.views = [[layout.views(part) for part in buffer] for buffer in parts]

    @staticmethod
    def size(layout: BlockLayout, n_slots: int) -> int:
        """
        :param layout: layout of a block
        :param n_slots: slots of the process
        :return: bytes that its buffers take
        """
        return Pulse.SIZE + BUFFERS * n_slots * layout.n_bytes

    def blocks(self, sequence: int, n_rows: list[int]) -> list[Block]:
        """
        :param sequence: number of the handover
        :param n_rows: rows written, a number a slot
        :return: its blocks
        """
        buffer = self.views[sequence % BUFFERS]
        return [self.layout.block(*each) for each in zip(self.slots, buffer, n_rows, strict=True)]


def map_file(fd: int) -> np.ndarray:
    """
    :param fd: a file of :func:`shared_file`
    :return: its bytes, shared
    :raises MemoryError: if there is no room for them
    """
    with os.fdopen(os.dup(fd), "r+b") as file:  # the mapping outlives it
        try:
            return np.memmap(file, dtype=np.uint8, mode="r+").view(np.ndarray)
        except OSError as error:
            size = os.fstat(fd).st_size / 2**20
            raise MemoryError(
                f"Could not map {size:.1f} MiB of shared memory for the actors ({error.strerror}); raise the limit on "
                "this process's memory (`ulimit -v`), or lower n_actors or local_buffer_size."
            ) from error
