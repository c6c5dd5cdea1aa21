"""
Whole updates on the device that holds the memory: sampling, learning and new priorities, several updates in one launch.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch as th

from sb3_ca2e.learner.cuda_graph import CudaGraph, Record
from sb3_ca2e.replay.memory import PrioritizedReplayBuffer
from sb3_ca2e.replay.rows import Rows
from sb3_ca2e.replay.samples import PrioritizedReplaySamples

#: Possible numbers of updates in one launch; each number in use has its own recording.
AT_ONCE = (16, 8, 4, 2, 1)


def launches(n_updates: int) -> Iterator[int]:
    """
    Split updates into launches, as large as possible.

    :param n_updates: number of updates
    :return: number of updates of each launch
    """
    for at_once in AT_ONCE:
        while n_updates >= at_once:
            n_updates -= at_once
            yield at_once


class FusedUpdates:
    """
    Updates that a device makes without synchronising with the host between them.

    :param memory: memory on the device
    :param batch_size: number of transitions in an update
    :param update: function of a batch that returns ``(batch,)`` TD errors and ``(batch,)`` float64 priorities
    :param state: tensors that the update writes
    :param record: how to record, as in :class:`~sb3_ca2e.learner.cuda_graph.CudaGraph`; None for a CUDA graph on a GPU,
        and for no recording on other devices
    """

    def __init__(
        self,
        memory: PrioritizedReplayBuffer,
        batch_size: int,
        update: Callable[[PrioritizedReplaySamples], Sequence[th.Tensor]],
        state: Sequence[th.Tensor],
        record: Record | None = None,
    ):
        self._key = _taken_for_granted(memory, batch_size)
        # Weak: if the user replaces or empties the memory, its space must be freed at once.
        self._memory: PrioritizedReplayBuffer = weakref.proxy(memory)
        self._batch_size, self._update, self._record = batch_size, update, record
        self._state = [*state, *self._storage.priority_tensors()]
        self._recorded = record is not None or memory.device.type == "cuda"
        self._runs: dict[int, Callable[[th.Tensor], tuple[th.Tensor, ...]]] = {}
        self._batch: PrioritizedReplaySamples | None = None

    @property
    def _storage(self) -> Rows:
        storage = self._memory.device_storage
        assert storage is not None
        return storage

    def hold(self, memory: PrioritizedReplayBuffer, batch_size: int) -> bool:
        """
        Check whether these updates are still valid.

        :param memory: memory to learn from
        :param batch_size: number of transitions in an update
        :return: whether the memory is the same, at the same place and with the same settings
        """
        return _taken_for_granted(memory, batch_size) == self._key

    def __call__(self, n_updates: int) -> tuple[PrioritizedReplaySamples, th.Tensor]:
        """
        Make updates.

        :param n_updates: number of updates, one of ``AT_ONCE``
        :return: the last batch and its ``(batch,)`` TD errors, overwritten by the next call
        """
        if n_updates not in self._runs:
            recorded = self._recorded
            self._runs[n_updates] = CudaGraph(self._updates, self._state, self._record) if recorded else self._updates
        td_errors, *tensors = self._runs[n_updates](self._memory.draw_uniforms(n_updates, self._batch_size))
        self._storage.report_written()
        assert self._batch is not None
        return self._batch.holding(tensors), td_errors

    def _updates(self, numbers: th.Tensor) -> tuple[th.Tensor, ...]:
        """The recorded function: Algorithm 3 of the paper, once for each row of random numbers."""
        memory, storage = self._memory, self._storage
        draws, beta = numbers[:-1].view(-1, self._batch_size), numbers[-1]
        for numbers_of_batch in draws:
            batch = memory.sample_from_uniforms(numbers_of_batch, beta)
            td_errors, priorities = self._update(batch)
            storage.write_priorities(batch.indices, batch.generations, priorities, memory.alpha)
        self._batch = batch  # tells the fields of the returned tensors
        return td_errors, *batch.tensors()


def _taken_for_granted(memory: PrioritizedReplayBuffer, batch_size: int) -> tuple[Any, ...]:
    """Return what a recording relies on. A memory that was emptied or moved has another tree."""
    storage = memory.device_storage
    tree = None if storage is None else storage.priorities
    return tree, batch_size, memory.n_steps, memory.gamma, memory.alpha
