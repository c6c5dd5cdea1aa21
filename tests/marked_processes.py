"""Finds the processes that a test started."""

import os
import pathlib

#: Environment variable by which processes started in a test are known, however they were orphaned.
MARK = "SB3_CA2E_TEST"


def processes_marked(mark: str) -> list[str]:
    """
    :param mark: what a test put into the environment
    :return: command lines of the processes that inherited it
    """
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if folder.name != str(os.getpid()) and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found
