"""What an actor asks of whoever runs it: all that it knows of the learner, and of what stands between them."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch as th

from sb3_ca2e.actors.heartbeat import Heartbeat
from sb3_ca2e.actors.slot import Playing
from sb3_ca2e.actors.steps import Steps


class Port(Protocol):
    """
    What the learner has told, and where blocks are written. A transport provides one for each actor.

    Nothing here waits: an actor looks when it suits it.
    """

    #: where the actor gives its signs of life
    pulse: Heartbeat

    @property
    def version(self) -> int:
        """Number of the newest parameters; 0 before the first."""

    def read(self, out: np.ndarray) -> int:
        """
        Copy the newest parameters.

        :param out: ``(n_parameters,)`` float32, written
        :return: their version
        """

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""

    @property
    def stopped(self) -> bool:
        """The actor is to end."""

    def retired(self, slot: int) -> bool:
        """
        :param slot: a slot
        :return: whether its prior is to be replaced
        """

    def views(self, sequence: int) -> Sequence[dict[str, np.ndarray]]:
        """
        :param sequence: number of a handover
        :return: for each slot, the fields of the block that is to be written, as
            :meth:`~sb3_ca2e.actors.block_layout.BlockLayout.views` gives them
        """


class Networks(Protocol):
    """Networks that are somewhere else, in the place of :class:`~sb3_ca2e.actors.inference.Inference`."""

    def __call__(self, observations: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """
        :param observations: ``(batch_size, ...)`` a tensor, or a dictionary of them
        :param batch_size: number of observations; as many as slots are theirs
        :return: greedy actions, and what the algorithm keeps beside them for the priorities
        """

    def evaluate(self, steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        :param steps: consecutive steps
        :return: ``(rows,)`` q(s, a) and ``(rows,)`` the value of s
        """

    def parameters_changed(self) -> None:
        """The actor has copied newer parameters."""

    def expect(self, playing: Sequence[Playing], observations: dict[str, np.ndarray]) -> None:
        """
        Have prior agents act when next the actions of all slots are asked for, and only then: they remember.

        :param playing: who plays, a value a slot
        :param observations: for each key ``(n_slots, ...)`` of the environments
        """

    def prior_action(self, position: int) -> np.ndarray:
        """
        :param position: of a slot, among those of this actor
        :return: what its prior agent does on the observation expected last
        :raises Exception: whatever that raised
        """
