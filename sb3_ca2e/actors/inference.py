"""One forward pass for all slots of a process, with as little overhead as the networks allow."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

from sb3_ca2e.actors.steps import ActorCore, Steps

#: Passes through the modules themselves before they are traced, which takes as long as a thousand of them.
TRACE_AFTER = 100


class Inference:
    """
    What the networks say about observations.

    Most of the time that a small network takes is Python's, from layer to layer. Once the batches of all slots have
    come often enough, they go through a trace: the same operations on the same parameters, without the Python between
    them. It has to give exactly what the modules give whenever there are newer parameters; networks that can't be
    traced, or that decide by what they see, stay as they are.

    :param behaviour: the algorithm's hooks
    :param modules: the networks, whose parameters may change in place
    :param n_slots: batches of other sizes go through the modules
    :param trace_after: passes through the modules before they are traced
    """

    def __init__(self, core: ActorCore, modules: dict[str, th.nn.Module], n_slots: int, trace_after: int = TRACE_AFTER):
        self._trace_after = trace_after
        self._core, self._modules, self._n_slots = core, modules, n_slots
        self._passes = 0
        self._trace: Callable[[Any], tuple[th.Tensor, th.Tensor]] | None = None
        self._parameters_changed = False

    @property
    def traced(self) -> bool:
        """Whether batches of all slots go through a trace."""
        return self._trace is not None

    def trace(self, observations: Any) -> None:
        """
        Trace the networks now. For the main thread of a process, as it keeps back the tracer's warnings: no thread can
        do that for itself alone.

        :param observations: ``(n_slots, ...)`` as they will come
        """
        self._passes = max(self._passes, self._trace_after)
        self._trace = _traced(self._core, self._modules, observations)
        self._parameters_changed = True  # it has yet to prove itself

    def parameters_changed(self) -> None:
        """The parameters are others now: a trace has to prove itself again."""
        self._parameters_changed = True

    def __call__(self, observations: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """
        :param observations: ``(batch_size, ...)`` a tensor, or a dictionary of them; of the same types each time
        :param batch_size: number of observations
        :return: greedy actions, and what the algorithm keeps beside them for the priorities
        """
        if batch_size != self._n_slots:
            actions, outputs = self._core.act(self._modules, observations)
        elif self._trace is None or self._parameters_changed:
            actions, outputs = self._core.act(self._modules, observations)
            self._passes += 1
            if self._passes == self._trace_after:
                self.trace(observations)
            if self._trace is not None and not _same(self._trace(observations), (actions, outputs)):
                self._trace = None
            self._parameters_changed = False
        else:
            actions, outputs = self._trace(observations)
        return actions.cpu().numpy(), outputs.cpu().numpy()

    def evaluate(self, steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        :param steps: blocks of some slots
        :return: ``(rows,)`` q(s, a) and ``(rows,)`` the value of s
        """
        return self._core.evaluate(self._modules, steps)


class _Act(th.nn.Module):
    """A behaviour as a module, which is what can be traced."""

    def __init__(self, core: ActorCore, modules: dict[str, th.nn.Module]):
        super().__init__()
        self.core, self.networks = core, th.nn.ModuleDict(modules)

    def forward(self, observations: Any) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: ``(batch, ...)``
        :return: what the behaviour makes of them
        """
        return self.core.act(dict(self.networks.items()), observations)


def _traced(
    core: ActorCore, modules: dict[str, th.nn.Module], observations: Any
) -> Callable[[Any], tuple[th.Tensor, th.Tensor]] | None:
    """The trace of a pass, None if there can be none."""
    random_state = th.get_rng_state()
    try:
        # Of the same parameters; what else a network keeps in Python is not to notice.
        tensors = [tensor for module in modules.values() for tensor in (*module.parameters(), *module.buffers())]
        act = _Act(core, copy.deepcopy(modules, {id(tensor): tensor for tensor in tensors})).train(False)
        with warnings.catch_warnings():
            # PyTorch would rather see a compiler used, which takes seconds where this takes milliseconds.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", th.jit.TracerWarning)  # the trace would depend on what was traced
            trace = th.jit.trace(act, (observations,), check_trace=False)
            # Fused code is no faster on so little work, and takes longer to prepare than all the rest.
            fused = th.jit.set_fusion_strategy([])
            try:
                for _ in range(3):  # the first passes are slow: it optimises itself
                    trace(observations)
            finally:
                th.jit.set_fusion_strategy(fused)
    except Exception:  # whatever networks of a user's own may raise: they can be used as they are
        return None
    finally:
        th.set_rng_state(random_state)
    return trace.forward  # type: ignore[no-any-return]  # to call the module takes a tenth longer


def _same(ours: tuple[th.Tensor, ...], theirs: tuple[th.Tensor, ...]) -> bool:
    return len(ours) == len(theirs) and all(th.equal(*pair) for pair in zip(ours, theirs, strict=True))
