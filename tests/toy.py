"""A small environment with every kind of ending, and cheap learners."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_ca2e import CA2EDDPG, CA2EDQN


class RandomWalk(gym.Env):
    """
    Random observations and rewards, episodes of random lengths, some terminated and some truncated.

    :param continuous: Box actions with bounds that need scaling, instead of three discrete ones
    :param end_probability: of an end at each step
    """

    def __init__(self, continuous: bool = False, end_probability: float = 0.15):
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        bounds = np.array([1.0, 3.0], dtype=np.float32)
        self.action_space = spaces.Box(-bounds, bounds) if continuous else spaces.Discrete(3)
        self.end_probability = end_probability

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action):
        ended = self.np_random.random() < self.end_probability
        truncated = ended and bool(self.np_random.random() < 0.4)
        return self._observation(), float(self.np_random.normal()), ended and not truncated, truncated, {}

    def _observation(self):
        return self.np_random.normal(size=3).astype(np.float32)


#: Arguments of a learner whose runs are repeatable.
SYNC = {"execution": "sync", "n_actors": 3, "local_buffer_size": 20}


def dqn(env="CartPole-v1", algorithm=CA2EDQN, **kwargs):
    return _small(algorithm, CA2EDQN, env, kwargs)


def ddpg(env="Pendulum-v1", algorithm=CA2EDDPG, **kwargs):
    return _small(algorithm, CA2EDDPG, env, kwargs)


def _small(algorithm, ours, env, kwargs):
    own = SYNC if issubclass(algorithm, ours) else {"buffer_size": 5000}
    common = {"learning_starts": 50, "seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [32]}}
    return algorithm("MlpPolicy", env, **{**common, **own, **kwargs})
