"""Actor processes: how they end, fail and are held together. Each test fails if a process outlives it."""

import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch as th

from sb3_ca2e import CA2EDQN, ActorError, BuilderVecEnv
from sb3_ca2e.actors.heartbeat import Supervision
from sb3_ca2e.actors.spec import WorkerSpec
from sb3_ca2e.transport.in_process import SyncActors
from sb3_ca2e.transport.shared_memory.fork_client import ForkServer
from sb3_ca2e.transport.shared_memory.pool import AsyncActors
from tests import REPOSITORY
from tests.actors.recording_env import RecordingEnv, make_spec
from tests.chaos.victims import children
from tests.marked_processes import open_files, shared_memory

pytestmark = pytest.mark.usefixtures("_patient")
BLOCK = 5
ONCE = Supervision(restarts=0, timeout=60.0)


class Watched(RecordingEnv):
    """
    Tells about its process, and leaves a file when it is closed.

    :param closed: the file
    :param seconds: that a step takes
    """

    def __init__(self, closed: pathlib.Path | None = None, seconds: float = 0.0):
        super().__init__(lengths=(9,))
        self.closed, self.seconds = closed, seconds

    def step(self, action):
        time.sleep(self.seconds)
        *rest, info = super().step(action)
        report = {"pid": os.getpid(), "threads": th.get_num_threads(), "cuda": os.environ.get("CUDA_VISIBLE_DEVICES")}
        return *rest, {**info, **report, "bulk": bytes(100_000)}

    def close(self):
        if self.closed is not None:
            self.closed.touch()


class Stuck(RecordingEnv):
    """A step that never ends."""

    def step(self, action):
        select.select([], [], [])


class Failing(RecordingEnv):
    """
    Fails as if it were a real environment.

    :param where: in which method
    """

    def __init__(self, where: str):
        super().__init__()
        self.where = where
        self.check("__init__")

    def check(self, where: str) -> None:
        if self.where == where:
            raise ConnectionResetError(f"the simulator is gone, said in {where}")

    def reset(self, **kwargs):
        self.check("reset")
        return super().reset(**kwargs)

    def step(self, action):
        self.check("step")
        return super().step(action)

    def close(self):
        self.check("close")


def specs_of(env_fns, n_processes: int, **changes) -> list[WorkerSpec]:
    """Slots dealt out to processes as the algorithms do it."""
    n_slots = len(env_fns)
    policy = {"net_arch": [8]}
    model = CA2EDQN("MlpPolicy", BuilderVecEnv([RecordingEnv] * n_slots), policy_kwargs=policy, n_actors=n_slots)
    model.env.env_fns = env_fns  # the learner's own environments are others: these would fail or block in it
    return [
        make_spec(
            model,
            process=process,
            slots=(slots := list(range(process, n_slots, n_processes))),
            explorations=model.explorations()[: len(slots)],
            priors=[None] * len(slots),
            block_size=BLOCK,
            **changes,
        )
        for process in range(n_processes)
    ]


def run_until_it_fails(pool) -> ActorError:
    try:
        while True:
            pool.collect()
    except ActorError as error:
        return error


def test_actors_have_no_cuda_device_and_one_thread_and_a_killed_one_is_named():
    specs = specs_of([Watched] * 4, 2, info_keys=("pid", "threads", "cuda"), seed=11, supervision=ONCE)
    pool = AsyncActors(specs)
    try:
        pids = {}
        while len(pids) < 2:
            handover, blocks = pool.collect()
            assert [block.slot for block in blocks] == specs[handover.process].slots
            for info in handover.infos.values():
                assert (info["threads"], info["cuda"]) == (1, "")
                pids[handover.process] = info["pid"]
        assert len({os.getpid(), *pids.values()}) == 3
        os.kill(pids[1], signal.SIGKILL)
        assert "Actor process 1 (slots [1, 3], life 0, seed 11) was killed by SIGKILL" in str(run_until_it_fails(pool))
    finally:
        pool.stop()


def broken_pipe() -> RecordingEnv:
    class Broken(RecordingEnv):
        def step(self, action):
            raise BrokenPipeError("its own")

    return Broken()


FAILURES = {
    "__init__": (lambda: Failing("__init__"), "ConnectionResetError: the simulator is gone, said in __init__"),
    "reset": (lambda: Failing("reset"), "ConnectionResetError: the simulator is gone, said in reset"),
    "step": (lambda: Failing("step"), "ConnectionResetError: the simulator is gone, said in step"),
    "broken pipe": (broken_pipe, "BrokenPipeError: its own"),  # not one of ours
}


def check_failure(message: str, slot: int, failure: str) -> None:
    assert f"slot {slot}, life 0, seed 11" in message
    assert failure in message
    assert "Traceback" in message
    assert "test_pool.py" in message  # a line of the traceback


def test_environments_that_fail_in_processes_are_named_with_their_tracebacks():
    # two slots a process, of which the second one fails
    env_fns = [RecordingEnv] * len(FAILURES) + [env for env, _ in FAILURES.values()]
    pool = AsyncActors(specs_of(env_fns, len(FAILURES), seed=11, supervision=ONCE))
    errors = []
    try:
        while len(errors) < len(FAILURES):
            message = str(run_until_it_fails(pool))
            errors += [message] if "failed:" in message else []
    finally:
        pool.stop()
    for message in errors:
        process = int(re.match(r"Actor process (\d+)", message)[1])
        check_failure(message, len(FAILURES) + process, list(FAILURES.values())[process][1])


@pytest.mark.parametrize("where", FAILURES)
def test_an_environment_that_fails_in_this_process_is_named_with_its_traceback(where):
    env, failure = FAILURES[where]
    pool = SyncActors(specs_of([RecordingEnv, env], 1, seed=11)[0])
    check_failure(str(run_until_it_fails(pool)), 1, failure)
    pool.stop()


def test_what_was_handed_over_before_a_failure_is_delivered():
    class FailsLater(RecordingEnv):
        def step(self, action):
            if len(self.episodes) == 2 and self.episodes[-1].steps:
                raise ValueError("in the second episode")
            return super().step(action)

    pool = AsyncActors(specs_of([lambda: FailsLater(lengths=(BLOCK,))], 1, supervision=ONCE))
    try:
        while pool._processes[0].life is not None:  # until it has ended, after all that it sent
            pool._receive(1.0)
        _, (block,) = pool.collect()
        assert len(block) == BLOCK
        assert "in the second episode" in str(run_until_it_fails(pool))
    finally:
        pool.stop()


@pytest.mark.usefixtures("_unhurried")
def test_environments_are_closed_though_an_announcement_is_half_sent(tmp_path):
    closed = [tmp_path / str(slot) for slot in range(2)]
    # More than a pipe holds: the actor is in the middle of sending it until someone reads
    specs = specs_of([lambda file=file: Watched(file) for file in closed], 1, info_keys=("bulk",))
    pool = AsyncActors(specs)
    try:
        select.select([pool._processes[0].life.messages], [], [])
    finally:
        pool.stop()
    assert all(file.exists() for file in closed)


def test_without_a_rate_limit_a_process_runs_on_while_another_is_stuck_and_stop_ends_both(tmp_path, monkeypatch):
    closed, stop = tmp_path / "closed", ForkServer.stop

    def stop_when_closed(server):
        while not closed.exists():  # the stuck one is killed after some seconds, and both would be
            time.sleep(0.01)
        return stop(server)

    monkeypatch.setattr(ForkServer, "stop", stop_when_closed)
    pool = AsyncActors(specs_of([lambda: Watched(closed), Stuck], 2), rate_limit=False)
    try:
        collected = [pool.collect()[0] for _ in range(6)]
    finally:
        pool.stop()
    assert [(handover.process, handover.sequence) for handover in collected] == [(0, i) for i in range(6)]
    assert closed.exists()


def test_with_a_rate_limit_no_process_is_more_than_two_handovers_ahead():
    env_fns = [lambda: Watched(seconds=0), lambda: Watched(seconds=0.001), lambda: Watched(seconds=0.004)]
    pool = AsyncActors(specs_of(env_fns, 3))
    received = [0, 0, 0]
    try:
        for _ in range(60):
            handover, _ = pool.collect()
            assert handover.sequence == received[handover.process]
            assert handover.sequence < min(received) + 2
            assert all(pool._board.credit(process) <= min(received) + 2 for process in range(3))
            received[handover.process] += 1
    finally:
        pool.stop()
    assert max(received) - min(received) <= 2


@pytest.mark.extended
def test_starting_and_stopping_leaves_nothing_behind():
    def state() -> tuple[set[str], set[str], set[int]]:
        return open_files(), shared_memory(), set(children(os.getpid()))

    specs = specs_of([Watched] * 2, 1)
    before = state()
    for cycle in range(5):
        pool = AsyncActors(specs)
        if cycle % 2:  # stopped while it starts, and while it collects
            pool.collect()
        pool.stop()
        pool.stop()
        del pool
        assert all(now <= then for now, then in zip(state(), before, strict=True))


def test_a_server_that_still_imports_is_killed_rather_than_waited_for():
    server = ForkServer()
    assert server.stop() == []  # it has not been asked for anything: so it can't have said that it is there
    assert server.kill() == -signal.SIGKILL, "how it had ended before"


LEARNER = """
from tests.transport.shared_memory.test_pool import Watched
from sb3_ca2e import CA2EDQN
from stable_baselines3.common.callbacks import BaseCallback

class Report(BaseCallback):
    pids = set()

    def _on_step(self):
        new = {info["pid"] for info in self.locals["infos"]} - self.pids
        for pid in new:
            print(pid, flush=True)
        self.pids |= new
        return True

model = CA2EDQN("MlpPolicy", Watched(), n_actors=2, n_processes=2, info_keys=("pid",), learning_starts=10**9)
model.learn(10**9, callback=Report())
"""


def parent_of(pid: int) -> int:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waiting for processes of others needs Linux")
def test_actors_and_server_end_with_a_killed_learner(tmp_path):
    script = tmp_path / "learner.py"
    script.write_text(textwrap.dedent(LEARNER))
    path = os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as learner:
        assert learner.stdout is not None
        actors = [int(learner.stdout.readline()) for _ in range(2)]
        servers = {parent_of(pid) for pid in actors}
        assert len(servers) == 1
        assert parent_of(*servers) == learner.pid
        pidfds = [os.pidfd_open(pid) for pid in (*actors, *servers)]
        learner.kill()
    while pidfds:
        for fd in select.select(pidfds, [], [])[0]:  # all of them end
            os.close(fd)
            pidfds.remove(fd)


#: A learner, its server, which is to end and has hours for that, and an actor that ends once it has read something.
REAPING = """
import os, select, signal, time
from sb3_ca2e.transport.shared_memory import fork_server as server, restarts as supervision

supervision.GRACE = 10_000.0
learner, original = os.getpid(), select.select

def waits(*arguments):
    select.select = original
    print("waits", flush=True)
    return original(*arguments)

if os.fork() == 0:
    wakeup, write = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write)
    actor = os.fork()
    if actor > 0:
        select.select = waits
        server._reap({actor: 1}, [], wakeup, learner)
        print("done", flush=True)
        os._exit(0)
    if os.read(0, 1):
        print("closed", flush=True)
        os._exit(0)
time.sleep(10_000)
"""


@pytest.fixture
def learner():
    """Under way until its server waits."""
    command = [sys.executable, "-c", REAPING]
    learner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert learner.stdout.readline() == "waits\n"
    yield learner
    learner.kill()
    learner.communicate()


def test_a_server_gives_actors_the_time_to_close_their_environments(learner):
    learner.stdin.write(".\n")
    assert learner.stdout.readline() == "closed\n"
    assert learner.stdout.readline() == "done\n"


def test_a_server_whose_learner_dies_only_after_its_files_are_closed_does_not_wait_for_a_hanging_actor_any_longer(
    learner,
):
    learner.kill()
    assert learner.communicate()[0] == "done\n"  # the pipe ends when actor and server have
