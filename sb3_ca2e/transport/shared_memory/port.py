"""The port of an actor that shares memory with the learner."""

import numpy as np

from sb3_ca2e.actors.orders import Numbered
from sb3_ca2e.transport.shared_memory.block_buffers import BlockBuffers
from sb3_ca2e.transport.shared_memory.control_block import ControlBlock
from sb3_ca2e.transport.shared_memory.order_files import OrderReader


class SharedMemoryPort:
    """
    A :class:`~sb3_ca2e.actors.port.Port` backed by the control block and block buffers.

    :param process: index of the actor process
    :param board: the learner's control block
    :param buffers: memory for blocks and the heartbeat
    :param order_fds: files of the orders
    """

    def __init__(self, process: int, board: ControlBlock, buffers: BlockBuffers, order_fds: tuple[int, int]):
        self._process, self._board = process, board
        self._orders = OrderReader(board.orders, order_fds)
        self.pulse, self.views = buffers.pulse, buffers.views

    def read(self, out: np.ndarray) -> int:
        return self._board.read(out)

    def retired(self, slot: int) -> bool:
        return self._board.retired(slot)

    @property
    def newest_order(self) -> int:
        return self._orders.newest

    def orders(self, since: int) -> list[Numbered]:
        return self._orders.since(since)

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
