"""
Block buffers in memory that an actor process and the learner share.

There are no shared locks: each byte has one writer.
"""

import numpy as np

from sb3_ca2e.replay.block import Block, BlockLayout
from sb3_ca2e.transport.shared_memory.heartbeat import SharedMemoryHeartbeat
from sb3_ca2e.transport.shared_memory.memory import map_file

#: Number of buffers: an actor fills one while the learner reads the other.
BUFFERS = 2


class BlockBuffers:
    """
    The block buffers of one actor process, and its heartbeat.

    :param layout: layout of a block
    :param slots: indices of the process's slots
    :param fd: shared file to map; None for private memory
    """

    def __init__(self, layout: BlockLayout, slots: list[int], fd: int | None = None):
        self.layout, self.slots = layout, slots
        memory = map_file(fd) if fd is not None else np.zeros(self.size(layout, len(slots)), dtype=np.uint8)
        self.pulse = SharedMemoryHeartbeat(memory)
        parts = memory[SharedMemoryHeartbeat.SIZE :].reshape(BUFFERS, len(slots), layout.n_bytes)
        self._views = [[layout.views(part) for part in buffer] for buffer in parts]

    @staticmethod
    def size(layout: BlockLayout, n_slots: int) -> int:
        """
        Return the memory that the buffers take.

        :param layout: layout of a block
        :param n_slots: number of slots of the process
        :return: size in bytes
        """
        return SharedMemoryHeartbeat.SIZE + BUFFERS * n_slots * layout.n_bytes

    def views(self, sequence: int) -> list[dict[str, np.ndarray]]:
        """
        Return the blocks to write.

        :param sequence: number of the handover
        :return: for each slot the fields of its block
        """
        return self._views[sequence % BUFFERS]

    def blocks(self, sequence: int, n_rows: list[int]) -> list[Block]:
        """
        Return the written blocks of a handover.

        :param sequence: number of the handover
        :param n_rows: number of rows written for each slot
        :return: one block for each slot
        """
        return [self.layout.block(*each) for each in zip(self.slots, self.views(sequence), n_rows, strict=True)]
