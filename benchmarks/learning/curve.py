"""A learning curve: policies kept on the way, and the file that tells how they do."""

import copy
import csv
import ctypes
import os
import pathlib
import signal
import sys
import time
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

#: Environments of the final evaluation, and of those on the way.
FINAL_SEED, CURVE_SEED = 10_000, 20_000
#: Rows of a run's own log.
LOGGED = 100
COLUMNS = ("transitions", "seconds", "updates", "prior_share", "final", "episode", "return")


class Kept(NamedTuple):
    """
    A policy on the way.

    :param told: transitions, seconds, updates and share of the prior actors' so far
    :param parameters: of the policy
    :param statistics: by which ``VecNormalize`` normalised observations, if it did
    """

    told: dict[str, Any]
    parameters: dict[str, th.Tensor]
    statistics: Any


class LearningCurve(BaseCallback):
    """
    Keeps the policy every so many transitions, to be evaluated once training is over: nothing of the time told is that
    of evaluating, and no actor gains a lead meanwhile.

    :param transitions: the budget, after which training ends for every algorithm
    :param every: transitions between two evaluations
    :param log: whether the run's own log is written
    """

    def __init__(self, transitions: int, every: int, log: bool):
        super().__init__()
        self.transitions, self.every = transitions, every
        self.log_every = max(transitions // LOGGED, 1) if log else None
        self.kept: list[Kept] = []
        self._started = time.perf_counter()

    def _on_training_start(self) -> None:
        self.keep()

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.every * len(self.kept):
            self.keep()
        if self.log_every is not None and self.n_calls % self.log_every == 0:
            self.model.dump_logs()
        return self.num_timesteps < self.transitions

    def keep(self) -> None:
        """Remember the policy as it is now, and what it has taken to come here."""
        model = self.model
        normalization = model.get_vec_normalize_env()
        told = {
            "transitions": model.num_timesteps,
            "seconds": round(time.perf_counter() - self._started, 2),
            "updates": model._n_updates,
            "prior_share": round(getattr(getattr(model, "replay_buffer", None), "prior_fraction", 0.0), 4),
        }
        statistics = copy.deepcopy(normalization.obs_rms) if normalization is not None else None
        self.kept.append(Kept(told, copy.deepcopy(model.policy.state_dict()), statistics))


def write_curve(curve: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """
    :param curve: file, which is there as a whole or not at all
    :param rows: an episode each
    """
    unfinished = curve.with_suffix(".unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    unfinished.replace(curve)


def end_with(parent: int) -> None:
    """
    :param parent: with whose end, however it came, this process is sent SIGTERM
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(f"Process {parent} is gone.")
