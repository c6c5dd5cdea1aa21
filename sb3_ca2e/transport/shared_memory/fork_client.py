"""The learner's side of the fork server."""

import array
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

from sb3_ca2e.envs.copies.modules import import_path
from sb3_ca2e.transport.shared_memory.fork_server import MESSAGE, PARK
from sb3_ca2e.transport.shared_memory.limits import limits
from sb3_ca2e.transport.shared_memory.process_handle import Handle

#: Seconds to wait for the server to end before it is killed.
SHUTDOWN = 10.0
#: Seconds that a parked server waits for the next ``learn()``.
PARKED = 60.0


class ServerGone(Exception):
    """The server has ended or can't be reached."""


@dataclass(frozen=True)
class Started:
    """An actor process has been started."""

    serial: int
    handle: Handle


@dataclass(frozen=True)
class Ended:
    """An actor process has ended; a negative code is a signal."""

    serial: int
    code: int


class ForkServer:
    """
    Starts and controls the server that actors are forked from.

    The server has this process's import path and never imports the user's ``__main__``. Starting it does not wait:
    requests are queued in a socket until it is ready.

    :param niceness: initial niceness, for a server that replaces another: its imports take seconds of CPU time while
        the learner and the actors run
    """

    def __init__(self, niceness: int = 0) -> None:
        code = (
            "import ctypes, json, os, sys; "
            # During its imports, which take seconds, it would not notice that the learner has ended.
            "sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 9); "  # PR_SET_PDEATHSIG, SIGKILL
            "os.getppid() == int(sys.argv[3]) or os._exit(1); "
            "os.nice(int(sys.argv[4])); "
            "sys.path[:] = json.loads(sys.argv[1]); "
            "from sb3_ca2e.transport.shared_memory.fork_server import main; main(int(sys.argv[2]), int(sys.argv[4]))"
        )
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._text = ""
        self._pidfds: list[int] = []
        self._spoke = self._parked = self._leased = False
        self._surroundings = _surroundings()
        with theirs:
            try:
                numbers = theirs.fileno(), os.getpid(), niceness
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code, json.dumps(import_path()), *map(str, numbers)],
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **dict.fromkeys(names, "1"), "CUDA_VISIBLE_DEVICES": ""},
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except BaseException:
                self._control.close()
                raise

    def fileno(self) -> int:
        """
        Return a descriptor that becomes readable when the server has sent reports.

        :return: the descriptor
        """
        return self._control.fileno()

    def spawn(self, serial: int, fds: list[int]) -> None:
        """
        Request an actor process.

        :param serial: number that identifies it
        :param fds: file descriptors in the order of :data:`~sb3_ca2e.transport.shared_memory.fork_server.FDS`
        :raises ServerGone: if the server has ended
        """
        self._send(str(serial), fds)

    def adopt(self, handle: Handle) -> None:
        """
        Have the server also end an actor that was forked from another server.

        :param handle: the actor process
        :raises ServerGone: if the server has ended
        """
        if handle.pidfd is not None:
            self._send(str(-handle.pid), [handle.pidfd])

    def _send(self, message: str, fds: list[int]) -> None:
        try:
            socket.send_fds(self._control, [message.ljust(MESSAGE).encode()], fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ServerGone from error

    def reports(self) -> list[Started | Ended]:
        """
        Return what has happened to actors since the last call, without waiting.

        :return: reports in their order
        :raises ServerGone: if the server has ended and all reports have been returned
        """
        while True:
            try:
                # socket.recv_fds() ignores its flags and would wait.
                room = socket.CMSG_SPACE(array.array("i").itemsize)
                data, sent_along, _, _ = self._control.recvmsg(4096, room, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data, sent_along = b"", []
            self._pidfds += [fd for _, _, raw in sent_along for fd in array.array("i", raw)]
            self._text += data.decode()
            if not data:
                if ";" in self._text:
                    break
                raise ServerGone
        *lines, self._text = self._text.split(";")
        self._spoke = self._spoke or bool(lines)
        self._parked = self._parked or any(line.startswith(PARK) for line in lines)
        return [self._report(*line.split()) for line in lines if not line.startswith(PARK)]

    def _report(self, what: str, serial: str, number: str) -> Started | Ended:
        if what == "ended":
            return Ended(int(serial), int(number))
        return Started(int(serial), Handle(int(number), self._pidfds.pop(0) if self._pidfds else None))

    @property
    def expired(self) -> bool:
        """Whether it has not reported since it was parked; if it has ended by then, its time was up."""
        return self._leased and not self._spoke

    def park(self) -> bool:
        """
        End its actors and let it wait for the next pool.

        :return: whether it waits; otherwise it must be stopped
        """
        if not self._spoke:  # still importing
            return False
        deadline = time.monotonic() + SHUTDOWN
        try:
            self._send(f"{PARK} {PARKED}", [])
            while not self._parked:
                if not select.select([self._control], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    return False
                for handle in self._started():
                    handle.close()
        except ServerGone:
            return False
        return True

    def lease(self) -> bool:
        """
        Take it out of its parking place.

        :return: whether it still runs and equals a new one
        """
        try:
            self.reports()
        except ServerGone:
            return False
        self._spoke, self._parked, self._leased = False, False, True
        return self._surroundings == _surroundings()

    def close(self) -> None:
        """Let it end with its actors once their environments are closed."""
        self._control.close()
        while self._pidfds:
            os.close(self._pidfds.pop())

    def kill(self) -> int:
        """
        Kill the server; its actors continue.

        :return: exit status, or negative signal number if it had been killed before
        """
        self.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return self._process.wait()

    def stop(self) -> list[Handle]:
        """
        End the server and its actors.

        :return: actors that the caller must wait for, as the server can't or does not know them
        """
        started = self._unread()
        if self._spoke:
            self.close()
            try:
                self._process.wait(SHUTDOWN)
            except subprocess.TimeoutExpired:
                warnings.warn("The actors' server did not end in time and was killed.", stacklevel=2)
                self._process.kill()
                self._process.wait()
        else:  # still importing for seconds, it would not notice
            self._process.kill()
            self._process.wait()
            started += self._unread()
            self.close()
        return started

    def _unread(self) -> list[Handle]:
        """Return the actors that it reports as started; actors that it could not report end with it."""
        with contextlib.suppress(ServerGone):
            return self._started()
        return []

    def _started(self) -> list[Handle]:
        return [report.handle for report in self.reports() if isinstance(report, Started)]


def _surroundings() -> tuple[Any, ...]:
    """Return the state of this process that a server and its actors inherit."""
    streams = [_file(fd) for fd in (1, 2)]
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return [*sys.path], dict(os.environ), os.getcwd(), limits(), streams, cpus, os.getpriority(os.PRIO_PROCESS, 0)


def _file(fd: int) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = os.fstat(fd)
        return status.st_dev, status.st_ino
    return None
