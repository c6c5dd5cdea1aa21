"""What the learner keeps its eyes on: signs of life of actor processes, and how often they may fail."""

import collections

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


class RestartBudget:
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
