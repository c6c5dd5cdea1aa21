"""A process of which one is not the parent."""

import contextlib
import os
import select
import signal
import time


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
