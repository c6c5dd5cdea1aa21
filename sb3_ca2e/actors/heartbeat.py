"""Heartbeats of actors, and how long actors may be silent."""

import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

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


class Heartbeat:
    """
    Heartbeat of an actor process, in memory that it shares with the learner and that only it writes.

    Times are those of ``time.monotonic()``, which all processes of a machine share.

    :param memory: ``(SIZE,)`` uint8
    """

    SIZE = 64
    _TIME, _SLOT, _PHASE = range(3)

    def __init__(self, memory: np.ndarray):
        #: a memoryview: faster to write than a NumPy array
        self._words: Any = memory[: self.SIZE].view(np.float64).data
        self._supervision = Supervision(restarts=0, timeout=None)
        self._last, self._limit = 0.0, float("inf")
        #: whether the actor was silent for too long since this was set to False
        self.late = False

    # The actor's side.

    def supervise(self, supervision: Supervision) -> None:
        """
        Start to check the actor's own silence.

        :param supervision: timeouts
        """
        self._supervision = supervision
        self.enter(Phase.MAKING)

    def beat(self, slot: int) -> None:
        """
        Give a heartbeat.

        :param slot: slot whose environment is called next, or -1
        """
        now = time.monotonic()
        if now - self._last > self._limit:
            self.late = True
        self._last = now
        words = self._words
        words[self._TIME] = now
        words[self._SLOT] = slot

    def enter(self, phase: Phase) -> None:
        """
        Enter a phase.

        :param phase: what the actor does from now on
        """
        self.beat(self.slot)
        self._words[self._PHASE] = phase
        self._limit = float("inf") if phase is Phase.WAITING else self._supervision.limit(phase)

    # The learner's side.

    @property
    def time(self) -> float:
        """Time of the actor's last heartbeat; 0 before the first."""
        return float(self._words[self._TIME])

    @property
    def slot(self) -> int:
        """Slot whose environment is being called, or -1."""
        return int(self._words[self._SLOT])

    @property
    def phase(self) -> Phase:
        """What the actor is doing."""
        return Phase(int(self._words[self._PHASE]))

    @property
    def doing(self) -> str:
        """Description of what the actor was doing at its last heartbeat, for messages."""
        if self.time == 0.0:
            return "at its start"
        if self.phase is Phase.WAITING:
            return "while it waited for the learner"
        if self.slot < 0:
            return "while it recorded steps"
        return f"in {('creation', 'a reset', 'a step')[self.phase]} of slot {self.slot}'s environment"
