"""The committed curves as normalised scores, and what the field asks of them (https://arxiv.org/abs/2108.13264)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rliable import library, metrics

from learning.experiment import Arm, Cell, Task, experiment
from learning.references import references

#: Bootstrap repetitions, and what they are drawn with.
REPETITIONS, RANDOM_STATE = 2_000, 0
#: Normalised score whose first evaluation is told.
THRESHOLD = 0.9


@dataclass(frozen=True)
class Interval:
    """
    An estimate.

    :param point: estimate
    :param low: lower end of its 95 % interval
    :param high: upper end
    """

    point: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.point:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Curves:
    """
    Runs of one arm on one task.

    :param seeds: that have run
    :param transitions: ``(evaluations,)`` when they were evaluated
    :param scores: ``(seeds, evaluations)`` mean normalised scores
    :param seconds: ``(seeds, evaluations)`` wall-clock seconds, evaluations left out
    :param updates: ``(seeds, evaluations)``
    :param prior_share: ``(seeds, evaluations)`` share of the memory that came from prior agents
    :param final: ``(seeds,)`` mean normalised scores of the final models
    :param final_returns: ``(seeds,)`` the same, not normalised
    """

    seeds: tuple[int, ...]
    transitions: np.ndarray
    scores: np.ndarray
    seconds: np.ndarray
    updates: np.ndarray
    prior_share: np.ndarray
    final: np.ndarray
    final_returns: np.ndarray

    def first_reached(self, of: np.ndarray) -> list[float]:
        """
        :param of: ``(seeds, evaluations)`` transitions or seconds
        :return: for each seed, what it was at the first evaluation of :data:`THRESHOLD`; infinity if none
        """
        reached = self.scores >= THRESHOLD
        return [float(of[i, np.argmax(row)]) if row.any() else float("inf") for i, row in enumerate(reached)]

    @property
    def area(self) -> np.ndarray:
        """``(seeds,)`` area under the curve, 1 for a curve that is 1 all the way."""
        span = self.transitions[-1] - self.transitions[0]
        area: np.ndarray = np.trapezoid(self.scores, self.transitions, axis=1) / span
        return area


def best_prior(env_id: str) -> float:
    """
    :param env_id: a task
    :return: mean return of the best of its fixed priors
    """
    return float(max(references()[env_id]["priors"].values()))


def normalised(env_id: str, returns: np.ndarray) -> np.ndarray:
    """
    :param env_id: a task
    :param returns: of it
    :return: 0 for those of a random policy, 1 for those of the best of the task's priors
    """
    at_random = references()[env_id]["random"]
    return (returns - at_random) / (best_prior(env_id) - at_random)


def curves(task: Task, arm: Arm) -> Curves | None:
    """
    :param task: a task
    :param arm: an arm
    :return: what of it has run, None if nothing has
    """
    seeds, frames = [], []
    for seed in task.seeds:
        file = Cell(task, arm, seed).curve
        if file.exists():
            seeds.append(seed)
            frames.append(pd.read_csv(file))
    if not frames:
        return None
    means = [frame[frame.final == 0].groupby("transitions", as_index=False).mean() for frame in frames]
    n_evaluations = min(map(len, means))  # algorithms that collect many transitions at once may miss the last one

    def column(name: str) -> np.ndarray:
        return np.stack([mean[name].to_numpy()[:n_evaluations] for mean in means])

    final = np.array([frame[frame.final == 1]["return"].mean() for frame in frames])
    return Curves(
        seeds=tuple(seeds),
        transitions=column("transitions")[0],
        scores=normalised(task.env_id, column("return")),
        seconds=column("seconds"),
        updates=column("updates"),
        prior_share=column("prior_share"),
        final=normalised(task.env_id, final),
        final_returns=final,
    )


def interval(scores: np.ndarray, of: Callable[[np.ndarray], float] = metrics.aggregate_iqm) -> Interval:
    """
    :param scores: ``(seeds, tasks)``
    :param of: statistic, the interquartile mean without it
    :return: it, with the interval of a bootstrap stratified by task
    """
    points, intervals = library.get_interval_estimates(
        {"": scores},
        lambda drawn: np.array([of(drawn)]),
        reps=REPETITIONS,
        random_state=np.random.RandomState(RANDOM_STATE),
    )
    low, high = intervals[""][:, 0]
    return Interval(float(points[""][0]), float(low), float(high))


def mean_curve(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :param scores: ``(seeds, evaluations)``
    :return: ``(evaluations,)`` means, lower and upper ends of their bootstrap intervals
    """
    drawn = np.random.RandomState(RANDOM_STATE).randint(len(scores), size=(REPETITIONS, len(scores)))
    low, high = np.percentile(scores[drawn].mean(axis=1), [2.5, 97.5], axis=0)
    return scores.mean(axis=0), low, high


def improvement(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Interval:
    """
    :param ours: ``(seeds,)`` final scores for each task
    :param theirs: of the same tasks
    :return: probability that a run of ours ends above one of theirs, averaged over tasks
    """
    n_ours, n_theirs = min(map(len, ours)), min(map(len, theirs))
    pair = [np.stack([each[:n] for each in side], axis=1) for side, n in ((ours, n_ours), (theirs, n_theirs))]
    points, intervals = library.get_interval_estimates(
        {"": pair},
        lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        reps=REPETITIONS,
        random_state=np.random.RandomState(RANDOM_STATE),
    )
    low, high = intervals[""][:, 0]
    return Interval(float(points[""][0]), float(low), float(high))


def all_curves() -> dict[str, dict[str, Curves]]:
    """
    :return: by task and arm, what has run
    """
    whole = experiment()
    found: dict[str, dict[str, Curves]] = {}
    for task in whole.tasks.values():
        for arm in {**whole.arms, **whole.ablation}.values():
            told = curves(task, arm)
            if told is not None:
                found.setdefault(task.env_id, {})[arm.name] = told
    return found
