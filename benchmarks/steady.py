"""How fast a model learns once everything has started, and what bounds it."""

import time
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from turns import Answer


class SecondHalf(BaseCallback):
    """
    Transitions a second when processes have started, networks are traced, and all slots are heard of.

    :param n: transitions of the run
    """

    def __init__(self, n: int):
        super().__init__()
        self.n = n
        self.first = self.last = (0, 0.0)
        self.bottleneck: str | None = None

    def _on_training_start(self) -> None:
        self.middle = self.num_timesteps + self.n // 2

    def _on_step(self) -> bool:
        self.last = self.num_timesteps, time.perf_counter()
        if self.num_timesteps <= self.middle:
            self.first = self.last
        return True

    def _on_training_end(self) -> None:
        collector = getattr(self.model, "_collector", None)  # of our models, while they learn
        self.bottleneck = collector.advice() if collector is not None else None

    @property
    def rate(self) -> float:
        """Transitions a second."""
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


def steady_rate(model: Any, n: int) -> Answer:
    """
    :param model: goes on learning
    :param n: number of transitions
    :return: transitions a second of the second half, and what bounds our models
    """
    steady = SecondHalf(n)
    model.learn(n, callback=steady, reset_num_timesteps=False)
    return (steady.rate, {"bottleneck": steady.bottleneck}) if steady.bottleneck else steady.rate
