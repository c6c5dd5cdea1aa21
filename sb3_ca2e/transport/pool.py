"""What a learner may ask of its actors, whatever stands between."""

from typing import Protocol

import numpy as np

from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.actors.snapshot import ActorsState
from sb3_ca2e.replay.block import Block


class ActorPool(Protocol):
    """What the learner knows of its actors."""

    @property
    def n_processes(self) -> int:
        """Actor processes; 0 where actors share the learner's."""

    @property
    def restarts(self) -> dict[int, int]:
        """How often the process of each slot was replaced; without those of which none was."""

    @property
    def version(self) -> int:
        """Number of the parameters published last; 0 before the first."""

    def publish(self, parameters: np.ndarray) -> None:
        """
        Show newer parameters, for actors to copy when it suits them.

        :param parameters: ``(n_parameters,)`` float32
        """

    def set_progress(self, progress: float) -> None:
        """
        :param progress: share of the training that is done, 0 to 1
        """

    def retire(self, slot: int) -> None:
        """
        :param slot: prior slot that is to become a nature slot at its next episode
        """

    def collect(self, wait: bool = True) -> tuple[Handover, list[Block]] | None:
        """
        The next blocks. Those handed out before are the actors' to overwrite from now on.

        :param wait: sleep until there are some; else return None where there are none
        :return: the announcement and a block for each slot of that actor
        :raises ActorError: if an actor failed, and more often than it may
        """

    def state(self) -> ActorsState | None:
        """
        :return: what the slots are in the middle of, None if they, or an environment, can't give it
        """

    def stop(self, keep_server: bool = False) -> None:
        """
        End the actors. May be called twice.

        :param keep_server: what they are forked from may wait for the next pool
        """
