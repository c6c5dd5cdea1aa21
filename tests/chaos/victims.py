"""Finds the processes that a learner has started."""

import os
import pathlib
import signal


def children(pid: int) -> list[int]:
    """Of all threads of a process; none if it has ended."""
    found: list[int] = []
    for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, file.read_text().split())
        except OSError:
            continue
    return found


def servers(learner: int) -> list[int]:
    """The servers of a learner that are alive."""
    return [pid for pid in children(learner) if b"sb3_ca2e.transport.shared_memory.fork_server" in command_line(pid)]


def actors(learner: int) -> list[int]:
    """The actors of a learner that are alive, and whose server is."""
    return [pid for server in servers(learner) for pid in children(server) if command_line(pid)]


def command_line(pid: int) -> bytes:
    """Empty if it has ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def send(pid: int, number: signal.Signals) -> bool:
    """Whether the process was there to get the signal."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
