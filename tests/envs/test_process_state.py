"""Settings of the user's process hold in actor processes."""

import subprocess

from tests.user_script import environment, of_ours, script

TEXT = """
import decimal, locale, logging, sys
import functools
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import DQN
from sb3_ca2e import CA2EDQN

@functools.lru_cache(maxsize=5)
def bonus(number):
    return float(number)

class Env(gym.Env):
    observation_space, action_space = spaces.Box(-1e6, 1e6, (7,), np.float64), spaces.Discrete(2)

    def observed(self):
        levels = logging.getLogger().level, logging.getLogger("mine").level
        numbers = [sys.getrecursionlimit(), sys.get_int_max_str_digits(), decimal.getcontext().prec, *levels]
        return np.array([*numbers, np.geterr()["over"] == "raise", self.bonus(3)], np.float64)

    @functools.lru_cache
    def bonus(self, number):
        return bonus(number) + 1.0

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observed(), {}

    def step(self, action):
        self.t += 1
        logging.info("a step of an environment")
        return self.observed(), 0.0, False, self.t >= 10, {}

if __name__ == "__main__":
    sys.setrecursionlimit(5000)
    sys.set_int_max_str_digits(9999)
    decimal.getcontext().prec = 50
    np.seterr(over="raise")
    logging.basicConfig(level=logging.INFO, format="told: %(message)s", stream=sys.stderr)
    logging.getLogger("mine").setLevel(33)
    for algorithm, own in [(DQN, {}), (CA2EDQN, {"n_actors": 2, "n_steps": 1})]:
        model = algorithm("MlpPolicy", Env(), learning_starts=500, device="cpu", **own).learn(40)
        print(np.unique(model.replay_buffer.sample(100).observations.numpy(), axis=0).tolist())
"""


def test_settings_of_the_users_process_hold_in_actor_processes(tmp_path):
    written = script(TEXT, tmp_path)
    done = subprocess.run(written, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    lines = of_ours(done.stderr).splitlines()
    assert set(lines) == {"told: a step of an environment"}
    assert len(lines) >= 80
    sb3, ours = done.stdout.splitlines()
    assert ours == sb3 == "[[5000.0, 9999.0, 50.0, 20.0, 33.0, 1.0, 4.0]]"
