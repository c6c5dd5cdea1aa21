"""Changes to classes of environments at run time reach actor processes, which import these classes anew."""

import subprocess
import textwrap

import numpy as np
import pytest

from tests.user_script import environment, of_ours, script

MODULE = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces

SCALE = 1.0
TABLE = {"bonus": [0.0]}

class Base(gym.Env):
    level = 1.0

class Env(Base):
    observation_space, action_space = spaces.Box(-99, 99, (3,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observed(), {}

    def observed(self):
        return np.array([SCALE, self.level, TABLE["bonus"][0]], np.float32)

    def step(self, action):
        self.t += 1
        return self.observed(), self.rewarded(), False, self.t >= 10, {}

    def rewarded(self):
        return 1.0

class Outside(gym.RewardWrapper):
    factor = 1.0

    def reward(self, reward):
        return self.factor * reward

def make():
    class Local(gym.Wrapper):
        name = "pickled with all that it holds"

    return Outside(Local(Env()))
"""

SCRIPT = """
import sys
import numpy as np
import brought
from stable_baselines3 import DQN
from sb3_ca2e import CA2EDQN

if __name__ == "__main__":
    brought.SCALE = 2.0
    brought.TABLE["bonus"][0] = 3.0
    brought.Base.level = 4.0
    brought.Env.rewarded = lambda self: 5.0 * brought.SCALE
    brought.Outside.factor = 6.0
    for algorithm, own in [(DQN, {}), (CA2EDQN, {"n_actors": 3, "n_steps": 1})]:
        env = brought.make if sys.argv[1] == "function" and own else brought.make()
        model = algorithm("MlpPolicy", env, learning_starts=500, device="cpu", **own).learn(90)
        batch = model.replay_buffer.sample(300)
        print(np.unique(batch.observations.numpy(), axis=0).tolist(), np.unique(batch.rewards.numpy()).tolist())
"""


@pytest.mark.parametrize("brought", ["function", "object"])
def test_changes_to_classes_and_their_modules_reach_actor_processes(brought, tmp_path):
    (tmp_path / "brought.py").write_text(textwrap.dedent(MODULE))
    written = script(SCRIPT, tmp_path, brought)
    done = subprocess.run(written, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert of_ours(done.stderr) == ""
    sb3, ours = done.stdout.splitlines()
    assert ours == sb3 == f"{np.array([[2.0, 4.0, 3.0]]).tolist()} [60.0]"


HELD = """
import dataclasses
import gymnasium as gym
import numpy as np
from gymnasium import spaces

@dataclasses.dataclass
class Settings:
    bonus: float = 1.0

@dataclasses.dataclass(frozen=True)
class Fixed:
    bonus: float = 1.0

SETTINGS, FIXED = Settings(), Fixed()

class Car:
    power = 1.0

def computed():
    return 1.0

class Env(gym.Env):
    observation_space, action_space = spaces.Box(-99, 99, (9,), np.float32), spaces.Discrete(2)
    settings, spoiled = Settings(), 1.0

    def wrapped(self):
        return 1.0

    @property
    def told(self):
        return 1.0

    @staticmethod
    def alone():
        return 1.0

    def partial(self, value=1.0):
        return value

    def observed(self):
        parts = [self.wrapped(), self.told, self.alone(), self.partial(), computed(), SETTINGS.bonus, Car.power]
        return np.array([*parts, self.settings.bonus, self.spoiled], np.float32)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observed(), {}

    def step(self, action):
        self.t += 1
        return self.observed(), 0.0, False, self.t >= 10, {}
"""

OTHERS = """
import functools
import sys
import threading
import numpy as np
import held
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import SubprocVecEnv
from sb3_ca2e import CA2EDQN

def change():
    before = held.Env.wrapped

    @functools.wraps(before)
    def ten_times(self):
        return 10 * before(self)

    held.Env.wrapped = ten_times
    held.Env.told = property(lambda self: 11.0)
    held.Env.alone = staticmethod(lambda: 12.0)
    held.Env.partial = functools.partialmethod(held.Env.partial, 13.0)
    held.computed = lambda: 14.0
    held.SETTINGS.bonus, held.Car.power, held.Env.settings.bonus, held.Env.spoiled = 15.0, 16.0, 17.0, 18.0
    held.Env.locked = lambda self, lock=threading.Lock(): None

def changed():
    change()
    return held.Env()

if __name__ == "__main__":
    if sys.argv[1] == "here":
        change()
    for algorithm, own in [(DQN, {}), (CA2EDQN, {"n_actors": 3, "n_steps": 1})]:
        env = held.Env() if sys.argv[1] == "here" else SubprocVecEnv([changed], start_method="forkserver")
        model = algorithm("MlpPolicy", env, learning_starts=500, device="cpu", **own).learn(90)
        print(np.unique(model.replay_buffer.sample(300).observations.numpy(), axis=0).tolist())
        model.get_env().close()
"""


@pytest.mark.parametrize("where", ["here", "in a worker"])
def test_so_do_methods_of_every_kind_and_what_objects_of_theirs_hold(where, tmp_path):
    (tmp_path / "held.py").write_text(textwrap.dedent(HELD))
    written = script(OTHERS, tmp_path, where)
    done = subprocess.run(written, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert of_ours(done.stderr) == ""
    sb3, ours = done.stdout.splitlines()
    assert ours == sb3 == f"{[[float(number) for number in range(10, 19)]]}"
