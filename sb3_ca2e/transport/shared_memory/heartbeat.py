"""The heartbeat of an actor process, in memory that it shares with the learner."""

import time
from typing import Any

import numpy as np

from sb3_ca2e.actors.heartbeat import Phase, Supervision


class SharedMemoryHeartbeat:
    """
    A :class:`~sb3_ca2e.actors.heartbeat.Heartbeat` in memory that an actor process shares with the learner.

    Only the actor writes it. Times are those of ``time.monotonic()``, which all processes of a machine share.

    :param memory: ``(SIZE,)`` uint8
    """

    SIZE = 64
    _TIME, _SLOT, _PHASE = range(3)

    def __init__(self, memory: np.ndarray):
        #: a memoryview: faster to write than a NumPy array
        self._words: Any = memory[: self.SIZE].view(np.float64).data
        self._supervision = Supervision(restarts=0, timeout=None)
        self._last, self._limit = 0.0, float("inf")
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
        now = time.monotonic()
        if now - self._last > self._limit:
            self.late = True
        self._last = now
        words = self._words
        words[self._TIME] = now
        words[self._SLOT] = slot

    def enter(self, phase: Phase) -> None:
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
