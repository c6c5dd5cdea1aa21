"""
One server without actors may wait between two ``learn()`` of a process: to start one takes seconds, most of them for
PyTorch's import.
"""

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator

from sb3_ca2e.transport.shared_memory.fork_client import ForkServer
from sb3_ca2e.transport.shared_memory.process_handle import Handle


class _Parking:
    """A place for one server between two ``learn()`` of this process."""

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
        """This process is a child, and the server its parent's."""
        self._lock = threading.Lock()
        if self._server is not None:
            self._server.close()
            self._of_parent.append(self._server)  # as Popen warns where it is deleted while its process runs
            self._server = None


_PARKING = _Parking()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_PARKING.forked)


def lease() -> ForkServer:
    """
    :return: the server that is parked, else a new one
    """
    server = _PARKING.take()
    if server is not None:
        if server.lease():
            return server
        server.kill()
    return ForkServer()


def park(server: ForkServer) -> list[Handle]:
    """
    End a server's actors, and keep it for the next ``learn()`` of this process if none is kept yet.

    :param server: a server
    :return: as :meth:`ForkServer.stop`
    """
    if server.park() and _PARKING.put(server):
        return []
    return server.stop()


@atexit.register
def discard_parked() -> None:
    """End the server that is parked, if one is."""
    server = _PARKING.take()
    if server is not None:
        server.kill()


@contextlib.contextmanager
def discarded_on_error() -> Iterator[None]:
    """Keep no server beyond an error, or Ctrl-C."""
    try:
        yield
    except BaseException:
        discard_parked()
        raise
