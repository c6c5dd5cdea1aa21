"""
Questions of actors to networks in the learner's process, and its answers, in memory that both map.

As with blocks, no lock is shared and every byte has one writer. An actor writes its observations, then the number of
its question, and rings; the learner's process writes what its networks say, then the same number, and rings back. An
actor that dies while it writes has asked nothing.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_ca2e.actors.inference import Steps
from sb3_ca2e.actors.slot import Playing
from sb3_ca2e.transport.shared_memory.inference_layout import Doorbell, InferenceLayout, Request, by_key, read_text


class LearnerGone(Exception):
    """The learner has ended, or wants its actors to end: there will be no answer."""


class PriorFailed(Exception):
    """A prior agent raised an exception in the learner's process; the message is its traceback."""


class InferenceClient:
    """
    What the networks say about observations, asked in the learner's process. In the place of
    :class:`~sb3_ca2e.actors.inference.Inference`.

    :param layout: of the exchange
    :param process: index of this process
    :param fd: the exchange
    :param bell: to ring when a question has been written
    :param replies: reading end of a pipe through which a byte comes with each answer
    """

    def __init__(self, layout: InferenceLayout, process: int, fd: int, bell: int, replies: int):
        self._layout, self._process = layout, process
        self._bell, self._replies = Doorbell(bell), replies
        self._views = layout.views(fd)
        self._rows = layout.rows(process)
        self._question = self._views["asked"][process]
        self._number = int(self._question[0])  # where a process goes on that ended before

    def expect(self, playing: Sequence[Playing], observations: dict[str, np.ndarray]) -> None:
        """
        Have prior agents act when next the actions of all slots are asked for, and only then: they remember.

        :param playing: who plays, a value a slot
        :param observations: for each key ``(n_slots, ...)`` of the environments
        """
        self._views["playing"][self._rows] = playing
        for key in self._layout.raw:
            self._views[f"raw/{key}"][self._rows] = observations[key]

    def prior_action(self, position: int) -> np.ndarray:
        """
        :param position: of a slot, among those of this process
        :return: what its prior agent does on the observation expected last
        :raises PriorFailed: if that raised an exception
        """
        failure = read_text(self._views["prior_failures"][self._rows][position])
        if failure:
            raise PriorFailed(failure)
        action: np.ndarray = self._views["prior_actions"][self._rows][position].copy()
        return action

    def parameters_changed(self) -> None:
        """Of no matter here: whoever answers knows."""

    def __call__(self, observations: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """
        :param observations: ``(batch_size, ...)`` a tensor, or a dictionary of them
        :param batch_size: number of observations; as many as slots are theirs
        :return: greedy actions, and what the algorithm keeps beside them for the priorities
        """
        n_slots = self._rows.stop - self._rows.start
        if batch_size == n_slots:
            result = self._act(observations, 0, n_slots, Request.ACT)
            self._views["playing"][self._rows] = Playing.NATURE
            return result
        starts = range(0, batch_size, n_slots)
        parts = [self._act(observations, i, min(n_slots, batch_size - i), Request.OTHERS) for i in starts]
        actions, outputs = zip(*parts, strict=True)
        return np.concatenate(actions), np.concatenate(outputs)

    def _act(self, observations: Any, first: int, n: int, question: Request) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(self._rows.start, self._rows.start + n)
        for key, tensor in by_key(observations).items():
            self._views[f"observations/{key}"][rows] = tensor[first : first + n].numpy()
        self._ask(question, n)
        # The next answer comes to the same place.
        return self._views["actions"][rows].copy(), self._views["outputs"][rows].copy()

    def evaluate(self, steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        :param steps: consecutive steps
        :return: ``(rows,)`` q(s, a) and ``(rows,)`` the value of s
        """
        n = len(steps.outputs)
        rows = self._layout.rated(self._process, n)
        self._views["rated/actions"][rows] = steps.actions.numpy()
        self._views["rated/outputs"][rows] = steps.outputs.numpy()
        if self._layout.rates_observations:
            for key, tensor in by_key(steps.observations).items():
                self._views[f"rated/observations/{key}"][rows] = tensor.numpy()
        self._ask(Request.RATE, n)
        q_taken, values = (self._views[f"rated/{name}"][rows].copy() for name in ("q_taken", "values"))
        return th.from_numpy(q_taken), th.from_numpy(values)

    def _ask(self, question: Request, size: int) -> None:
        self._number += 1
        self._question[:] = self._number, question, size
        with contextlib.suppress(BrokenPipeError):  # the replies' pipe is closed as well
            self._bell.ring(self._process)
        while self._views["answered"][self._process] != self._number:
            if not os.read(self._replies, 64):
                raise LearnerGone
