"""The interface through which an actor sees the learner and its transport."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch as th

from sb3_ca2e.actors.heartbeat import Heartbeat
from sb3_ca2e.actors.inference import Steps
from sb3_ca2e.actors.orders import Numbered
from sb3_ca2e.actors.slot import Playing


class Port(Protocol):
    """
    The learner's messages to one actor, and the memory for its blocks; provided by a transport.

    Nothing here blocks: the actor polls.
    """

    @property
    def pulse(self) -> Heartbeat:
        """The actor's heartbeat."""

    @property
    def version(self) -> int:
        """Version of the newest parameters; 0 before the first."""

    def read(self, out: np.ndarray) -> int:
        """
        Copy the newest parameters.

        :param out: ``(n_parameters,)`` float32, overwritten
        :return: their version
        """

    @property
    def progress(self) -> float:
        """Fraction of the training that is done, 0 to 1."""

    @property
    def stopped(self) -> bool:
        """Whether the actor must stop."""

    def retired(self, slot: int) -> bool:
        """
        Check whether the prior agent of a slot has been retired.

        :param slot: index of the slot
        :return: True if it must be replaced
        """

    @property
    def newest_order(self) -> int:
        """Number of the newest order; 0 before the first."""

    def orders(self, since: int) -> Sequence[Numbered]:
        """
        Return orders; those that newer ones have replaced may be missing.

        :param since: number of an order; 0 for all
        :return: the orders after it, with their numbers, the newest last; each call returns new copies
        """

    def views(self, sequence: int) -> Sequence[dict[str, np.ndarray]]:
        """
        Return the blocks to write.

        :param sequence: number of the handover
        :return: for each slot the fields of its block, as :meth:`~sb3_ca2e.replay.block.BlockLayout.views`
            returns them
        """


class Networks(Protocol):
    """Networks in another process, a replacement for :class:`~sb3_ca2e.actors.inference.Inference`."""

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

    def evaluate(self, steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the values that priorities need.

        :param steps: consecutive steps
        :return: ``(rows,)`` q(s, a) and ``(rows,)`` the value of s
        """

    def parameters_changed(self) -> None:
        """Note that the actor has copied newer parameters."""

    def expect(self, playing: Sequence[Playing], observations: dict[str, np.ndarray]) -> None:
        """
        Have prior agents act at the next call with the observations of all slots, and only then: they have memory.

        :param playing: who plays in each slot
        :param observations: by key ``(n_slots, ...)`` observations of the environments
        """

    def prior_action(self, position: int) -> np.ndarray:
        """
        Return the action of a prior agent on the observation expected last.

        :param position: position of the slot in this actor
        :return: the action
        :raises Exception: the agent's own exception
        """
