"""
Keeps one fork server without actors between two ``learn()`` calls: starting one takes seconds, mostly for importing
PyTorch.
"""

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator

from sb3_ca2e.transport.shared_memory.fork_client import ForkServer
from sb3_ca2e.transport.shared_memory.process_handle import Handle


class _Parking:
    """Place for one server between two ``learn()`` calls of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: ForkServer | None = None
        self._of_parent: list[ForkServer] = []

    def put(self, server: ForkServer) -> bool:
        with self._lock:
            if self._server is None:
                self._server = server
                return True
        return False

    def take(self) -> ForkServer | None:
        with self._lock:
            server, self._server = self._server, None
        return server

    def forked(self) -> None:
        """Forget the server in a forked child: it belongs to the parent."""
        self._lock = threading.Lock()
        if self._server is not None:
            self._server.close()
            self._of_parent.append(self._server)  # keep it: Popen warns if it is deleted while its process runs
            self._server = None


_PARKING = _Parking()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_PARKING.forked)


def lease() -> ForkServer:
    """
    Return the parked server, or a new one.

    :return: a server
    """
    server = _PARKING.take()
    if server is not None:
        if server.lease():
            return server
        server.kill()
    return ForkServer()


def park(server: ForkServer) -> list[Handle]:
    """
    End a server's actors, and keep the server for the next ``learn()`` if none is kept yet.

    :param server: a server
    :return: as :meth:`ForkServer.stop`
    """
    if server.park() and _PARKING.put(server):
        return []
    return server.stop()


@atexit.register
def discard_parked() -> None:
    """End the parked server, if there is one."""
    server = _PARKING.take()
    if server is not None:
        server.kill()


@contextlib.contextmanager
def discarded_on_error() -> Iterator[None]:
    """End the parked server if the context raises an exception, including Ctrl-C."""
    try:
        yield
    except BaseException:
        discard_parked()
        raise
