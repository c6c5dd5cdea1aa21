"""Batches copied to a GPU while it learns from the previous one, for a memory that does not fit on the GPU."""

from collections.abc import Callable, Hashable

import torch as th

from sb3_ca2e.replay.samples import PrioritizedReplaySamples

#: Makes a batch on the CPU.
Draw = Callable[[], PrioritizedReplaySamples]


class Prefetch:
    """
    Keeps one batch ahead. It is drawn and copied while the device is busy with the previous batch, so it does not take
    into account the priorities of that batch, nor transitions stored before it is used.

    :param device: device of the batches
    """

    def __init__(self, device: th.device):
        self.device = device
        self._stream = th.cuda.Stream(device) if device.type == "cuda" else None
        self._next: tuple[Hashable, PrioritizedReplaySamples] | None = None
        self._last: tuple[Hashable, Draw] | None = None

    def take(self, key: Hashable, draw: Draw) -> PrioritizedReplaySamples:
        """
        Return the batch kept ahead, or a new one.

        :param key: what the batch depends on besides the memory; another key draws a new batch
        :param draw: draws a batch
        :return: the batch, on the device
        """
        if self._next is None or self._next[0] != key:
            self._next = key, self._copied(draw())
        batch, self._next, self._last = self._next[1], None, (key, draw)
        if self._stream is not None:
            learner = th.cuda.current_stream(self.device)
            learner.wait_stream(self._stream)
            for tensor in batch.tensors():
                tensor.record_stream(learner)  # its memory is not reused before the learner has read it
        return batch

    def prepare(self) -> None:
        """Draw the next batch with the key of the last one. Call this when the device has work to do."""
        if self._next is None and self._last is not None:
            key, draw = self._last
            self._next = key, self._copied(draw())

    def forget(self) -> None:
        """Drop the batch kept ahead, because the memory has been reset."""
        self._next = self._last = None

    def _copied(self, batch: PrioritizedReplaySamples) -> PrioritizedReplaySamples:
        """Copy a batch without waiting; PyTorch keeps the pinned buffers until the GPU has read them."""
        with th.cuda.stream(self._stream):
            return batch.to(self.device)
