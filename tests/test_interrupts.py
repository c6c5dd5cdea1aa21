"""Ctrl-C while a model learns: tests/test_clean.py does it from outside, here it comes at chosen moments."""

import contextlib
import os
import signal
import threading

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e.replay import PrioritizedReplayBuffer
from toy import dqn


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


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


def test_handlers_of_the_user_and_other_threads_keep_their_ways():
    calls = []
    previous = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        model = dqn()
        model.learn(300, Counting())
    finally:
        signal.signal(signal.SIGINT, previous)
    assert calls == [1]
    assert model.num_timesteps == 300
    thread = threading.Thread(target=model.learn, args=(300,))
    thread.start()
    thread.join()
    assert model.num_timesteps == 300


class Counting(BaseCallback):
    def _on_step(self):
        if self.num_timesteps == 100:
            interrupt()
        return True
