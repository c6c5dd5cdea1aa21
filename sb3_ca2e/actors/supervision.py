"""What the learner keeps its eyes on: signs of life of actor processes, and how often they may fail."""

import collections
import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

#: Making an environment (an emulator that loads its game) or resetting it may take so many times longer than a step.
PATIENCE = 10.0
#: An actor that is silent for so many seconds no longer holds the others back.
STALLED = 2.0
#: Failures count for so many seconds.
WINDOW = 600.0
#: Whoever has been started again so often, and raised an exception each time before it did anything, is hopeless.
IN_VAIN = 3
#: Seconds that actors have to close their environments before they are killed, and if the learner has died.
GRACE, GRACE_ALONE = 4.0, 1.5
#: Seconds within which a killed process is gone, unless the system hangs.
KILLED = 1.0
#: Seconds before what has failed in vain is started again: the first one, doubled each time, and the longest.
BACKOFF, LONGEST_BACKOFF = 0.1, 2.0


class ActorError(RuntimeError):
    """
    An actor failed, and it was not the first time; the message names the slot, its seed and the cause.

    What was committed stays in the memory, and the model can be used and saved.
    """


class ActorWarning(RuntimeWarning):
    """An actor failed and is replaced, or gave steps that are left out: training goes on."""


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


class Pulse:
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


class Budget:
    """
    How often something may fail, and how long to wait before it is started again.

    :param restarts: how often it may be replaced within ten minutes
    """

    def __init__(self, restarts: int):
        self.restarts = restarts
        #: replacements so far
        self.used = 0
        self._failures: collections.deque[float] = collections.deque()
        self._in_vain = self._raised = 0

    def worked(self) -> None:
        """It has done something since it was started."""
        self._in_vain = self._raised = 0

    def failed(self, now: float, raised: bool = False) -> float | None:
        """
        :param now: a time of ``time.monotonic()``
        :param raised: by an exception of its own
        :return: seconds to wait before it is replaced, None if it is not to be
        """
        while self._failures and self._failures[0] < now - WINDOW:
            self._failures.popleft()
        self._failures.append(now)
        self._in_vain += 1
        self._raised = self._raised + 1 if raised else 0
        if len(self._failures) > self.restarts or self._raised > IN_VAIN:
            return None
        self.used += 1
        return min(BACKOFF * 2.0 ** (self._in_vain - 2), LONGEST_BACKOFF) if self._in_vain > 1 else 0.0

    @property
    def history(self) -> str:
        """How often it failed, as an error says it."""
        if self._raised > IN_VAIN:
            return f"the {self._raised}. time in a row, and nothing had been handed over in between"
        if len(self._failures) == 1:
            return f"its first failure, and with actor_restarts={self.restarts} it may have none"
        return f"the {len(self._failures)}. time within {WINDOW / 60:.0f} minutes (actor_restarts={self.restarts})"


class Handle:
    """
    A process that may be another's child, to be killed without the risk that another has its number by now.

    :param pid: its number
    :param pidfd: a descriptor of it, None where the system has none
    """

    def __init__(self, pid: int, pidfd: int | None):
        self.pid, self.pidfd = pid, pidfd

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            else:  # pragma: no cover - not on Linux
                os.kill(self.pid, signal.SIGKILL)

    def ended(self, deadline: float) -> bool:
        """
        Wait for its end; where the system has no descriptors of processes, do not.

        :param deadline: a time of ``time.monotonic()`` until which to wait
        :return: whether it has ended
        """
        if self.pidfd is None:  # pragma: no cover - not on Linux
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 0)
                return False
            return True
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(1000.0 * max(deadline - time.monotonic(), 0.0)))

    def close(self) -> None:
        """Forget the process."""
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
