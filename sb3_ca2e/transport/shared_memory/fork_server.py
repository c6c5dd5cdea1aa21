"""
The fork server: a small process that actors are forked from.

It starts without a CUDA device and with one thread, imports torch and SB3 once for all actors, and never imports the
user's script: everything that actors need arrives pickled. It always ends with the learner, and ends the actors too. If
it is killed, the actors continue, and the server that replaces it adopts them. After a ``learn()`` it may wait, without
actors, for the next one.
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

from sb3_ca2e.transport.shared_memory.actor_main import run_actor

#: Niceness of actors: they yield to the learner on shared cores.
NICENESS = 10
#: Length of the learner's messages in characters, and prefix of the request to wait for the next pool.
MESSAGE, PARK = 16, "park"
#: File descriptors of a spawn request, in this order; the last three only for inference on the learner's device.
FDS = ("spec", "board", "orders", "more_orders", "buffers", "wake", "messages", "exchange", "bell", "replies")


def main(control_fd: int, niceness: int) -> None:
    """
    Serve until the learner closes the control channel, or until the wait for another pool times out.

    :param control_fd: socket to the learner
    :param niceness: current niceness of this process
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the learner handles Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: None)  # and SIGTERM; children inherit SIG_IGN, but no handler
    # Imported once here for all actors; unpickling tensors needs the first.
    import torch.utils.serialization.config  # noqa: F401

    import sb3_ca2e.actors.worker  # noqa: F401

    _die_with_parent(None)  # from now on, end the actors first
    gc.freeze()
    learner = os.getppid()
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    os.set_blocking(wakeup_read, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    control = socket.socket(fileno=control_fd)
    watched = [control_fd, wakeup_read, *_pidfd(learner)]  # a fork of the learner may keep the socket open
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
            except ConnectionResetError:  # the learner ended without reading all reports
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
    """Return a descriptor of a process, or none if the system does not support it or the process has ended."""
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
            if os.read(go_read, 1):  # the learner knows this process, so it may outlive the server
                _die_with_parent(None)
                os.close(go_read)
                status = run_actor(fds, niceness)
        except BaseException:  # this copy of the server must not continue as a server
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
        if parent is not None and os.getppid() != parent:  # it ended before the call
            os._exit(1)


def _report_exits(children: dict[int, int], control: socket.socket) -> None:
    """Report to the learner which actors ended, and how."""
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            serial = children.pop(pid)
            with contextlib.suppress(OSError):
                control.send(f"ended {serial} {os.waitstatus_to_exitcode(status)};".encode())


def _reap(children: dict[int, int], adopted: list[int], wakeup: int, learner: int) -> None:
    """Give actors time to close their environments (less if the learner has died), then kill them."""
    from sb3_ca2e.transport.shared_memory.restarts import GRACE, GRACE_ALONE

    began = time.monotonic()
    killed = False
    while children or adopted:
        for pid in list(children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del children[pid]
        # Check each time: a killed process closes its files slightly before it counts as ended.
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
