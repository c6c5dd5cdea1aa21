"""What all tests share: one thread each, and no process may outlive a test."""

import signal
import uuid
from collections.abc import Iterator
from multiprocessing import forkserver

import pytest
import torch as th

from marked_processes import MARK, processes_marked
from sb3_ca2e.replay.rows import Rows
from sb3_ca2e.replay.sum_tree import SumTree

th.set_num_threads(1)

# Shells start background jobs with Ctrl-C ignored, and so would be whatever the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def process_mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Mark the processes that a test starts, and fail it if one is left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    yield mark
    assert processes_marked(mark) == []


@pytest.fixture(scope="session")
def _forkserver() -> None:
    """Python's, to fork the workers of ``SubprocVecEnv``: never this process, which has run PyTorch. It stays."""
    forkserver.set_forkserver_preload(["stable_baselines3.common.vec_env"])
    forkserver.ensure_running()


@pytest.fixture
def _tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memories on the CPU work as on any other device."""

    def set_tree(rows: Rows, capacity: int) -> None:
        rows.host, rows.priorities = None, SumTree(capacity, rows.device)

    monkeypatch.setattr(Rows, "_set_tree", set_tree)
