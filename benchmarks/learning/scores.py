"""The committed curves as normalised scores, and what the field asks of them (https://arxiv.org/abs/2108.13264)."""

import functools
import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rliable import library, metrics

from learning.experiment import CURVES, Arm, Cell, Task, experiment
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
    :param told: for each seed, what its JSON file says
    """

    seeds: tuple[int, ...]
    transitions: np.ndarray
    scores: np.ndarray
    seconds: np.ndarray
    updates: np.ndarray
    prior_share: np.ndarray
    final: np.ndarray
    final_returns: np.ndarray
    told: tuple[dict[str, Any], ...]

    def reached(self, of: np.ndarray) -> float:
        """
        :param of: ``(evaluations,)`` or ``(seeds, evaluations)``: transitions or seconds
        :return: median over seeds of what it was at the first evaluation of :data:`THRESHOLD`; infinity where most
            seeds have none
        """
        there = self.scores >= THRESHOLD
        at = np.broadcast_to(of, self.scores.shape)
        return statistics.median(
            float(at[i, np.argmax(row)]) if row.any() else float("inf") for i, row in enumerate(there)
        )

    @property
    def area(self) -> np.ndarray:
        """``(seeds,)`` area under the curve, 1 for a curve that is 1 all the way."""
        span = self.transitions[-1] - self.transitions[0]
        area: np.ndarray = np.trapezoid(self.scores, self.transitions, axis=1) / span
        return area

    @property
    def score(self) -> float:
        """Interquartile mean of the final scores, without an interval."""
        return float(metrics.aggregate_iqm(self.final))

    @functools.cached_property
    def iqm(self) -> Interval:
        """Interquartile mean of the final scores."""
        return interval([self.final])


class Results:
    """
    What was measured.

    :param folder: holds ``<task>/<arm>/<seed>.csv``
    :param told: what scores are normalised with; None for what the folder's ``references.json`` says
    """

    def __init__(self, folder: pathlib.Path = CURVES, told: dict[str, Any] | None = None):
        self.folder = folder
        self.references = references(folder) if told is None else told

    def best_prior(self, env_id: str) -> float:
        """
        :param env_id: a task
        :return: mean return of the best of its fixed priors
        """
        return float(max(self.references[env_id]["priors"].values()))

    def normalised(self, env_id: str, returns: np.ndarray) -> np.ndarray:
        """
        :param env_id: a task
        :param returns: of it
        :return: 0 for those of a random policy, 1 for those of the best of the task's priors
        """
        at_random = self.references[env_id]["random"]
        return (returns - at_random) / (self.best_prior(env_id) - at_random)

    def curves(self, task: Task, arm: Arm) -> Curves | None:
        """
        :param task: a task
        :param arm: an arm
        :return: what of it has run, None if nothing has
        """
        cells = [Cell(task, arm, seed, self.folder) for seed in task.seeds]
        cells = [cell for cell in cells if cell.curve.exists()]
        if not cells:
            return None
        frames = [pd.read_csv(cell.curve) for cell in cells]
        means = [frame[frame.final == 0].groupby("transitions", as_index=False).mean() for frame in frames]
        n_evaluations = min(map(len, means))

        def column(name: str) -> np.ndarray:
            return np.stack([mean[name].to_numpy()[:n_evaluations] for mean in means])

        final = np.array([frame[frame.final == 1]["return"].mean() for frame in frames])
        return Curves(
            seeds=tuple(cell.seed for cell in cells),
            transitions=column("transitions")[0],
            scores=self.normalised(task.env_id, column("return")),
            seconds=column("seconds"),
            updates=column("updates"),
            prior_share=column("prior_share"),
            final=self.normalised(task.env_id, final),
            final_returns=final,
            told=tuple(json.loads(cell.curve.with_suffix(".json").read_text(encoding="utf-8")) for cell in cells),
        )

    @functools.cached_property
    def all_curves(self) -> dict[str, dict[str, Curves]]:
        """By task and arm, what has run."""
        whole = experiment()
        found: dict[str, dict[str, Curves]] = {env_id: {} for env_id in whole.tasks}
        for task in whole.tasks.values():
            for arm in whole.all_arms.values():
                curves = self.curves(task, arm)
                if curves is not None:
                    found[task.env_id][arm.name] = curves
        return found


def interval(
    scores: Sequence[np.ndarray], of: Callable[[np.ndarray], float] = metrics.aggregate_iqm, subtract: float = 0.0
) -> Interval:
    """
    :param scores: ``(seeds,)`` for each task
    :param of: statistic, the interquartile mean without it
    :param subtract: from each score
    :return: it, with the interval of a bootstrap stratified by task
    """
    return _estimate([_table(scores) - subtract], of)


def improvement(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Interval:
    """
    :param ours: ``(seeds,)`` final scores for each task
    :param theirs: of the same tasks
    :return: probability that a run of ours ends above one of theirs, averaged over tasks
    """
    return _estimate([_table(ours), _table(theirs)], metrics.probability_of_improvement)


def mean_curve(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :param scores: ``(seeds, evaluations)``
    :return: ``(evaluations,)`` means, lower and upper ends of their bootstrap intervals
    """
    drawn = np.random.RandomState(RANDOM_STATE).randint(len(scores), size=(REPETITIONS, len(scores)))
    low, high = np.percentile(scores[drawn].mean(axis=1), [2.5, 97.5], axis=0)
    return scores.mean(axis=0), low, high


def shared(found: Mapping[str, Mapping[str, Curves]], env_ids: Sequence[str], *arms: str) -> list[str]:
    """
    :param found: what has run
    :param env_ids: tasks
    :param arms: names of arms
    :return: tasks on which all of them have run
    """
    return [env_id for env_id in env_ids if all(arm in found[env_id] for arm in arms)]


def _table(scores: Sequence[np.ndarray]) -> np.ndarray:
    """``(seeds, tasks)``, with as many seeds as the task with the fewest has."""
    n_seeds = min(map(len, scores))
    return np.stack([each[:n_seeds] for each in scores], axis=1)


def _estimate(tables: list[np.ndarray], of: Callable[..., float]) -> Interval:
    state = np.random.get_state()
    np.random.seed(RANDOM_STATE)  # rliable draws from NumPy's global numbers, whatever random_state it is given
    try:
        points, intervals = library.get_interval_estimates(
            {"": tables if len(tables) > 1 else tables[0]}, lambda *drawn: np.array([of(*drawn)]), reps=REPETITIONS
        )
    finally:
        np.random.set_state(state)
    low, high = intervals[""][:, 0]
    return Interval(float(points[""][0]), float(low), float(high))
