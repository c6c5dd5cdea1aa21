"""Retirement of prior agents (Algorithm 1.1): r >= baseline, several times in a row."""

from typing import Any

import numpy as np

#: Number of greedy episodes whose mean return is the learner's average reward r.
WINDOW = 20
#: Number of greedy episodes between two checks.
LOOK_EVERY = 5
#: Number of episodes that measure a prior's baseline if none is given.
BASELINE_EPISODES = 10


class Retirement:
    """
    The retirement rule of Algorithm 1.1; its state is plain data, saved with the model.

    The paper compares r with a multiple of the baseline. For negative returns to be handled too, the condition is r >=
    baseline + (alpha - 1) |baseline|.

    :param alpha: factor of the baseline that r must reach; 1 for the baseline itself
    :param patience: number of consecutive checks that must pass before retirement
    :param state: state of an earlier run, or None
    """

    def __init__(self, alpha: float, patience: int, state: dict[str, Any] | None = None):
        self.alpha, self.patience = alpha, patience
        self.state: dict[str, Any] = state or {"greedy_returns": [], "since_look": 0, "priors": []}

    def add_prior(self, index: int) -> None:
        """
        Add a prior agent, if it is new.

        :param index: its position in ``prior_agents``
        """
        while len(self.state["priors"]) <= index:
            unknown = dict.fromkeys(("baseline", "retired_at", "learner_reward"))
            self.state["priors"].append({**unknown, "returns": [], "streak": 0})

    def set_baseline(self, index: int, mean_reward: float | None) -> None:
        """
        Set a prior agent's baseline.

        :param index: position of the prior agent
        :param mean_reward: its average return; None to measure it in its first episodes
        """
        if mean_reward is not None:
            self.state["priors"][index]["baseline"] = float(mean_reward)

    def prior(self, index: int) -> dict[str, Any]:
        """
        Return the state of a prior agent.

        :param index: position of the prior agent
        :return: its state
        """
        prior: dict[str, Any] = self.state["priors"][index]
        return prior

    def retired(self, index: int) -> bool:
        """
        Check whether a prior agent has retired.

        :param index: position of the prior agent
        :return: True if it has
        """
        return self.prior(index)["retired_at"] is not None

    def retire(self, index: int, timestep: int) -> None:
        """
        Retire a prior agent that the learner may not have beaten, such as one that fails.

        :param index: position of the prior agent
        :param timestep: number of transitions so far
        """
        prior = self.state["priors"][index]
        prior["retired_at"] = timestep if prior["retired_at"] is None else prior["retired_at"]

    @property
    def learner_reward(self) -> float | None:
        """Mean return of the learner's last greedy episodes; None before there are enough."""
        returns = self.state["greedy_returns"]
        return float(np.mean(returns)) if len(returns) >= WINDOW else None

    def prior_episode(self, index: int, episode_return: float) -> None:
        """
        Record an episode of a prior agent.

        :param index: position of the prior agent
        :param episode_return: raw return
        """
        prior = self.state["priors"][index]
        prior["returns"] = [*prior["returns"], episode_return][-WINDOW:]
        if prior["baseline"] is None and len(prior["returns"]) >= BASELINE_EPISODES:
            prior["baseline"] = float(np.mean(prior["returns"]))

    def greedy_episode(self, episode_return: float, timestep: int) -> list[int]:
        """
        Record a greedy episode of the learner, and check whether prior agents retire.

        :param episode_return: raw return
        :param timestep: number of transitions so far
        :return: positions of the prior agents that retire now
        """
        self.state["greedy_returns"] = [*self.state["greedy_returns"], episode_return][-WINDOW:]
        self.state["since_look"] += 1
        reward = self.learner_reward
        if reward is None or self.state["since_look"] < LOOK_EVERY:
            return []
        self.state["since_look"] = 0
        return [index for index in range(len(self.state["priors"])) if self._look(index, reward, timestep)]

    def _look(self, index: int, reward: float, timestep: int) -> bool:
        """Compare the learner's average reward r with a prior's baseline: "if several times r >= alpha r-bar"."""
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
