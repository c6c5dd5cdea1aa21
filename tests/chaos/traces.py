"""Finds what a process has made: what it has open, and the shared memory that it uses."""

import collections
import contextlib
import os
import pathlib
import threading

#: Where shared memory that has a name is, and what ours is called.
SHARED = ("/dev/shm/", "/memfd:sb3_ca2e")


def opened(pid: int) -> collections.Counter[str]:
    """What the descriptors of a process stand for, as /proc has it."""
    found = collections.Counter[str]()
    for descriptor in pathlib.Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):  # it was open to list them
            found[os.readlink(descriptor)] += 1
    return found


def mapped(pid: int) -> set[tuple[str, str]]:
    """Names and inodes of the shared memory that a process has mapped; none if it has ended."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    named = [fields for fields in (line.split(maxsplit=5) for line in lines) if len(fields) == 6]
    return {(name, inode) for *_, inode, name in named if name.startswith(SHARED)}


def join_others() -> None:
    """Wait for what earlier runs of this process still compile, which is not for others to answer for."""
    for thread in threading.enumerate():
        if thread.name == "compile":
            thread.join()
