"""
What the learner tells the actors: a board in shared memory, and the parameters of networks as one vector.

No lock is ever shared: only the learner writes the board.
"""

import numpy as np
import torch as th

from sb3_ca2e.actors.transport import map_file
from sb3_ca2e.transfers import pinned


class Board:
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

    def republish(self, version: int, parameters: np.ndarray) -> None:
        """
        Show what another board showed.

        :param version: its version
        :param parameters: ``(n_parameters,)`` float32
        """
        self._words[self._VERSION] = version - 1
        self.publish(parameters)

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


class FlatParameters:
    """
    The floating-point parameters and buffers of some modules as one vector.

    :param modules: the modules
    """

    def __init__(self, modules: dict[str, th.nn.Module]):
        tensors = [tensor for module in modules.values() for tensor in (*module.parameters(), *module.buffers())]
        self._tensors = list({id(tensor): tensor for tensor in tensors if tensor.is_floating_point()}.values())
        self.size = sum(tensor.numel() for tensor in self._tensors)

    @property
    def device(self) -> th.device:
        """Where the first of them is; the CPU if there are none."""
        return self._tensors[0].device if self._tensors else th.device("cpu")

    def flat(self) -> th.Tensor:
        """
        :return: ``(size,)`` float32, a copy where they are
        """
        return th.cat([tensor.detach().reshape(-1).float() for tensor in self._tensors])

    def get(self) -> np.ndarray:
        """
        :return: ``(size,)`` float32
        """
        return self.flat().cpu().numpy()

    def copy_from(self, others: "FlatParameters") -> None:
        """
        Take over the parameters of other copies of the modules, without asking their device for a number.

        :param others: they
        """
        with th.no_grad():
            th._foreach_copy_(self._tensors, others._tensors)

    def equal(self, others: "FlatParameters") -> bool:
        """
        :param others: of other copies of the modules, on the same device
        :return: whether all are the same; NaN is no other than before
        """
        pairs = zip(self._tensors, others._tensors, strict=True)
        return all(th.equal(*(each.detach().float().view(th.int32) for each in pair)) for pair in pairs)

    def bind(self, extra: int = 0) -> np.ndarray:
        """
        Lay the modules' tensors into one vector, so that writing it changes them all.

        :param extra: numbers to have room for behind them
        :return: ``(size + extra,)`` float32, shared with the modules
        """
        flat = th.zeros(self.size + extra)
        offset = 0
        for tensor in self._tensors:
            part = flat[offset : offset + tensor.numel()].view(tensor.shape)
            tensor.data = part.copy_(tensor.detach())
            offset += tensor.numel()
        return flat.numpy()


class Fetched:
    """
    Copies of the learner's parameters, for actors in other processes. Those on a GPU are fetched while it goes on: to
    ask for them as they are now would be to wait until it has done all that it was told.

    :param parameters: the learner's
    :param every: begin to fetch every so many times that it is asked, as actors don't look at each copy; 0 to wait for
        what they are now each time
    """

    def __init__(self, parameters: FlatParameters, every: int):
        self._parameters, self._every = parameters, every if parameters.device.type == "cuda" else 0
        self._asked = 0
        self._copy: th.Tensor | None = None
        self._arrived: th.cuda.Event | None = None

    def newer(self) -> np.ndarray | None:
        """
        :return: ``(size,)`` float32, None while there are none that are newer than those given last
        """
        if self._every == 0:
            return self._parameters.get()
        if self._copy is None:
            first = self._parameters.get()
            self._copy = pinned(first)
            return first
        self._asked += 1
        if self._arrived is not None and self._arrived.query():
            self._arrived = None
            return self._copy.numpy().copy()
        if self._arrived is None and self._asked % self._every == 0:
            self._copy.copy_(self._parameters.flat(), non_blocking=True)
            self._arrived = th.cuda.Event()
            self._arrived.record(th.cuda.current_stream(self._parameters.device))
        return None
