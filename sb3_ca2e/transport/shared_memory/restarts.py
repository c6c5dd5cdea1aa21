"""Limits on how long actor processes may be silent and how often they may fail."""

import collections

#: Seconds of silence after which the others no longer wait for an actor.
STALLED = 2.0
#: Seconds for which failures count.
WINDOW = 600.0
#: Restarts in a row that raised an exception before doing anything, after which a process is given up.
IN_VAIN = 3
#: Seconds for actors to close their environments before they are killed; the second if the learner has died.
GRACE, GRACE_ALONE = 4.0, 1.5
#: Seconds within which a killed process ends, unless the system hangs.
KILLED = 1.0
#: Seconds before a restart after failures in a row: the first delay, doubled each time, and the longest.
BACKOFF, LONGEST_BACKOFF = 0.1, 2.0


class RestartBudget:
    """
    Counts failures, and decides whether and when to restart.

    :param restarts: number of restarts allowed within ten minutes
    """

    def __init__(self, restarts: int):
        self.restarts = restarts
        #: number of replacements so far
        self.used = 0
        self._failures: collections.deque[float] = collections.deque()
        self._in_vain = self._raised = 0

    def worked(self) -> None:
        """Note that it has done something since its start."""
        self._in_vain = self._raised = 0

    def failed(self, now: float, raised: bool = False) -> float | None:
        """
        Count a failure.

        :param now: current ``time.monotonic()``
        :param raised: whether it failed with an exception of its own
        :return: seconds to wait before it is replaced, None to give up
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
        """How often it failed, for an error message."""
        if self._raised > IN_VAIN:
            return f"failure {self._raised} in a row, with nothing handed over in between"
        if len(self._failures) == 1:
            return f"its first failure, and actor_restarts={self.restarts} allows none"
        return f"failure {len(self._failures)} within {WINDOW / 60:.0f} minutes (actor_restarts={self.restarts})"
