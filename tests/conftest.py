"""What all tests share: one thread each, and no process may outlive a test."""

import os
import pathlib
import uuid
from collections.abc import Iterator

import pytest
import torch as th

th.set_num_threads(1)

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


@pytest.fixture(autouse=True)
def process_mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Mark the processes that a test starts, and fail it if one is left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    yield mark
    assert processes_marked(mark) == []
