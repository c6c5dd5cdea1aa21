"""The interface through which the learner sees its actors, whatever the transport."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.actors.orders import Order
from sb3_ca2e.actors.snapshot import ActorsState
from sb3_ca2e.replay.block import Block


class ActorPool(Protocol):
    """The learner's interface to its actors."""

    @property
    def n_processes(self) -> int:
        """Number of actor processes; 0 if the actors run in the learner's process."""

    @property
    def restarts(self) -> dict[int, int]:
        """By slot, how often its process was replaced; slots of processes never replaced are missing."""

    @property
    def version(self) -> int:
        """Version of the parameters published last; 0 before the first."""

    def publish(self, parameters: np.ndarray) -> None:
        """
        Publish newer parameters, which actors read when they need them.

        :param parameters: ``(n_parameters,)`` float32
        """

    def set_progress(self, progress: float) -> None:
        """
        Publish the progress of the training.

        :param progress: fraction of the training that is done, 0 to 1
        """

    def retire(self, slot: int) -> None:
        """
        Retire the prior agent of a slot.

        :param slot: prior slot that becomes a nature slot at its next episode
        """

    def prepare(self, order: Order) -> Callable[[], object]:
        """
        Check and pickle an order, which :meth:`order` then can't refuse.

        :param order: the order
        :return: function that sends it, as :meth:`order` would have done
        :raises ValueError: if it can't be pickled
        :raises RuntimeError: if there are too many calls of environments
        """

    def order(self, order: Order) -> None:
        """
        Send an order to all actors, also to those that start later.

        Calls take effect in each slot before its next ``reset``, settings in each process with its next block.

        :param order: the order
        :raises ValueError: if it can't be pickled
        :raises RuntimeError: if there are too many calls of environments
        """

    def collect(self, wait: bool = True) -> tuple[Handover, list[Block]] | None:
        """
        Return the next blocks; actors may overwrite the blocks returned before.

        :param wait: whether to wait for blocks; otherwise return None if there are none
        :return: the announcement and a block for each slot of that actor
        :raises ActorError: if an actor failed more often than allowed
        """

    def state(self) -> ActorsState | None:
        """
        Return the state of the slots.

        :return: the state, or None if the actors, or an environment, can't provide it
        """

    def stop(self, keep_server: bool = False) -> None:
        """
        Stop the actors; may be called twice.

        :param keep_server: whether the server that they are forked from may wait for the next pool
        """
