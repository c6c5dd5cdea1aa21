"""
The actor's side of inference on the learner's device, through shared memory.

As with blocks, there are no shared locks and each byte has one writer. An actor writes its observations, then a request
number, and rings a bell; the learner's process writes the results, then the same number, and rings back. An actor that
dies while writing has requested nothing.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_ca2e.actors.inference import Steps
from sb3_ca2e.actors.slot import Playing
from sb3_ca2e.replay.stacks import by_key
from sb3_ca2e.transport.shared_memory.inference_layout import Doorbell, InferenceLayout, Request, read_text


class LearnerGone(Exception):
    """The learner has ended, or stops its actors: no reply will come."""


class PriorFailed(Exception):
    """A prior agent raised an exception in the learner's process; the message is its traceback."""


class InferenceClient:
    """
    Has the learner's process run the networks; a replacement for :class:`~sb3_ca2e.actors.inference.Inference`.

    :param layout: layout of the exchange
    :param process: index of this actor process
    :param fd: file of the exchange
    :param bell: pipe to ring after a request
    :param replies: read end of a pipe that receives a byte with each reply
    """

    def __init__(self, layout: InferenceLayout, process: int, fd: int, bell: int, replies: int):
        self._layout, self._process = layout, process
        self._bell, self._replies = Doorbell(bell), replies
        self._views = layout.views(fd)
        self._rows = layout.rows(process)
        self._question = self._views["asked"][process]
        self._number = int(self._question[0])  # a replacement continues the numbers of the process before

    def expect(self, playing: Sequence[Playing], observations: dict[str, np.ndarray]) -> None:
        """
        Have prior agents act at the next call with the observations of all slots, and only then: they have memory.

        :param playing: who plays in each slot
        :param observations: by key ``(n_slots, ...)`` observations of the environments
        """
        self._views["playing"][self._rows] = playing
        for key in self._layout.raw:
            self._views[f"raw/{key}"][self._rows] = observations[key]

    def prior_action(self, position: int) -> np.ndarray:
        """
        Return the action of a prior agent on the observation expected last.

        :param position: position of the slot in this process
        :return: the action
        :raises PriorFailed: if the agent raised an exception
        """
        failure = read_text(self._views["prior_failures"][self._rows][position])
        if failure:
            raise PriorFailed(failure)
        action: np.ndarray = self._views["prior_actions"][self._rows][position].copy()
        return action

    def parameters_changed(self) -> None:
        """Do nothing: the learner's process knows."""

    def __call__(
        self, observations: Any, batch_size: int, action_masks: th.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Compute greedy actions.

        :param observations: ``(batch_size, ...)`` a tensor, or a dictionary of them
        :param batch_size: number of observations; if equal to the number of slots, they are the slots' observations
        :param action_masks: ``(batch_size, n_actions)`` bool, which actions are allowed; None without action masks
        :return: greedy actions, and the outputs that the algorithm keeps for the priorities
        """
        n_slots = self._rows.stop - self._rows.start
        if batch_size == n_slots:
            result = self._act(observations, action_masks, 0, n_slots, Request.ACT)
            self._views["playing"][self._rows] = Playing.NATURE
            return result
        starts = range(0, batch_size, n_slots)
        given, kind = (observations, action_masks), Request.OTHERS
        parts = [self._act(*given, i, min(n_slots, batch_size - i), kind) for i in starts]
        actions, outputs = zip(*parts, strict=True)
        return np.concatenate(actions), np.concatenate(outputs)

    def _act(
        self, observations: Any, action_masks: th.Tensor | None, first: int, n: int, question: Request
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(self._rows.start, self._rows.start + n)
        for key, tensor in by_key(observations).items():
            self._views[f"observations/{key}"][rows] = tensor[first : first + n].numpy()
        if action_masks is not None:
            self._views["action_masks"][rows] = action_masks[first : first + n].numpy()
        self._ask(question, n)
        # The next reply overwrites these.
        return self._views["actions"][rows].copy(), self._views["outputs"][rows].copy()

    def evaluate(self, steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the values that priorities need.

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
        if steps.action_masks is not None:
            self._views["rated/action_masks"][rows] = steps.action_masks.numpy()
        self._ask(Request.RATE, n)
        q_taken, values = (self._views[f"rated/{name}"][rows].copy() for name in ("q_taken", "values"))
        return th.from_numpy(q_taken), th.from_numpy(values)

    def _ask(self, question: Request, size: int) -> None:
        self._number += 1
        self._question[:] = self._number, question, size
        with contextlib.suppress(BrokenPipeError):  # the pipe of replies is closed too
            self._bell.ring(self._process)
        while self._views["answered"][self._process] != self._number:
            if not os.read(self._replies, 64):
                raise LearnerGone
