"""Signs of life of actors, and how long they may be silent."""

import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

#: Making an environment (an emulator that loads its game) or resetting it may take so many times longer than a step.
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
    :param restarts: how often each actor process, and the server that they are forked from, may be replaced within
        ten minutes; 0: its first failure is an error
    :param timeout: seconds without a sign of life after which an actor process counts as hung, ten times as many
        while an environment is made or reset; None: never
    """

    restarts: int = 10
    timeout: float | None = 60.0

    def limit(self, phase: Phase) -> float:
        """
        :param phase: what an actor is doing
        :return: seconds for which it may be silent meanwhile
        """
        if self.timeout is None:
            return float("inf")
        return self.timeout * (PATIENCE if phase in (Phase.MAKING, Phase.RESETTING) else 1.0)


class Heartbeat:
    """
    The signs of life of an actor process, in memory that it shares with the learner and that only it writes.

    Times are those of ``time.monotonic()``, which all processes of a machine share.

    :param memory: ``(SIZE,)`` uint8
    """

    SIZE = 64
    _TIME, _SLOT, _PHASE = range(3)

    def __init__(self, memory: np.ndarray):
        #: as Python's own numbers, which are written faster
        self._words: Any = memory[: self.SIZE].view(np.float64).data
        self._supervision = Supervision(timeout=None)
        self._last, self._limit = 0.0, float("inf")
        #: the actor was silent for too long since this was set to False
        self.late = False

    # The actor's side.

    def supervise(self, supervision: Supervision) -> None:
        """
        :param supervision: how long the actor may be silent
        """
        self._supervision = supervision
        self.enter(Phase.MAKING)

    def beat(self, slot: int) -> None:
        """
        :param slot: the slot whose environment is called next, -1 for none
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
        :param phase: what the actor does from now on
        """
        self.beat(self.slot)
        self._words[self._PHASE] = phase
        self._limit = float("inf") if phase is Phase.WAITING else self._supervision.limit(phase)

    # The learner's side.

    @property
    def time(self) -> float:
        """When the actor gave its last sign of life; 0 before the first."""
        return float(self._words[self._TIME])

    @property
    def slot(self) -> int:
        """The slot whose environment is being called, -1 if none is."""
        return int(self._words[self._SLOT])

    @property
    def phase(self) -> Phase:
        """What the actor is doing."""
        return Phase(int(self._words[self._PHASE]))

    @property
    def doing(self) -> str:
        """What a message says of an actor that ended, or fell silent, while it did it."""
        if self.time == 0.0:
            return "at its start"
        if self.phase is Phase.WAITING:
            return "while it waited for the learner"
        if self.slot < 0:
            return "while it recorded steps"
        return f"in {('the making', 'a reset', 'a step')[self.phase]} of slot {self.slot}'s environment"
