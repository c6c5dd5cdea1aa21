"""Finds what a test started and opened: nobody else's processes, descriptors or memory."""

import contextlib
import gc
import os
import pathlib
import select
import signal
import subprocess

#: Environment variable by which processes started in a test are known, however they were orphaned.
MARK = "SB3_CA2E_TEST"
#: What the names of our shared memory begin with.
SHARED = "sb3_ca2e-"


def processes_marked(mark: str, but: int | None = None) -> list[str]:
    """
    :param mark: what a test put into the environment
    :param but: a process that does not count
    :return: command lines of the processes that inherited it
    """
    return [command for pid, command in _marked(mark).items() if pid != but]


def kill_marked(mark: str) -> None:
    """
    End whatever a test that failed has left, which is not to disturb the next one.

    :param mark: what the test put into the environment
    """
    while marked := _marked(mark):
        for pid in marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await_end(pid)
    for each in gc.get_objects():
        if type(each) is subprocess.Popen:
            each.poll()  # else it warns, in another test, that it is still running


def await_ends(mark: str) -> None:
    """
    Wait for the ends of all processes that a test started, and of those that they start meanwhile.

    :param mark: what the test put into the environment
    """
    while marked := _marked(mark):
        for pid in marked:
            await_end(pid)


def await_end(pid: int) -> None:
    """
    :param pid: a process, whosever child it is
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([pidfd], [], [])
    os.close(pidfd)


def open_files() -> set[str]:
    """
    :return: descriptors of this process, and what they lead to
    """
    gc.collect()  # what earlier tests have left
    found = set()
    for link in pathlib.Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{link.name} {link.readlink()}")
        except OSError:  # the one that lists this folder
            continue
    return found


def shared_memory() -> set[str]:
    """
    :return: what this process holds of our shared memory, and what of it anybody could find by a name
    """
    files, maps = open_files(), pathlib.Path("/proc/self/maps").read_text().splitlines()
    held = {line for line in (*files, *maps) if f"memfd:{SHARED}" in line}
    return held | {str(path) for path in pathlib.Path("/dev/shm").glob(f"*{SHARED}*")}


def _marked(mark: str) -> dict[int, str]:
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if folder.name != str(os.getpid()) and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found
