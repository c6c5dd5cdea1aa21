"""
What the learner tells the actors: a board in shared memory, and the parameters of networks as one vector.

No lock is ever shared: only the learner writes the board.
"""

import numpy as np

from sb3_ca2e.transport.shared_memory.memory import map_file


class ControlBlock:
    """
    Everything that the learner tells the actors. Only the learner writes it; actors look at it when it suits them.

    Parameters stand in two buffers under sequence numbers (a seqlock): a reader that was overtaken reads again.

    :param n_slots: number of slots
    :param n_parameters: float32 numbers to publish
    :param fd: shared file to map; None for memory of this process
    """

    _STOP, _VERSION = range(2)
    _HEADER = 64

    def __init__(self, n_slots: int, n_parameters: int, fd: int | None = None):
        memory = map_file(fd) if fd is not None else np.zeros(self.size(n_slots, n_parameters), dtype=np.uint8)
        words = memory[: self._HEADER].view(np.int64)
        self._words, self._sequence = words[:2], words[2:4]
        self._progress = memory[32:40].view(np.float64)
        end = self._HEADER + 16 * n_slots
        self._nature, self._credit = memory[self._HEADER : end].view(np.int64).reshape(2, n_slots)
        self._parameters = memory[end : end + 8 * n_parameters].view(np.float32).reshape(2, n_parameters)

    @classmethod
    def size(cls, n_slots: int, n_parameters: int) -> int:
        """
        :param n_slots: number of slots
        :param n_parameters: float32 numbers to publish
        :return: bytes that the board takes
        """
        return cls._HEADER + 16 * n_slots + 8 * n_parameters

    # The learner's side.

    def publish(self, parameters: np.ndarray) -> None:
        """
        Show newer parameters.

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
        :param progress: share of the training that is done, 0 to 1
        """
        self._progress[0] = progress

    def grant(self, process: int, n_handovers: int) -> None:
        """
        :param process: index of an actor process
        :param n_handovers: handovers that it may have begun since the start
        """
        self._credit[process] = n_handovers

    def retire(self, slot: int) -> None:
        """
        :param slot: prior slot that is to become a nature slot at its next episode
        """
        self._nature[slot] = 1

    def stop(self) -> None:
        """Ask the actors to end."""
        self._words[self._STOP] = 1

    # The actors' side.

    @property
    def version(self) -> int:
        """Number of the newest parameters; 0 before the first."""
        return int(self._words[self._VERSION])

    def read(self, out: np.ndarray) -> int:
        """
        Copy the newest parameters.

        :param out: ``(n_parameters,)`` float32, written
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
        """Share of the training that is done, 0 to 1."""
        return float(self._progress[0])

    def credit(self, process: int) -> int:
        """
        :param process: index of an actor process
        :return: handovers that it may have begun
        """
        return int(self._credit[process])

    @property
    def stopped(self) -> bool:
        """The actors are to end."""
        return bool(self._words[self._STOP])

    def retired(self, slot: int) -> bool:
        """
        :param slot: a slot
        :return: whether its prior is to be replaced
        """
        return bool(self._nature[slot])
