"""The port of an actor that shares memory with the learner."""

import numpy as np

from sb3_ca2e.transport.shared_memory.block_buffers import BlockBuffers
from sb3_ca2e.transport.shared_memory.control_block import ControlBlock


class SharedMemoryPort:
    """
    A :class:`~sb3_ca2e.actors.port.Port` backed by the control block and block buffers.

    :param process: index of the actor process
    :param board: the learner's control block
    :param buffers: memory for blocks and the heartbeat
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
        """Number of handovers that the actor may begin."""
        return self._board.credit(self._process)
