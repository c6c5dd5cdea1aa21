"""The interface through which an actor tells what it does, and how long it may be silent."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

#: Factor by which creating or resetting an environment (such as an emulator loading its game) may exceed the timeout.
PATIENCE = 10.0


class Phase(IntEnum):
    """What an actor is doing."""

    MAKING = 0
    RESETTING = 1
    COLLECTING = 2
    WAITING = 3


@dataclass(frozen=True)
class Supervision:
    """
    Settings for restarts and timeouts of actors.

    :param restarts: how often each actor process, and the server that they are forked from, may be replaced within ten
        minutes; with 0, the first failure is an error
    :param timeout: seconds without a heartbeat after which an actor process counts as hung, ten times as many while an
        environment is created or reset; None disables the timeout
    """

    restarts: int
    timeout: float | None

    def limit(self, phase: Phase) -> float:
        """
        Return how long an actor may be silent in a phase.

        :param phase: what an actor is doing
        :return: seconds
        """
        if self.timeout is None:
            return float("inf")
        return self.timeout * (PATIENCE if phase in (Phase.MAKING, Phase.RESETTING) else 1.0)


class Heartbeat(Protocol):
    """What an actor tells of itself while it works; provided by a transport."""

    #: whether the actor was silent for too long since this was set to False
    late: bool

    @property
    def slot(self) -> int:
        """Slot whose environment is being called, or -1."""

    def beat(self, slot: int) -> None:
        """
        Give a heartbeat.

        :param slot: slot whose environment is called next, or -1
        """

    def enter(self, phase: Phase) -> None:
        """
        Enter a phase.

        :param phase: what the actor does from now on
        """
