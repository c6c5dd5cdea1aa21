"""A handle of a process that need not be a child of this process."""

import contextlib
import os
import select
import signal
import time


class Handle:
    """
    A process, which may be killed without the risk that its id has been reused.

    :param pid: process id
    :param pidfd: process descriptor; None if the system has none
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
        Wait for its end; without process descriptors, only check.

        :param deadline: ``time.monotonic()`` until which to wait
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
        """Close the descriptor."""
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
