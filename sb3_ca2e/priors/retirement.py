"""Retirement of prior agents (Algorithm 1.1): r >= baseline with confidence, several times in a row."""

from statistics import NormalDist
from typing import Any

import numpy as np

#: Largest number of greedy episodes whose mean return is the learner's average reward r, and the smallest.
WINDOW, FEWEST = 10, 5
#: Number of a prior's own episodes that are remembered.
OWN_EPISODES = 20
#: Number of episodes that measure a prior's baseline if none is given.
BASELINE_EPISODES = 10


class Retirement:
    """
    The retirement rule of Algorithm 1.1; its state is plain data, saved with the model.

    The paper compares r with a multiple of the baseline. For negative returns to be handled too, the condition is r >=
    baseline + (alpha - 1) |baseline|. As r is the mean of few episodes, the lower end of its interval must reach it.

    :param alpha: factor of the baseline that r must reach; 1 for the baseline itself
    :param patience: number of consecutive greedy episodes after which the check must pass before retirement
    :param confidence: confidence of the one-sided interval of r
    :param state: state of an earlier run, or None
    """

    def __init__(self, alpha: float, patience: int, confidence: float, state: dict[str, Any] | None = None):
        self.alpha, self.patience, self.confidence = alpha, patience, confidence
        self.state: dict[str, Any] = state or {"greedy_returns": [], "priors": []}

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
        returns = self._last_greedy()
        return float(np.mean(returns)) if len(returns) >= FEWEST else None

    def _last_greedy(self) -> list[float]:
        returns: list[float] = self.state["greedy_returns"][-WINDOW:]
        return returns

    def prior_episode(self, index: int, episode_return: float) -> None:
        """
        Record an episode of a prior agent.

        :param index: position of the prior agent
        :param episode_return: raw return
        """
        prior = self.state["priors"][index]
        prior["returns"] = [*prior["returns"], episode_return][-OWN_EPISODES:]
        if prior["baseline"] is None and len(prior["returns"]) >= BASELINE_EPISODES:
            prior["baseline"] = float(np.mean(prior["returns"]))

    def greedy_episode(self, episode_return: float, timestep: int) -> list[int]:
        """
        Record a greedy episode of the learner, and check whether prior agents retire.

        :param episode_return: raw return
        :param timestep: number of transitions so far
        :return: positions of the prior agents that retire now
        """
        self.state["greedy_returns"].append(episode_return)
        self.state["greedy_returns"] = self._last_greedy()
        reward = self.learner_reward
        if reward is None:
            return []
        return [index for index in range(len(self.state["priors"])) if self._look(index, reward, timestep)]

    def _look(self, index: int, reward: float, timestep: int) -> bool:
        """Compare the learner's average reward r with a prior's baseline: "if several times r >= alpha r-bar"."""
        prior = self.state["priors"][index]
        baseline = prior["baseline"]
        if baseline is None or prior["retired_at"] is not None:
            return False
        prior["learner_reward"] = reward
        bar = baseline + (self.alpha - 1.0) * abs(baseline)
        prior["streak"] = prior["streak"] + 1 if reward - self._margin(prior["returns"]) >= bar else 0
        if prior["streak"] < self.patience:
            return False
        prior["retired_at"] = timestep
        return True

    def _margin(self, of_prior: list[float]) -> float:
        """
        Return how far the lower end of the interval lies below r.

        Few episodes that happen to be alike don't make it narrow: their spread counts as at least that of the prior's.
        """
        returns = self._last_greedy()
        spread = max(np.std(each, ddof=1) for each in (returns, of_prior) if len(each) > 1)
        return float(student_t(self.confidence, len(returns) - 1) * spread / np.sqrt(len(returns)))


def student_t(confidence: float, degrees: int) -> float:
    """
    Return a quantile of Student's t distribution (Abramowitz and Stegun, 26.7.5).

    :param confidence: probability, between 0 and 1
    :param degrees: degrees of freedom, at least 4
    :return: the quantile, 2 % off at most from 0.5 to 0.975
    """
    z = NormalDist().inv_cdf(confidence)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
