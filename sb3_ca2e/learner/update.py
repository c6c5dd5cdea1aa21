"""An algorithm's update, written once, run eagerly or compiled."""

import functools
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from torch import nn
from torch.fx import GraphModule

from sb3_ca2e.common.network_parts import NetworkParts
from sb3_ca2e.learner.compiled_update import FlatUpdate, Loss, Result, obstacle_to_compiling
from sb3_ca2e.learner.compiler import compile_graph, import_what_warns
from sb3_ca2e.learner.cuda_graph import CudaGraph
from sb3_ca2e.learner.graphed_updates import FusedUpdates
from sb3_ca2e.replay.memory import PrioritizedReplayBuffer
from sb3_ca2e.replay.n_step import PRIORITY_FLOOR
from sb3_ca2e.replay.samples import PrioritizedReplaySamples

#: Held while a model is traced and compiled: tracers patch ``nn.Module`` for all threads and restore it later.
_COMPILING = threading.Lock()
_TINY, _ONE = np.float32(1e-40), np.float32(1.0)
#: Updates skipped in a row, for a loss or gradient that is not finite, after which learning is given up.
MOST_SKIPPED = 100


@contextmanager
def tiny_numbers_are_zero() -> Iterator[None]:
    """
    Flush float32 subnormal numbers (below 1.2e-38) to zero in this thread.

    Weights of units that never fire shrink to such numbers, with which processors compute much more slowly.
    """
    was_so = _TINY * _ONE == 0.0
    th.set_flush_denormal(True)
    try:
        yield
    finally:
        th.set_flush_denormal(bool(was_so))


class Networks(Protocol):
    """
    The interface that an algorithm's update uses, so that the same code runs eagerly and compiled.

    Networks are called by name: ``networks("critic")(observations, actions)``.
    """

    def __call__(self, name: str) -> Any: ...

    def optimize(self, name: str, loss: Loss, max_grad_norm: float | None = None) -> tuple[th.Tensor, Any]:
        """
        Make one optimizer step of a network.

        If the loss or its gradient is not finite, this step and all later ones of the same update are skipped.

        :param name: name of the network
        :param loss: function of the network that returns the loss and any other results
        :param max_grad_norm: norm to which the gradient is clipped, or None
        :return: the detached loss, and the other results of ``loss``
        """

    def polyak_update(self, target: str, online: str, tau: float) -> None:
        """
        Move a target network towards another: theta^- <- tau theta + (1 - tau) theta^-.

        Buffers, such as BatchNorm's statistics, are copied.

        :param target: name of the target network
        :param online: name of the network that it follows
        :param tau: step size
        """


class EagerNetworks:
    """
    Networks and optimizers of any kind. Unlike compiled updates, checking that losses are finite waits for the device.

    :param modules: networks by name
    :param optimizers: optimizers by the name of their network
    """

    def __init__(self, modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]):
        self.modules, self.optimizers = modules, optimizers
        #: whether all losses and gradients of this update have been finite so far
        self.sound = True
        self._find()

    def look(self) -> None:
        """Find the networks' tensors again if they have been replaced."""
        if self._parts.replaced():
            self._find()

    def _find(self) -> None:
        self._parts = NetworkParts(self.modules.values())
        self._parameters: dict[str, list[th.Tensor]] = {
            name: list(module.parameters()) for name, module in self.modules.items()
        }
        self._buffers: dict[str, list[th.Tensor]] = {
            name: list(module.buffers()) for name, module in self.modules.items()
        }

    def __call__(self, name: str) -> nn.Module:
        return self.modules[name]

    def optimize(self, name: str, loss: Loss, max_grad_norm: float | None = None) -> tuple[th.Tensor, Any]:
        value, others = loss(self.modules[name])
        optimizer = self.optimizers[name]
        owned = (parameter for group in optimizer.param_groups for parameter in group["params"])
        parameters = dict.fromkeys([*self._parameters[name], *owned])
        for parameter in parameters:
            parameter.grad = None
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        value.backward(inputs=trained or None)  # no gradients for the other networks in the loss
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        # The norm shows it: it is finite if all gradients are, and if their squares don't overflow
        self.sound = self.sound and math.isfinite(norm + float(value.detach()))
        if self.sound:
            if max_grad_norm is not None and norm + 1e-6 > max_grad_norm:  # as nn.utils.clip_grad_norm_()
                th._foreach_mul_(gradients, max_grad_norm / (norm + 1e-6))
            optimizer.step()
        return value.detach(), others

    def polyak_update(self, target: str, online: str, tau: float) -> None:
        if not self.sound:
            return
        with th.no_grad():
            if following := self._parameters[target]:
                th._foreach_lerp_(following, self._parameters[online], tau)
            # Statistics of BatchNorm, as in SB3 (GH issue #996 there), and buffers of other layers
            for buffer, kept in zip(self._buffers[online], self._buffers[target], strict=True):
                kept.copy_(buffer)


class Updated(NamedTuple):
    """
    Results of an update for its batch.

    :param td_errors: ``(batch,)`` TD errors
    :param priorities: ``(batch,)`` absolute TD errors plus a small constant
    """

    td_errors: th.Tensor
    priorities: th.Tensor


class Compiled(NamedTuple):
    """
    A compiled update.

    :param key: batch size, device, whether actions are masked, and settings that it is valid for
    :param operations: function from :meth:`FlatUpdate.inputs` to TD errors and priorities
    :param run: the same function, on a GPU as one CUDA graph
    """

    key: tuple[Any, ...]
    operations: Callable[..., tuple[th.Tensor, ...]]
    run: Callable[..., tuple[th.Tensor, ...]]


def _kind(batch: PrioritizedReplaySamples) -> tuple[int, th.device, bool]:
    """Return a batch's size and device, and whether it has action masks."""
    return batch.rewards.shape[0], batch.rewards.device, batch.action_masks is not None


class Learner:
    """
    Runs an algorithm's update, eagerly at first, and compiled once a compiler in another thread has finished.

    :param update: the algorithm's update
    :param modules: all networks that the update names
    :param optimizers: optimizers by the name of their network
    :param settings: returns everything else that the update depends on; a compiled update is valid for one value
    """

    def __init__(
        self,
        update: Callable[[Any, PrioritizedReplaySamples], Result],
        modules: dict[str, nn.Module],
        optimizers: dict[str, th.optim.Optimizer],
        settings: Callable[[], tuple[Any, ...]] = tuple,
    ):
        self._update, self._settings = update, settings
        self._eager = EagerNetworks(modules, optimizers)
        self._sums: dict[str, float] = {}  # of the eager updates since they were last read
        self._n_updates = 0
        #: number of updates skipped for a loss or gradient that is not finite, as of the last read
        self.n_skipped = 0
        self._skipped = self._skipped_in_a_row = 0  # eager updates since then
        self._flat: FlatUpdate | None = None
        self._compiler: threading.Thread | None = None
        self._compiled: Compiled | None = None
        self._fused: FusedUpdates | None = None
        #: why updates stay eager, or None
        self.obstacle = obstacle_to_compiling(modules, optimizers)
        self._obstacle_told = False

    def learns(self, modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]) -> bool:
        """
        Check whether this object still updates the given networks.

        :param modules: as given to the constructor
        :param optimizers: as given to the constructor
        :return: whether they are the same, and unchanged since they were compiled
        """
        if modules != self._eager.modules or optimizers != self._eager.optimizers:
            return False
        self._eager.look()
        return self._flat is None or self._flat.holds()

    def update(self, batch: PrioritizedReplaySamples) -> Updated:
        """
        Make one update.

        :param batch: batch to learn from
        :return: TD errors and new priorities of the batch
        """
        self._n_updates += 1
        # Use the shape, as len() of a tensor is slow Python code, and only when updates are compiled.
        if self._compiled is not None and (compiled := self._compiled_for(*_kind(batch))):
            assert self._flat is not None
            self._skipped_in_a_row = 0
            return Updated(*compiled.run(*self._flat.inputs(batch)))
        self._eager.sound = True
        td_errors, metrics = self._update(self._eager, batch)
        sound = self._eager.sound
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + (float(value) if sound else 0.0)
        self._skipped += not sound
        self._skipped_in_a_row = 0 if sound else self._skipped_in_a_row + 1
        if self._flat is not None:
            self._flat.stepped_elsewhere()
        return Updated(td_errors, td_errors.abs() + PRIORITY_FLOOR)

    def fused(
        self, memory: PrioritizedReplayBuffer, batch_size: int
    ) -> Callable[[int], tuple[PrioritizedReplaySamples, th.Tensor]] | None:
        """
        Return whole updates, including sampling and new priorities, in one launch.

        :param memory: memory to learn from
        :param batch_size: number of transitions in an update
        :return: function that makes a number of updates and returns the last batch and its ``(batch,)`` TD errors; None
            unless the memory is on the learner's device and updates are compiled
        """
        if memory.device_storage is None:
            return None
        compiled = self._compiled_for(batch_size, memory.device, memory.masked)
        if compiled is None:
            return None
        assert self._flat is not None
        if self._fused is None or not self._fused.hold(memory, batch_size):
            flat, operations = self._flat, compiled.operations
            self._fused = FusedUpdates(
                memory, batch_size, lambda batch: operations(*flat.inputs(batch)), self._flat.state
            )
        return functools.partial(self._update_fused, self._fused)

    def _update_fused(self, fused: FusedUpdates, n_updates: int) -> tuple[PrioritizedReplaySamples, th.Tensor]:
        self._n_updates += n_updates
        return fused(n_updates)

    def take_metrics(self) -> dict[str, float]:
        """
        Read and reset the logged scalars.

        :return: means over the updates since the last call that were not skipped; empty if there were none
        :raises FloatingPointError: if too many updates in a row were skipped
        """
        if self._n_updates == 0:
            return {}
        sums, skipped, in_a_row = self._sums, self._skipped, self._skipped_in_a_row
        if self._compiled and self._flat:
            values, flat_skipped, flat_in_a_row = self._flat.take_sums()
            sums = {name: sums[name] + value for name, value in zip(sums, values, strict=True)}
            skipped, in_a_row = skipped + flat_skipped, in_a_row + flat_in_a_row
        self._sums = dict.fromkeys(self._sums, 0.0)
        n_updates = self._n_updates - skipped
        self._n_updates = self._skipped = 0
        self.n_skipped += skipped
        if in_a_row >= MOST_SKIPPED:
            raise FloatingPointError(
                f"The last {in_a_row} updates were skipped, as their losses or gradients were not finite; the networks "
                "have not changed since. Lower learning_rate, bound rewards and observations, or resume an earlier "
                "checkpoint."
            )
        return {name: value / n_updates for name, value in sums.items()} if n_updates > 0 else {}

    @property
    def compiled(self) -> bool:
        """Whether compiled updates run."""
        return self._compiled is not None

    def compile(
        self, batch: PrioritizedReplaySamples, wait: bool = False, tell: Callable[[str], None] | None = None
    ) -> None:
        """
        Start the compiler, once, unless another model of this process is being compiled; updates continue meanwhile.

        :param batch: example batch; all batches must be like it. An update must have been made, so that the optimizers
            have states
        :param wait: whether to wait until it has finished
        :param tell: called once with the reason, if updates stay eager
        """
        if self._flat is None and self.obstacle is None and self._eager.sound and _COMPILING.acquire(blocking=wait):
            try:
                self._start_compiler(batch)
            finally:
                if self._compiler is None:
                    _COMPILING.release()
        if wait and self._compiler is not None:
            self._compiler.join()
        if tell is not None and self.obstacle is not None and not self._obstacle_told:
            self._obstacle_told = True
            tell(self.obstacle)

    def _start_compiler(self, batch: PrioritizedReplaySamples) -> None:
        # Not in the compiler's thread: tracing and importing temporarily change state of all threads.
        with self._obstacles_noted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer
            import_what_warns()
            modules, optimizers = self._eager.modules, self._eager.optimizers
            self.obstacle = obstacle_to_compiling(modules, optimizers)
            if self.obstacle is not None:  # since the constructor
                return
            self._flat = FlatUpdate(self._update, modules, optimizers, list(self._sums), PRIORITY_FLOOR)
            if not self._flat.update_state():
                raise ValueError("some parameters are not part of the loss, or have made fewer steps than others")
            graph = self._flat.trace(batch)
        if self.obstacle is None:
            key = self._key(*_kind(batch))
            arguments = key, graph, [*self._flat.state, *self._flat.inputs(batch)]
            # Not a daemon: scripts wait for it at their end, as Python would otherwise abort within PyTorch's C++ code.
            compiler = threading.Thread(target=self._compile, args=arguments, name="compile")
            compiler.start()
            self._compiler = compiler

    def _key(self, batch_size: int, device: th.device, masked: bool) -> tuple[Any, ...]:
        return batch_size, device, masked, *self._settings()

    def _compiled_for(self, batch_size: int, device: th.device, masked: bool) -> Compiled | None:
        """Return the compiled update if it is valid for such batches, with the optimizers' current states."""
        if self._compiled is None or self._flat is None or self._compiled.key != self._key(batch_size, device, masked):
            return None
        return self._compiled if self._flat.update_state() else None

    def _compile(self, key: tuple[Any, ...], graph: GraphModule, inputs: list[Any]) -> None:
        try:
            with self._obstacles_noted():
                assert self._flat is not None
                on_cuda = key[1].type == "cuda"
                # The key and FlatUpdate.inputs() guarantee shapes and strides.
                operations = functools.partial(compile_graph(graph, inputs, on_cuda), *self._flat.state)
                self._compiled = Compiled(
                    key, operations, CudaGraph(operations, self._flat.state) if on_cuda else operations
                )
        finally:
            _COMPILING.release()

    @contextmanager
    def _obstacles_noted(self) -> Iterator[None]:
        """Note why networks can't be compiled; learning continues eagerly."""
        try:
            yield
        except Exception as error:  # the compiler and custom networks may raise anything
            self.obstacle = f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"
