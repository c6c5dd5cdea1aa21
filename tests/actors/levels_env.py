"""Environments of a curriculum: observations tell the level that an episode is played at, and what was called."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_ca2e.replay.block import OBSERVATION, TRANSITION, Block


class LevelsEnv(gym.Env):
    """
    Each observation holds the level and a number that sums up all calls and their order.

    :param length: of an episode
    """

    observation_space, action_space = spaces.Box(-np.inf, np.inf, (2,), np.float64), spaces.Discrete(2)

    def __init__(self, length: int = 4):
        self.level, self.sum, self.length = 1.0, 0.0, length

    def set_level(self, level: float) -> float:
        """Returns the level before."""
        before, self.level = self.level, float(level)
        return before

    def add(self, number: float) -> float:
        """Of which the order matters, and how often it is called."""
        self.sum = 2 * self.sum + number * self.level
        return self.sum

    def _observation(self) -> np.ndarray:
        return np.array([self.level, self.sum])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.shown = 0, self._observation()
        return self.shown, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return self._observation(), 0.0, False, self.t >= self.length, {}


def shown(block: Block) -> list[tuple[float, ...]]:
    """The different observations of a block's transitions, in their order."""
    made = block.flags & TRANSITION > 0
    frames = block.frames[OBSERVATION]
    rows = frames[len(frames) - len(made) - 1 : -1][made]
    return list(dict.fromkeys(tuple(row.tolist()) for row in rows))
