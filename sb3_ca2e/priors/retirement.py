"""When a prior agent has been beaten (Algorithm 1.1): r >= baseline, several times in a row."""

from typing import Any

import numpy as np

#: Greedy episodes whose mean return is the learner's average reward r.
WINDOW = 20
#: New greedy episodes between two looks.
LOOK_EVERY = 5
#: Episodes from which a prior's baseline is measured, where it is not given.
BASELINE_EPISODES = 10


class Retirement:
    """
    The rule of Algorithm 1.1. Its state is plain data, which the model saves.

    The paper compares r with a multiple of the baseline; so that this is right for negative returns too, it is
    read as r >= baseline + (alpha - 1) |baseline|.

    :param alpha: how far beyond the baseline, 1 for exactly at it
    :param patience: looks in a row that must find it reached
    :param state: state of an earlier run, or None
    """

    def __init__(self, alpha: float, patience: int, state: dict[str, Any] | None = None):
        self.alpha, self.patience = alpha, patience
        self.state: dict[str, Any] = state or {"greedy_returns": [], "since_look": 0, "priors": []}

    def add_prior(self, index: int) -> None:
        """
        :param index: which prior agent, by its position in ``prior_agents``
        """
        while len(self.state["priors"]) <= index:
            unknown: dict[str, Any] = {
                "baseline": None,
                "returns": [],
                "streak": 0,
                "retired_at": None,
                "learner_reward": None,
            }
            self.state["priors"].append(unknown)

    def set_baseline(self, index: int, mean_reward: float | None) -> None:
        """
        :param index: which prior agent
        :param mean_reward: its average return, if it is known; else its first episodes tell
        """
        if mean_reward is not None:
            self.state["priors"][index]["baseline"] = float(mean_reward)

    def prior(self, index: int) -> dict[str, Any]:
        """
        :param index: which prior agent
        :return: what is known of it
        """
        prior: dict[str, Any] = self.state["priors"][index]
        return prior

    def retired(self, index: int) -> bool:
        """
        :param index: which prior agent
        :return: whether its prior agent has been beaten
        """
        return self.prior(index)["retired_at"] is not None

    def retire(self, index: int, timestep: int) -> None:
        """
        A prior agent is of no use any more, though the learner may not have beaten it.

        :param index: which prior agent
        :param timestep: transitions made so far
        """
        prior = self.state["priors"][index]
        prior["retired_at"] = timestep if prior["retired_at"] is None else prior["retired_at"]

    @property
    def learner_reward(self) -> float | None:
        """Mean return of the learner's last greedy episodes, None before there are enough."""
        returns = self.state["greedy_returns"]
        return float(np.mean(returns)) if len(returns) >= WINDOW else None

    def prior_episode(self, index: int, episode_return: float) -> None:
        """
        An episode of a prior agent ended.

        :param index: which prior agent
        :param episode_return: its raw return
        """
        prior = self.state["priors"][index]
        prior["returns"] = [*prior["returns"], episode_return][-WINDOW:]
        if prior["baseline"] is None and len(prior["returns"]) >= BASELINE_EPISODES:
            prior["baseline"] = float(np.mean(prior["returns"]))

    def greedy_episode(self, episode_return: float, timestep: int) -> list[int]:
        """
        The learner played an episode without exploration.

        :param episode_return: its raw return
        :param timestep: transitions made so far
        :return: the prior agents that retire now
        """
        self.state["greedy_returns"] = [*self.state["greedy_returns"], episode_return][-WINDOW:]
        self.state["since_look"] += 1
        reward = self.learner_reward
        if reward is None or self.state["since_look"] < LOOK_EVERY:
            return []
        self.state["since_look"] = 0
        return [index for index in range(len(self.state["priors"])) if self._look(index, reward, timestep)]

    def _look(self, index: int, reward: float, timestep: int) -> bool:
        """Periodically receive the average reward r from the learner; "if several times r >= alpha r-bar"."""
        prior = self.state["priors"][index]
        baseline = prior["baseline"]
        if baseline is None or prior["retired_at"] is not None:
            return False
        prior["learner_reward"] = reward
        beaten = reward >= baseline + (self.alpha - 1.0) * abs(baseline)
        prior["streak"] = prior["streak"] + 1 if beaten else 0
        if prior["streak"] < self.patience:
            return False
        prior["retired_at"] = timestep
        return True
