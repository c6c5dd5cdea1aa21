"""Signals while a model learns, at chosen moments; whole/test_clean.py and chaos/endings.py send them from outside."""

import contextlib
import os
import signal
import subprocess
import threading
from functools import partial

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e.learner import interrupts
from sb3_ca2e.replay import PrioritizedReplayBuffer
from tests.chaos.faulty import Faulty
from tests.marked_processes import processes_marked
from tests.toy import dqn
from tests.user_script import environment, of_ours, script


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)


class Swallowing(th.nn.ReLU):
    """Does what C code does that asks whether an object has an attribute, while Ctrl-C is pressed."""

    calls = 0

    def forward(self, x):
        if x.requires_grad:
            Swallowing.calls += 1
            if Swallowing.calls == 10:
                with contextlib.suppress(KeyboardInterrupt):
                    interrupt()
        return super().forward(x)


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_an_interrupt_that_a_library_swallows_is_not_lost(execution, monkeypatch):
    monkeypatch.setattr(Swallowing, "calls", 0)
    model = dqn(execution=execution, policy_kwargs={"activation_fn": Swallowing, "net_arch": [8]})
    with pytest.raises(KeyboardInterrupt):
        model.learn(2000)
    assert model.num_timesteps < 2000
    assert model._n_updates == 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    model.learn(200, reset_num_timesteps=False)


class Interrupted(PrioritizedReplayBuffer):
    """Ctrl-C is pressed while a block is committed."""

    def add_block(self, block):
        if self.size() == 60:  # the first of the second round
            interrupt()
        super().add_block(block)


def test_what_is_being_committed_is_committed_whole():
    model = dqn(replay_buffer_class=Interrupted, gradient_steps=0)
    with pytest.raises(KeyboardInterrupt):
        model.learn(2000)
    assert model.replay_buffer.size() == 120  # both rounds of three slots


class Callback(BaseCallback):
    """Ctrl-C is pressed while a callback evaluates, say."""

    reached = False

    def _on_step(self):
        if self.num_timesteps == 100:
            interrupt()
            self.reached = True
        return True


def test_a_callback_is_interrupted_at_once():
    callback = Callback()
    with pytest.raises(KeyboardInterrupt):
        dqn().learn(2000, callback)
    assert not callback.reached


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handlers_of_the_user_keep_their_ways(number):
    calls = []
    handler = lambda *_: calls.append(1)  # noqa: E731
    previous = signal.signal(number, handler)
    try:
        model = dqn()
        model.learn(300, Counting(number))
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, previous)
    assert calls == [1]
    assert model.num_timesteps == 300


def test_other_threads_learn_too():
    model = dqn()
    thread = threading.Thread(target=model.learn, args=(300,))
    thread.start()
    thread.join()
    assert model.num_timesteps == 300


class Counting(BaseCallback):
    """Sends a signal in the middle of training."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def _on_step(self):
        if self.num_timesteps == 100:
            interrupt(self.number)
        return True


def interrupting_when_closed(number):
    """An environment whose actor, when it is told to end, sends a signal to the learner, which waits for it."""
    return partial(Faulty, partial(os.kill, os.getpid(), number), "close", spared=os.getpid())


@pytest.mark.usefixtures("_unhurried")
def test_a_signal_while_actors_end_waits_for_that(process_mark):
    model = dqn(interrupting_when_closed(signal.SIGINT), execution="async", n_processes=3)
    with pytest.raises(KeyboardInterrupt):
        model.learn(10_000, Callback())  # and again from each of the three
    assert processes_marked(process_mark) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        model.learn(200)
    assert model.num_timesteps == 200
    assert processes_marked(process_mark) == []


@pytest.mark.usefixtures("_unhurried")
def test_a_handler_of_the_user_that_raises_is_called_when_actors_have_ended(process_mark):
    seen = []

    def handler(*_):
        seen.append(processes_marked(process_mark))
        raise SystemExit("terminated")

    model = dqn(interrupting_when_closed(signal.SIGTERM), execution="async", n_processes=3)
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(SystemExit, match="terminated"):
            model.learn(200)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert seen == [[]]
    assert model.num_timesteps == 200


def interrupted_twice(reached):
    with interrupts.Interrupts() as both:
        interrupt()
        reached.append("once")
        interrupt()
        reached.append("twice")
        both.check()
    reached.append("unharmed")


@pytest.mark.parametrize(("again", "expected"), [(1000.0, ["once", "twice"]), (0.0, ["once"])])
def test_another_signal_counts_if_it_comes_later(again, expected, monkeypatch):
    monkeypatch.setattr(interrupts, "AGAIN", again)
    reached = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_twice(reached)
    assert reached == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


TERMINATED = """
    import os
    import signal
    from sb3_ca2e import CA2EDQN
    from stable_baselines3.common.callbacks import BaseCallback

    class Terminate(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 200:
                os.kill(os.getpid(), signal.SIGTERM)
            return True

    model = CA2EDQN("MlpPolicy", "CartPole-v1", n_actors=2, n_processes=1, seed=0, compile=False)
    try:
        model.learn(100_000, Terminate())
    except BaseException:
        print("not ended", flush=True)
    finally:
        print("not ended", flush=True)
"""


def test_sigterm_ends_the_process_when_actors_have_ended(tmp_path, process_mark):
    command = script(TERMINATED, tmp_path)
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True)
    assert (done.returncode, done.stdout, of_ours(done.stderr)) == (-signal.SIGTERM, "", "")
    assert processes_marked(process_mark) == []
