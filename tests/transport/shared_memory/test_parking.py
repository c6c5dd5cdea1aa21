"""The server that waits between two calls of learn(), and when it is not used again."""

import contextlib
import os
import select
import signal
import subprocess
import threading

import gymnasium as gym
import pytest

from sb3_ca2e.transport.shared_memory import fork_client as forking
from sb3_ca2e.transport.shared_memory.parking import _PARKING, lease, park
from tests.chaos.victims import children
from tests.marked_processes import processes_marked
from tests.toy import RandomWalk, dqn
from tests.user_script import environment, of_ours, script


class Tells(gym.Wrapper):
    """Tells what process the actor was forked from, and what it found around it."""

    def __init__(self):
        super().__init__(RandomWalk())

    def step(self, action):
        *result, info = self.env.step(action)
        info |= {"server": os.getppid(), "variable": os.environ.get("TOLD"), "folder": os.getcwd()}
        return *result, info


KEYS = ("server", "variable", "folder")


def told(model, **kwargs):
    """What an actor of one more ``learn`` tells."""
    seen = {}

    def look(local, _):
        seen.update({key: local["infos"][0][key] for key in KEYS})

    model.learn(60, look, reset_num_timesteps=False, **kwargs)
    return seen


def learner(env=Tells, **kwargs):
    own = {"execution": "async", "n_actors": 2, "n_processes": 2, "local_buffer_size": 10, "info_keys": KEYS}
    return dqn(env, **{**own, **kwargs})


def test_the_next_call_uses_the_server_again_in_any_model():
    first, second = learner(), learner()
    servers = [told(model)["server"] for model in (first, first, second)]
    assert len(set(servers)) == 1
    assert children(servers[0]) == []


def test_a_server_of_other_surroundings_is_not_used(monkeypatch, tmp_path):
    model = learner()
    before = [told(model)]
    monkeypatch.setenv("TOLD", "something")
    before.append(told(model))
    assert before[-1]["variable"] == "something"
    monkeypatch.chdir(tmp_path)
    before.append(told(model))
    assert before[-1]["folder"] == str(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before.append(told(model))
    assert len({each["server"] for each in before}) == 4
    assert told(model) == before[-1]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_none_is_kept_after_an_error(error, process_mark):
    def fail(*_):
        raise error("from the callback")

    told(learner())
    assert len(processes_marked(process_mark)) == 1
    with pytest.raises(error):
        learner().learn(60, fail)
    assert processes_marked(process_mark) == []
    told(learner())
    with pytest.raises(error):
        learner(execution="sync").learn(60, fail)
    assert processes_marked(process_mark) == []


def ended(pid):
    with contextlib.closing(os.fdopen(os.pidfd_open(pid))) as process:
        return select.select([process], [], [], 200)[0] != []


def test_it_ends_when_nobody_has_come_for_it(monkeypatch):
    monkeypatch.setattr(forking, "PARKED", 0.0)
    model = learner()
    server = told(model)["server"]
    assert ended(server)
    assert told(model)["server"] != server


def test_one_that_ends_as_it_is_taken_is_replaced_without_a_word():
    model = learner(actor_restarts=0)
    server = told(model)["server"]
    os.kill(server, signal.SIGSTOP)  # it says nothing any more

    def kill_when_taken():
        while _PARKING._server is not None:
            os.sched_yield()
        os.kill(server, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_taken)
    killer.start()
    assert told(model)["server"] != server
    killer.join()


def test_two_pools_have_two_servers():
    told(learner())
    taken = [lease(), lease()]
    try:
        assert len({server._process.pid for server in taken}) == 2
    finally:
        for server in taken:
            server.kill()


def test_only_one_is_kept(process_mark):
    models = [learner(), learner()]
    both = threading.Barrier(2)

    def learn(model):
        model.learn(60, lambda local, _: both.wait(200) if model.num_timesteps == 10 else None)

    threads = [threading.Thread(target=learn, args=[model]) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(processes_marked(process_mark)) == 1


def test_a_server_that_has_not_started_yet_is_not_kept(process_mark):
    server = forking.ForkServer()
    assert park(server) == []
    assert processes_marked(process_mark) == []


FORKED = """
    import os
    from sb3_ca2e import CA2EDQN
    from sb3_ca2e.transport.shared_memory.parking import _PARKING

    model = CA2EDQN("MlpPolicy", "CartPole-v1", n_actors=2, n_processes=1, learning_starts=1000, seed=0)
    model.learn(100)
    server = _PARKING._server._process.pid
    child = os.fork()
    if child == 0:  # in which nothing but Python may run
        os._exit(_PARKING.take() is not None)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    model.learn(100, reset_num_timesteps=False)
    print(_PARKING._server._process.pid == server)
"""


def test_a_child_does_not_use_it_and_it_ends_with_the_process(tmp_path, process_mark):
    command = script(FORKED, tmp_path)
    done = subprocess.run(command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert of_ours(done.stderr) == ""
    assert (done.returncode, done.stdout) == (0, "0\nTrue\n")
    assert processes_marked(process_mark) == []


def test_a_server_that_failed_while_learning_is_not_kept(process_mark):
    model = learner(actor_restarts=3)

    def kill_the_server(local, _):
        if model.num_timesteps == 20:
            os.kill(local["infos"][0]["server"], signal.SIGKILL)
        return True

    with pytest.warns(match="The server that actors are forked from"):
        model.learn(2000, kill_the_server)
    assert processes_marked(process_mark) == []
