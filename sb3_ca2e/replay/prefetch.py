"""Batches that are copied to a GPU while it learns from the one before, where the memory does not fit beside it."""

from collections.abc import Callable, Hashable

import torch as th

from sb3_ca2e.replay.samples import PrioritizedReplaySamples

#: Makes a batch on the CPU.
Draw = Callable[[], PrioritizedReplaySamples]


class Prefetch:
    """
    Keeps one batch ahead. It is drawn, and on its way, while the device is busy with the one before: so it does not yet
    know the priorities that come of that, nor what is stored until it is used.

    :param device: where batches go
    """

    def __init__(self, device: th.device):
        self.device = device
        self._stream = th.cuda.Stream(device) if device.type == "cuda" else None
        self._next: tuple[Hashable, PrioritizedReplaySamples] | None = None
        self._last: tuple[Hashable, Draw] | None = None

    def take(self, key: Hashable, draw: Draw) -> PrioritizedReplaySamples:
        """
        :param key: what the batch depends on, beside the memory: another one makes a new batch
        :param draw: how to make one
        :return: the batch kept ahead, or a new one, on the device
        """
        if self._next is None or self._next[0] != key:
            self._next = key, self._copied(draw())
        batch, self._next, self._last = self._next[1], None, (key, draw)
        if self._stream is not None:
            learner = th.cuda.current_stream(self.device)
            learner.wait_stream(self._stream)
            for tensor in batch.tensors():
                tensor.record_stream(learner)  # not to be written to again before the learner has read it
        return batch

    def prepare(self) -> None:
        """Make the batch that comes next, if it will be like the last: to be called once the device has work."""
        if self._next is None and self._last is not None:
            key, draw = self._last
            self._next = key, self._copied(draw())

    def forget(self) -> None:
        """What is in the memory has changed: keep nothing."""
        self._next = self._last = None

    def _copied(self, batch: PrioritizedReplaySamples) -> PrioritizedReplaySamples:
        """On its way; PyTorch keeps pinned copies until they have been read, and uses them again then."""
        with th.cuda.stream(self._stream):
            return batch.to(self.device)
