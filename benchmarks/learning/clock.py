"""Pong's curves, which are of the same minutes for each arm instead of the same transitions."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from learning.experiment import CURVES

ENV_ID = "PongNoFrameskip-v4"
ARMS = ("ca2e-priors", "ca2e", "off-policy", "a2c", "ppo")
DEVICES = ("cpu", "cuda")
#: Return that is to be reached on a GPU, and the minutes in which it is, by arm.
SOLVED, WITHIN = 19.0, {"ca2e": 10.0, "ca2e-priors": 5.0}


def folder_of(device: str, curves: pathlib.Path = CURVES) -> pathlib.Path:
    """
    :param device: of :data:`DEVICES`
    :param curves: folder of all curves
    :return: that of Pong's on such a device
    """
    return curves / ENV_ID / device


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

    @property
    def solved_after(self) -> float:
        """Minutes to the first evaluation of :data:`SOLVED`, infinity without one."""
        there = self.returns >= SOLVED
        return float(self.minutes[np.argmax(there)]) if there.any() else float("inf")


def runs(device: str, curves: pathlib.Path = CURVES) -> dict[str, Run]:
    """
    :param device: of :data:`DEVICES`
    :param curves: folder of all curves
    :return: by arm, the run of the lowest seed
    """
    files = {arm: sorted((folder_of(device, curves) / arm).glob("*.csv")) for arm in ARMS}
    return {arm: Run.read(found[0]) for arm, found in files.items() if found}


def table(found: Mapping[str, Run]) -> Iterator[str]:
    """
    :param found: runs of a device
    :return: as Markdown
    """
    yield f"| arm | minutes | transitions | updates | best evaluation | last evaluation | minutes to {SOLVED:g} |"
    yield "| --- " * 7 + "|"
    for arm in ARMS:
        if arm not in found:
            yield f"| {arm} | missing |" + " |" * 5
            continue
        run = found[arm]
        after = f"{run.solved_after:.1f}" if np.isfinite(run.solved_after) else "never"
        best, last = run.returns.max(), run.returns[-1]
        done = f"{run.minutes[-1]:.1f} | {run.transitions:,} | {run.updates:,}"
        yield f"| {arm} | {done} | {best:.1f} | {last:.1f} | {after} |"
    yield ""


def in_time(curves: pathlib.Path) -> tuple[str, bool | None]:
    """
    :param curves: folder of all curves
    :return: what was seen on a GPU, and whether it is enough; None where it was not run
    """
    found = runs("cuda", curves)
    if any(arm not in found for arm in WITHIN):
        return "no GPU was at hand" if not found else "not all arms were run", None
    after = {arm: found[arm].solved_after for arm in WITHIN}
    told = (
        f"{arm}: {minutes:.1f} minutes" if np.isfinite(minutes) else f"{arm}: never" for arm, minutes in after.items()
    )
    return "; ".join(told), all(after[arm] < within for arm, within in WITHIN.items())
