"""Copies within a process leave the classes and functions of the user's script as they are."""

import subprocess
import types

import pytest
import torch as th

from sb3_ca2e.common import copying
from tests.user_script import environment, of_ours, script

SCRIPT = """
import sys
import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.torch_layers import FlattenExtractor
from sb3_ca2e import CA2EDQN

CONFIG, SEEN = {"bonus": 1.0}, []

class Env(gym.Wrapper):
    def step(self, action):
        observation, _, *rest = self.env.step(action)
        SEEN.append(1)
        return (observation, CONFIG["bonus"], *rest)

class Features(FlattenExtractor):
    def forward(self, observations):
        SEEN.append(1)
        return super().forward(observations)

if __name__ == "__main__":
    own = {"execution": sys.argv[1], "n_actors": 2, "n_steps": 1}
    policy = {"features_extractor_class": Features, "net_arch": [8]}
    methods = Env.step, Features.forward
    for algorithm, own in [(DQN, {}), (CA2EDQN, own)]:
        CONFIG["bonus"] = 1.0
        prior = DQN("MlpPolicy", Env(gym.make("CartPole-v1")), policy_kwargs=policy, buffer_size=1)
        if own:
            own["prior_agents"] = [prior]
        model = algorithm("MlpPolicy", Env(gym.make("CartPole-v1")), policy_kwargs=policy, learning_starts=50, **own)
        CONFIG["bonus"] = 9.0
        model.learn(100)
        assert (Env.step, Features.forward) == methods
        assert Env.step.__globals__ is globals()
        SEEN.clear()
        fresh = Env(gym.make("CartPole-v1"))
        fresh.reset()
        fresh.step(0)
        assert SEEN == [1]
        model.predict(np.zeros(4), deterministic=True)  # else it now and then acts at random
        assert SEEN == [1, 1]
        print(sorted(set(model.replay_buffer.sample(300).rewards.flatten().tolist())))
"""


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_a_scripts_classes_stay_as_they_are_and_see_its_globals(execution, tmp_path):
    written = script(SCRIPT, tmp_path, execution)
    done = subprocess.run(written, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert of_ours(done.stderr) == ""
    assert done.stdout.split() == ["[9.0]", "[9.0]"]


NUMBERS = {"n": 0}


def counter(step):
    total = [0]

    def count(by=step, *, times=1):
        NUMBERS["n"] += 1
        total[0] += by * times
        return total[0]

    count.unit = ["apples"]
    return count


def test_functions_hold_copies_of_what_they_hold_and_see_the_globals_that_they_saw():
    count = counter(2)
    assert count() == 2
    copied = copying.copy({"count": count, "again": count})
    assert copied["count"] is copied["again"] is not count
    assert copied["count"].__code__ is count.__code__
    before = NUMBERS["n"]
    assert (copied["count"](), copied["count"](1, times=3), count()) == (4, 7, 4)
    assert NUMBERS["n"] == before + 3
    assert copied["count"].unit == ["apples"]
    assert copied["count"].unit is not count.unit
    assert (copied["count"].__name__, copied["count"].__qualname__) == (count.__name__, count.__qualname__)


def test_a_function_that_knows_itself_and_one_with_an_empty_cell_are_copied():
    def outer():
        def factorial(n):
            return 1 if n < 2 else n * factorial(n - 1)

        def late():
            return unset

        yield factorial, late
        unset = 1
        yield unset

    factorial, late = copying.copy(next(outer()))
    assert factorial(5) == 120
    assert factorial.__closure__[0].cell_contents is factorial
    with pytest.raises(NameError):
        late()


def test_classes_modules_and_functions_without_a_closure_are_the_same():
    class Local:
        def __init__(self):
            self.held = [Local, th, counter, types.ModuleType("made_here")]
            self.itself = self

    local = Local()
    copied = copying.copy(local)
    assert type(copied) is Local
    assert copied is not local
    assert copied.itself is copied
    assert all(a is b for a, b in zip(copied.held, local.held, strict=True))
    assert copied.held is not local.held
