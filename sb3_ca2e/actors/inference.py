"""Forward passes for all slots of a process at once, and what goes in."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch as th

from sb3_ca2e.envs.normalization import Normalizer
from sb3_ca2e.replay.block import Frames, ObservationColumn, plain
from sb3_ca2e.replay.stacks import stacked

#: Passes through the modules before they are traced; tracing takes as long as a thousand passes.
TRACE_AFTER = 100


@dataclass
class Steps:
    """
    Blocks of slots as network input for :meth:`ActorCore.evaluate`, one after another.

    The rows of each block are followed by one for the frame that closes it.

    :param frames: for each block, by key ``(lead + n_rows + 1, *frame_shape)``
    :param ages: for each block ``(n_rows + 1,)``
    :param columns: how observations are stacked
    :param normalizer: the learner's normalisation, or None
    :param actions: ``(rows, action_dim)``, zero where no step was taken
    :param outputs: ``(rows, ...)`` outputs that :meth:`ActorCore.act` returned with the actions
    :param action_masks: ``(rows, n_actions)`` bool, which actions each observation allows; None without action masks
    """

    frames: list[Frames]
    ages: list[np.ndarray]
    columns: dict[str, ObservationColumn]
    normalizer: Normalizer | None
    actions: th.Tensor
    outputs: th.Tensor
    action_masks: th.Tensor | None = None

    @cached_property
    def observations(self) -> Any:
        """``(rows, ...)`` observations, built only for algorithms that need them."""
        blocks = list(zip(self.frames, self.ages, strict=True))
        batch = {
            key: np.concatenate([stacked(frames[key], ages, column) for frames, ages in blocks])
            for key, column in self.columns.items()
        }
        return as_tensors(batch, np.concatenate(self.ages), self.columns, self.normalizer)


def as_tensors(
    batch: Frames, ages: np.ndarray, columns: dict[str, ObservationColumn], normalizer: Normalizer | None
) -> Any:
    """
    Convert observations to network input.

    :param batch: by key ``(batch, *shape)`` raw observations
    :param ages: ``(batch,)`` number of preceding frames of the episode
    :param columns: how observations are stored
    :param normalizer: the learner's normalisation, or None
    :return: a tensor or a dictionary of tensors
    """
    if normalizer is not None:
        batch = normalizer.observations(batch, ages, columns)
    tensors: dict[str, Any] = {key: th.as_tensor(array) for key, array in batch.items()}
    return plain(tensors)


class ActorCore(Protocol):
    """
    The hooks of an algorithm that run in actors; see :class:`~sb3_ca2e.algorithms.base.CA2EMixin`.

    With action masks, ``act`` has a third parameter for them.
    """

    @staticmethod
    def act(modules: dict[str, Any], observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]: ...

    @staticmethod
    def evaluate(modules: dict[str, Any], steps: Steps) -> tuple[th.Tensor, th.Tensor]: ...


class Inference:
    """
    Forward passes of the networks, with little overhead.

    In a small network, most of the time is Python's overhead between layers. After enough batches of all slots, the
    modules are replaced by a trace: the same operations on the same parameters without Python. After each change of the
    parameters, the trace must reproduce the modules' results exactly; otherwise, or if a network can't be traced, the
    modules are used.

    :param core: the algorithm's actor hooks
    :param modules: the networks; their parameters may change in place
    :param n_slots: batch size for which the trace is used; other batches go through the modules
    :param trace_after: passes through the modules before they are traced
    """

    def __init__(self, core: ActorCore, modules: dict[str, th.nn.Module], n_slots: int, trace_after: int = TRACE_AFTER):
        self._trace_after = trace_after
        self._core, self._modules, self._n_slots = core, modules, n_slots
        self._act: Callable[..., tuple[th.Tensor, th.Tensor]] = partial(core.act, modules)
        self._passes = 0
        self._trace: Callable[..., tuple[th.Tensor, th.Tensor]] | None = None
        self._parameters_changed = False

    @property
    def traced(self) -> bool:
        """Whether batches of all slots go through a trace."""
        return self._trace is not None

    def trace(self, *given: Any) -> None:
        """
        Trace the networks now.

        Call it in the main thread: it suppresses the tracer's warnings, which is not possible for a single thread.

        :param given: ``(n_slots, ...)`` example batch, and its action masks if there are any
        """
        self._passes = max(self._passes, self._trace_after)
        self._trace = _traced(self._core, self._modules, given)
        self._parameters_changed = True  # not yet compared with the modules

    def parameters_changed(self) -> None:
        """Note that the parameters have changed: the trace must be checked again."""
        self._parameters_changed = True

    def __call__(
        self, observations: Any, batch_size: int, action_masks: th.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Compute greedy actions.

        :param observations: ``(batch_size, ...)`` a tensor, or a dictionary of them; of the same types in each call
        :param batch_size: number of observations
        :param action_masks: ``(batch_size, n_actions)`` bool, which actions are allowed, in each call or in none
        :return: greedy actions, and the outputs that the algorithm keeps for the priorities
        """
        given = (observations,) if action_masks is None else (observations, action_masks)
        if batch_size != self._n_slots:
            actions, outputs = self._act(*given)
        elif self._trace is None or self._parameters_changed:
            actions, outputs = self._act(*given)
            self._passes += 1
            if self._passes == self._trace_after:
                self.trace(*given)
            if self._trace is not None and not _same(self._trace(*given), (actions, outputs)):
                self._trace = None
            self._parameters_changed = False
        else:
            actions, outputs = self._trace(*given)
        return actions.cpu().numpy(), outputs.cpu().numpy()

    def evaluate(self, steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the values that priorities need.

        :param steps: blocks of some slots
        :return: ``(rows,)`` q(s, a) and ``(rows,)`` the value of s
        """
        return self._core.evaluate(self._modules, steps)


class _Act(th.nn.Module):
    """The actor hooks as a module: only modules can be traced."""

    def __init__(self, core: ActorCore, modules: dict[str, th.nn.Module]):
        super().__init__()
        self.core, self.networks = core, th.nn.ModuleDict(modules)

    def forward(self, *given: Any) -> tuple[th.Tensor, th.Tensor]:
        """
        Call the algorithm's ``act``.

        :param given: ``(batch, ...)`` observations, and action masks if there are any
        :return: the result of :meth:`ActorCore.act`
        """
        return self.core.act(dict(self.networks.items()), *given)


def _traced(
    core: ActorCore, modules: dict[str, th.nn.Module], given: tuple[Any, ...]
) -> Callable[..., tuple[th.Tensor, th.Tensor]] | None:
    """Trace a forward pass; None if it can't be traced."""
    random_state = th.get_rng_state()
    try:
        # Share the parameters but copy the modules: tracing must not change other attributes of a network.
        tensors = [tensor for module in modules.values() for tensor in (*module.parameters(), *module.buffers())]
        act = _Act(core, copy.deepcopy(modules, {id(tensor): tensor for tensor in tensors})).train(False)
        with warnings.catch_warnings():
            # PyTorch recommends its compiler, which takes seconds where this takes milliseconds.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", th.jit.TracerWarning)  # the trace would depend on the example
            trace = th.jit.trace(act, given, check_trace=False)
            # Fused code is no faster on small networks and takes longest to prepare.
            fused = th.jit.set_fusion_strategy([])
            try:
                for _ in range(3):  # the first passes optimise the trace and are slow
                    trace(*given)
            finally:
                th.jit.set_fusion_strategy(fused)
    except Exception:  # custom networks may raise anything; the modules are used then
        return None
    finally:
        th.set_rng_state(random_state)
    return trace.forward  # type: ignore[no-any-return]  # calling the module takes 10 % longer


def _same(ours: tuple[th.Tensor, ...], theirs: tuple[th.Tensor, ...]) -> bool:
    return len(ours) == len(theirs) and all(th.equal(*pair) for pair in zip(ours, theirs, strict=True))
