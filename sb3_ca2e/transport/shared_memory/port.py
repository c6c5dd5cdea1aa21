"""An actor's port to a learner with which it shares memory."""

import numpy as np

from sb3_ca2e.transport.shared_memory.block_buffers import BlockBuffers
from sb3_ca2e.transport.shared_memory.control_block import ControlBlock


class SharedMemoryPort:
    """
    What the learner has told on its board, and the buffers of blocks: a :class:`~sb3_ca2e.actors.port.Port`.

    :param process: index of the actor process
    :param board: what the learner publishes
    :param buffers: where blocks are written
    """

    def __init__(self, process: int, board: ControlBlock, buffers: BlockBuffers):
        self._process, self._board = process, board
        self.pulse, self.views = buffers.pulse, buffers.views

    def read(self, out: np.ndarray) -> int:
        return self._board.read(out)

    def retired(self, slot: int) -> bool:
        return self._board.retired(slot)

    @property
    def version(self) -> int:
        return self._board.version

    @property
    def progress(self) -> float:
        return self._board.progress

    @property
    def stopped(self) -> bool:
        return self._board.stopped

    @property
    def credit(self) -> int:
        """Handovers that the actor may have begun."""
        return self._board.credit(self._process)
