"""Curves of Atari games, which are of the same minutes for each arm instead of the same transitions."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from learning.experiment import CURVES

PONG = "PongNoFrameskip-v4"
#: Games, and the return that is to be reached. Breakout's is that of the RL Zoo's DQN after 10 M transitions
#: (https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md).
GAMES = {PONG: 19.0, "BreakoutNoFrameskip-v4": 358.0}
ARMS = ("ca2e-priors", "ca2e", "off-policy", "a2c", "ppo")
DEVICES = ("cpu", "cuda")
#: Minutes in which Pong's is to be reached on a GPU, by arm.
WITHIN = {"ca2e": 10.0, "ca2e-priors": 5.0}


def folder_of(env_id: str, device: str, curves: pathlib.Path = CURVES) -> pathlib.Path:
    """
    :param env_id: of :data:`GAMES`
    :param device: of :data:`DEVICES`
    :param curves: folder of all curves
    :return: that of the game's on such a device
    """
    return curves / env_id / device


@dataclass(frozen=True)
class Run:
    """
    One run.

    :param minutes: ``(evaluations,)`` of training
    :param returns: ``(evaluations,)`` mean returns
    :param transitions: in all
    :param updates: in all
    :param told: what its JSON file says
    """

    minutes: np.ndarray
    returns: np.ndarray
    transitions: int
    updates: int
    told: dict[str, Any]

    @classmethod
    def read(cls, curve: pathlib.Path) -> "Run":
        """
        :param curve: its file
        :return: it
        """
        means = pd.read_csv(curve).groupby("seconds", as_index=False).mean()
        last = means.iloc[-1]
        told = json.loads(curve.with_suffix(".json").read_text(encoding="utf-8"))
        return cls(
            means["seconds"].to_numpy() / 60,
            means["return"].to_numpy(),
            int(last["transitions"]),
            int(last["updates"]),
            told,
        )

    def reached(self, goal: float) -> float:
        """
        :param goal: a return
        :return: minutes to the first evaluation that reaches it, infinity without one
        """
        there = self.returns >= goal
        return float(self.minutes[np.argmax(there)]) if there.any() else float("inf")


def runs(env_id: str, device: str, curves: pathlib.Path = CURVES) -> dict[str, Run]:
    """
    :param env_id: of :data:`GAMES`
    :param device: of :data:`DEVICES`
    :param curves: folder of all curves
    :return: by arm, the run of the lowest seed
    """
    files = {arm: sorted((folder_of(env_id, device, curves) / arm).glob("*.csv")) for arm in ARMS}
    return {arm: Run.read(found[0]) for arm, found in files.items() if found}


def table(found: Mapping[str, Run], goal: float) -> Iterator[str]:
    """
    :param found: runs of a game on a device
    :param goal: return that is to be reached
    :return: as Markdown
    """
    yield f"| arm | minutes | transitions | updates | best evaluation | last evaluation | minutes to {goal:g} |"
    yield "| --- " * 7 + "|"
    for arm in ARMS:
        if arm not in found:
            yield f"| {arm} | missing |" + " |" * 5
            continue
        run = found[arm]
        minutes = run.reached(goal)
        after = f"{minutes:.1f}" if np.isfinite(minutes) else "never"
        best, last = run.returns.max(), run.returns[-1]
        done = f"{run.minutes[-1]:.1f} | {run.transitions:,} | {run.updates:,}"
        yield f"| {arm} | {done} | {best:.1f} | {last:.1f} | {after} |"
    yield ""


def in_time(curves: pathlib.Path) -> tuple[str, bool | None]:
    """
    :param curves: folder of all curves
    :return: what was seen of Pong on a GPU, and whether it is enough; None where it was not run
    """
    found = runs(PONG, "cuda", curves)
    if any(arm not in found for arm in WITHIN):
        return "not run to its end" if not found else "not all arms were run", None
    after = {arm: found[arm].reached(GAMES[PONG]) for arm in WITHIN}
    told = (
        f"{arm}: {minutes:.1f} minutes" if np.isfinite(minutes) else f"{arm}: never" for arm, minutes in after.items()
    )
    return "; ".join(told), all(after[arm] < within for arm, within in WITHIN.items())
