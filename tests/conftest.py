"""What all tests share: one thread each, and no process or thread of ours may outlive a test."""

import json
import os
import pathlib
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from typing import Any

import pytest
import torch as th
from hypothesis import settings

from sb3_ca2e.replay import storage
from sb3_ca2e.replay.rows import Rows
from sb3_ca2e.transport.shared_memory import actor_process as life
from sb3_ca2e.transport.shared_memory import fork_client as forking
from sb3_ca2e.transport.shared_memory import parking
from tests import inside
from tests.chaos.victims import children
from tests.marked_processes import MARK, await_end, kill_marked, processes_marked

th.set_num_threads(1)
# What programs print is not to depend on the terminal that tests are run in.
for name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)

# Shells start background jobs with Ctrl-C ignored, and so would be whatever the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The gate tries the same examples each time; `make stress` looks for others.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    :param parser: gets our options
    """
    parser.addoption("--failures", type=pathlib.Path, help="append each failure to this file, as a line of JSON")
    parser.addoption("--patience", type=float, default=1.0, help="multiply the tests' limits of time")


class Failures:
    """
    Writes down which tests fail, and how.

    :param file: to append to
    """

    def __init__(self, file: pathlib.Path):
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """
        :param report: of a test's set-up, call or clearing up
        """
        if report.failed:
            with self.file.open("a") as file:
                print(json.dumps({"test": report.nodeid, "traceback": report.longreprtext}), file=file)


def pytest_configure(config: pytest.Config) -> None:
    """
    :param config: with our options
    """
    if (file := config.getoption("--failures")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(file))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    :param config: with our options
    :param items: whose limits change
    """
    if (patience := config.getoption("--patience")) != 1.0:
        for item in items:
            marker = item.get_closest_marker("timeout")
            limit = marker.args[0] if marker else float(config.getini("timeout"))
            item.add_marker(pytest.mark.timeout(patience * limit), append=False)


#: Where pytest writes which test runs, and what stands there instead: a parked server needs the same environment.
TEST, ANY_TEST = "PYTEST_CURRENT_TEST", "a test"


@pytest.fixture(scope="module")
def _one_server() -> Iterator[str]:
    """Fork the actors of all tests of a module from one server, whose imports take seconds; yield their mark."""
    yield uuid.uuid4().hex
    parking.discard_parked()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    """Let all tests have the same environment."""
    os.environ[TEST] = ANY_TEST
    return (yield)


@pytest.fixture(autouse=True)
def process_mark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Mark the processes that a test starts, and fail it if one is left; wait for threads that learning leaves."""
    stays = "_one_server" in request.fixturenames
    mark = request.getfixturevalue("_one_server") if stays else uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    os.environ[TEST] = ANY_TEST
    yield mark
    for thread in threading.enumerate():
        if thread.name == "compile":
            thread.join()
    if not stays:
        parking.discard_parked()
    if left := processes_marked(mark, but=inside.parked_server()):
        kill_marked(mark)
    assert left == []


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However seldom actors and their server get a core, the learner goes on waiting for what they do and say."""
    monkeypatch.setattr(life, "STALLED", 1000.0)
    monkeypatch.setattr(life, "NO_REPORT", 1000.0)
    monkeypatch.setattr(forking, "SHUTDOWN", 1000.0)


@pytest.fixture
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors that are told to end have all the time that it takes, instead of ``GRACE`` seconds."""

    def after_the_actors(end: Callable[[forking.ForkServer], Any]) -> Callable[[forking.ForkServer], Any]:
        def end_after_them(server: forking.ForkServer) -> Any:
            for pid in children(server._process.pid):
                await_end(pid)
            return end(server)

        return end_after_them

    for name in ("stop", "park"):
        monkeypatch.setattr(forking.ForkServer, name, after_the_actors(getattr(forking.ForkServer, name)))


@pytest.fixture(scope="session")
def _forkserver() -> None:
    """Python's, to fork the workers of ``SubprocVecEnv``: never this process, which has run PyTorch. It stays."""
    forkserver.set_forkserver_preload(["stable_baselines3.common.vec_env"])
    forkserver.ensure_running()


@pytest.fixture
def _tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memories on the CPU work as on any other device."""
    monkeypatch.setattr(storage, "rows_on", lambda device: Rows)
