"""The parameters of several networks as one array."""

import numpy as np
import torch as th

from sb3_ca2e.common.transfers import pinned


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
