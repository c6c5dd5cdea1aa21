"""What a learner may ask of its actors, whatever stands between."""

from typing import Protocol

from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.actors.snapshot import ActorsState
from sb3_ca2e.replay.block import Block
from sb3_ca2e.transport.shared_memory.control_block import Board


class ActorPool(Protocol):
    """What the learner knows of its actors."""

    board: Board

    @property
    def n_processes(self) -> int:
        """Actor processes; 0 where actors share the learner's."""

    @property
    def restarts(self) -> dict[int, int]:
        """How often the process of each slot was replaced; without those of which none was."""

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
