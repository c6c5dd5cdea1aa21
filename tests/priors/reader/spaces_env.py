"""An environment of any spaces."""

import gymnasium as gym
from gymnasium import spaces


class SpacesEnv(gym.Env):
    """
    Draws its observations from their space.

    :param observation_space: of its observations
    :param action_space: of its actions
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}
