"""
How blocks reach the learner, in memory that both map.

No lock is ever shared: every byte has one writer.
"""

import numpy as np

from sb3_ca2e.actors.heartbeat import Heartbeat
from sb3_ca2e.replay.block import Block, BlockLayout
from sb3_ca2e.transport.shared_memory.memory import map_file

#: Handovers that an actor may have under way: it fills one while the learner reads the other.
BUFFERS = 2


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
        self.pulse = Heartbeat(memory)
        parts = memory[Heartbeat.SIZE :].reshape(BUFFERS, len(slots), layout.n_bytes)
        self._views = [[layout.views(part) for part in buffer] for buffer in parts]

    @staticmethod
    def size(layout: BlockLayout, n_slots: int) -> int:
        """
        :param layout: layout of a block
        :param n_slots: slots of the process
        :return: bytes that its buffers take
        """
        return Heartbeat.SIZE + BUFFERS * n_slots * layout.n_bytes

    def views(self, sequence: int) -> list[dict[str, np.ndarray]]:
        """
        :param sequence: number of a handover
        :return: for each slot, the fields of its block
        """
        return self._views[sequence % BUFFERS]

    def blocks(self, sequence: int, n_rows: list[int]) -> list[Block]:
        """
        :param sequence: number of the handover
        :param n_rows: rows written, a number a slot
        :return: its blocks
        """
        return [self.layout.block(*each) for each in zip(self.slots, self.views(sequence), n_rows, strict=True)]
