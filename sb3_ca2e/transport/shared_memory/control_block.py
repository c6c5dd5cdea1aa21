"""
The control block: the learner's messages to actors in shared memory, and the parameters as one vector.

There are no shared locks: only the learner writes it.
"""

import numpy as np

from sb3_ca2e.transport.shared_memory.memory import map_file
from sb3_ca2e.transport.shared_memory.order_files import OrderWords


class ControlBlock:
    """
    Everything that the learner tells the actors. Only the learner writes it; actors poll.

    Parameters are stored in two buffers with sequence numbers (a seqlock): a reader that was overtaken reads again.

    :param n_slots: number of slots
    :param n_parameters: number of float32 parameters
    :param fd: shared file to map; None for private memory
    """

    _STOP, _VERSION = range(2)
    _HEADER = 64 + OrderWords.SIZE

    def __init__(self, n_slots: int, n_parameters: int, fd: int | None = None):
        memory = map_file(fd) if fd is not None else np.zeros(self.size(n_slots, n_parameters), dtype=np.uint8)
        words = memory[: self._HEADER].view(np.int64)
        self._words, self._sequence = words[:2], words[2:4]
        self._progress = memory[32:40].view(np.float64)
        #: what it says about orders
        self.orders = OrderWords(memory[64 : self._HEADER])
        end = self._HEADER + 16 * n_slots
        self._nature, self._credit = memory[self._HEADER : end].view(np.int64).reshape(2, n_slots)
        self._parameters = memory[end : end + 8 * n_parameters].view(np.float32).reshape(2, n_parameters)

    @classmethod
    def size(cls, n_slots: int, n_parameters: int) -> int:
        """
        Return the memory that the control block takes.

        :param n_slots: number of slots
        :param n_parameters: number of float32 parameters
        :return: size in bytes
        """
        return cls._HEADER + 16 * n_slots + 8 * n_parameters

    # The learner's side.

    def publish(self, parameters: np.ndarray) -> None:
        """
        Publish newer parameters.

        :param parameters: ``(n_parameters,)`` float32
        """
        version = int(self._words[self._VERSION]) + 1
        half = version % 2
        self._sequence[half] = -version  # being written
        self._parameters[half] = parameters
        self._sequence[half] = version
        self._words[self._VERSION] = version

    def set_progress(self, progress: float) -> None:
        """
        Publish the progress of the training.

        :param progress: fraction of the training that is done, 0 to 1
        """
        self._progress[0] = progress

    def grant(self, process: int, n_handovers: int) -> None:
        """
        Set how many handovers an actor process may begin.

        :param process: index of an actor process
        :param n_handovers: number of handovers since its start
        """
        self._credit[process] = n_handovers

    def retire(self, slot: int) -> None:
        """
        Retire the prior agent of a slot.

        :param slot: prior slot that becomes a nature slot at its next episode
        """
        self._nature[slot] = 1

    def stop(self) -> None:
        """Ask the actors to stop."""
        self._words[self._STOP] = 1

    # The actors' side.

    @property
    def version(self) -> int:
        """Version of the newest parameters; 0 before the first."""
        return int(self._words[self._VERSION])

    def read(self, out: np.ndarray) -> int:
        """
        Copy the newest parameters.

        :param out: ``(n_parameters,)`` float32, overwritten
        :return: their version
        """
        while True:
            version = self.version
            half = version % 2
            if self._sequence[half] == version:
                out[...] = self._parameters[half]
                if self._sequence[half] == version:
                    return version

    @property
    def progress(self) -> float:
        """Fraction of the training that is done, 0 to 1."""
        return float(self._progress[0])

    def credit(self, process: int) -> int:
        """
        Return how many handovers an actor process may begin.

        :param process: index of an actor process
        :return: number of handovers since its start
        """
        return int(self._credit[process])

    @property
    def stopped(self) -> bool:
        """Whether the actors must stop."""
        return bool(self._words[self._STOP])

    def retired(self, slot: int) -> bool:
        """
        Check whether the prior agent of a slot has been retired.

        :param slot: index of the slot
        :return: True if it must be replaced
        """
        return bool(self._nature[slot])
