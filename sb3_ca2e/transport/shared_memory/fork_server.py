"""
The small process that actors are forked from.

It is started afresh with no CUDA device and one thread set before torch is imported, has torch and SB3
imported once for all actors, and never imports the user's script: what actors need arrives pickled.
It ends with the learner, however that ends, and takes the actors along. If it is killed they live on, and the server
that takes its place adopts them. When a ``learn()`` is over it may wait, without any actor, for the next one.
"""

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING

from sb3_ca2e.transport.shared_memory.actor_main import run_actor

if TYPE_CHECKING:
    pass

#: How much actors yield to the learner on cores that they share.
NICENESS = 10
#: Characters of a message from the learner, and what the one begins with that asks to wait for another pool.
MESSAGE, PARK = 16, "park"
#: What a spawn request brings along, in this order; the last three only where the learner's process infers.
FDS = ("spec", "board", "buffers", "wake", "messages", "exchange", "bell", "replies")


def main(control_fd: int, niceness: int) -> None:
    """
    Serve until the learner closes the control channel, or has asked to wait for another pool and none came.

    :param control_fd: a socket to the learner
    :param niceness: how much this process yields to others already
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the learner's to handle
    signal.signal(signal.SIGTERM, lambda *_: None)  # and so is this; what environments start does not inherit it so
    # Imported once here, for all actors; the first when tensors are unpickled.
    import torch.utils.serialization.config  # noqa: F401

    import sb3_ca2e.actors.worker  # noqa: F401

    _die_with_parent(None)  # from here on it ends its actors first
    gc.freeze()
    learner = os.getppid()
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    os.set_blocking(wakeup_read, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    control = socket.socket(fileno=control_fd)
    watched = [control_fd, wakeup_read, *_pidfd(learner)]  # a process that the learner forked may hold its socket open
    children: dict[int, int] = {}
    adopted: list[int] = []
    parked_until: float | None = None
    while True:
        left = None if parked_until is None else max(0.0, parked_until - time.monotonic())
        readable, _, _ = select.select(watched, [], [], left)
        if wakeup_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(wakeup_read, 4096)
            _report_exits(children, control)
        if control_fd in readable:
            try:
                message, fds, _, _ = socket.recv_fds(control, MESSAGE, len(FDS))
            except ConnectionResetError:  # the learner ended with reports of ours unread
                message = b""
            if not message:
                break
            parked_until = None
            if message.startswith(PARK.encode()):
                _reap(children, adopted, wakeup_read, learner)
                parked_until = time.monotonic() + float(message.removeprefix(PARK.encode()))
                with contextlib.suppress(OSError):  # the learner is gone
                    control.send(f"{PARK} 0 0;".encode())
            elif int(message) < 0:
                adopted += fds
            else:
                named = dict(zip(FDS, fds, strict=False))
                children[_fork(int(message), named, control, NICENESS - niceness)] = int(message)
        elif set(readable) - {wakeup_read} or left == 0.0:
            break
    control.close()
    _reap(children, adopted, wakeup_read, learner)


def _pidfd(pid: int) -> list[int]:
    """A descriptor of a process, none where the system has none, or if it has ended."""
    with contextlib.suppress(AttributeError, ProcessLookupError):
        return [os.pidfd_open(pid)]
    return []


def _fork(serial: int, fds: dict[str, int], control: socket.socket, niceness: int) -> int:
    server = os.getpid()
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            control.close()
            os.close(go_write)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _die_with_parent(server)
            if os.read(go_read, 1):  # the learner knows of this process: it may outlive the server now
                _die_with_parent(None)
                os.close(go_read)
                status = run_actor(fds, niceness)
        except BaseException:  # this process is a copy of the server, and must not go on as one
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    pidfd = _pidfd(pid)
    with contextlib.suppress(OSError):  # the learner is gone
        socket.send_fds(control, [f"started {serial} {pid};".encode()], pidfd)
        os.write(go_write, b"\0")
    for fd in (*fds.values(), *pidfd, go_read, go_write):
        os.close(fd)
    return pid


def _die_with_parent(parent: int | None) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL if parent is not None else 0)  # PR_SET_PDEATHSIG
        if parent is not None and os.getppid() != parent:  # it died before that call
            os._exit(1)


def _report_exits(children: dict[int, int], control: socket.socket) -> None:
    """Tell the learner which actors ended, and how."""
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            serial = children.pop(pid)
            with contextlib.suppress(OSError):
                control.send(f"ended {serial} {os.waitstatus_to_exitcode(status)};".encode())


def _reap(children: dict[int, int], adopted: list[int], wakeup: int, learner: int) -> None:
    """Give the actors time to close their environments, less if the learner has died, then kill them."""
    from sb3_ca2e.transport.shared_memory.restarts import GRACE, GRACE_ALONE

    began = time.monotonic()
    killed = False
    while children or adopted:
        for pid in list(children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del children[pid]
        # Asked each time: a process that is killed closes its files a moment before it counts as ended.
        grace = GRACE if os.getppid() == learner else GRACE_ALONE
        left = float("inf") if killed else began + grace - time.monotonic()
        if left <= 0:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            for pidfd in adopted:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            killed = True
        elif children or adopted:
            readable, _, _ = select.select([wakeup, *adopted], [], [], min(left, GRACE_ALONE))
            adopted[:] = [pidfd for pidfd in adopted if pidfd not in readable]
            with contextlib.suppress(BlockingIOError):
                os.read(wakeup, 4096)
