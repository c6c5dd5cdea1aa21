"""The parameters of several networks as one array."""

import numpy as np
import torch as th

from sb3_ca2e.common.transfers import pinned


class FlatParameters:
    """
    The floating-point parameters and buffers of several modules as one vector.

    :param modules: modules by name
    """

    def __init__(self, modules: dict[str, th.nn.Module]):
        self.follow(modules)
        self.size = sum(tensor.numel() for tensor in self._tensors)

    def follow(self, modules: dict[str, th.nn.Module]) -> None:
        """
        Read other modules from now on.

        :param modules: modules by name, with parameters of the same shapes
        """
        tensors = [tensor for module in modules.values() for tensor in (*module.parameters(), *module.buffers())]
        self._tensors = list({id(tensor): tensor for tensor in tensors if tensor.is_floating_point()}.values())

    @property
    def device(self) -> th.device:
        """Device of the first parameter; the CPU if there are none."""
        return self._tensors[0].device if self._tensors else th.device("cpu")

    def flat(self) -> th.Tensor:
        """
        Copy the parameters on their device.

        :return: ``(size,)`` float32
        """
        return th.cat([tensor.detach().reshape(-1).float() for tensor in self._tensors])

    def get(self) -> np.ndarray:
        """
        Copy the parameters to the CPU.

        :return: ``(size,)`` float32
        """
        return self.flat().cpu().numpy()

    def copy_from(self, others: "FlatParameters") -> None:
        """
        Copy the parameters of other copies of the modules, without synchronising with the device.

        :param others: parameters to copy
        """
        with th.no_grad():
            th._foreach_copy_(self._tensors, others._tensors)

    def equal(self, others: "FlatParameters") -> bool:
        """
        Compare bit by bit with the parameters of other copies of the modules; NaN equals NaN.

        :param others: parameters on the same device
        :return: whether all are equal
        """
        pairs = zip(self._tensors, others._tensors, strict=True)
        return all(th.equal(*(each.detach().float().view(th.int32) for each in pair)) for pair in pairs)

    def bind(self, extra: int = 0) -> np.ndarray:
        """
        Move the modules' tensors into one vector; writing to it changes them all.

        :param extra: additional elements to reserve at the end
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
    Fetches copies of the learner's parameters for actors in other processes.

    Parameters on a GPU are copied asynchronously: reading their current values would wait until the GPU has finished
    all pending work.

    :param parameters: the learner's parameters
    :param every: start a copy at every ``every``-th call of :meth:`newer`, as actors don't read each copy; 0 waits for
        the current values at each call
    """

    def __init__(self, parameters: FlatParameters, every: int):
        self._parameters, self._every = parameters, every if parameters.device.type == "cuda" else 0
        self._asked = 0
        self._copy: th.Tensor | None = None
        self._arrived: th.cuda.Event | None = None

    def newer(self) -> np.ndarray | None:
        """
        Return parameters newer than those returned last, if any.

        :return: ``(size,)`` float32, or None if there are no newer ones yet
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
