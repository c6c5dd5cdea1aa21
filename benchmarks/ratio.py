"""
Updates per transition, asked and realised.

After ``learning_starts``, any 10,000 transitions must come with the updates asked for, to within 5 % or the updates
of two blocks a slot, whichever is more.

Usage: ``python benchmarks/ratio.py [--timesteps 16000] [--out benchmarks/results]``
"""

import argparse
import pathlib
from typing import Any

import numpy as np
import torch as th
from provenance import RESULTS, describe, provenance, write_results
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ca2e import CA2EDQN

#: (n_envs, train_freq, gradient_steps)
CASES = [(1, 4, 1), (1, 1, 1), (8, 1, 2), (8, 4, -1)]
WINDOW, TOLERANCE = 10_000, 0.05
LEARNING_STARTS = 1_000


class UpdateCounts(BaseCallback):
    """Updates made by each tick."""

    def __init__(self) -> None:
        super().__init__()
        self.timesteps: list[int] = []
        self.updates: list[int] = []

    def _on_step(self) -> bool:
        self.timesteps.append(self.num_timesteps)
        self.updates.append(self.model._n_updates)
        return True


def measure(n_envs: int, train_freq: int, gradient_steps: int, n_timesteps: int) -> dict[str, Any]:
    """
    :param n_envs: environments of the user
    :param train_freq: ticks between two groups of updates
    :param gradient_steps: updates in a group
    :param n_timesteps: transitions to make
    :return: ratios, and the largest error of any window
    """
    model = CA2EDQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=n_envs),
        train_freq=train_freq,
        gradient_steps=gradient_steps,
        learning_starts=LEARNING_STARTS,
        batch_size=4,
        policy_kwargs={"net_arch": [8]},
        seed=0,
    )
    counts = UpdateCounts()
    model.learn(n_timesteps, callback=counts)
    asked = gradient_steps / (train_freq * n_envs) if gradient_steps >= 0 else 1.0
    timesteps, updates = np.array(counts.timesteps), np.array(counts.updates)
    after = timesteps > LEARNING_STARTS
    timesteps, updates = timesteps[after], updates[after]
    width = WINDOW // n_envs
    if len(timesteps) <= width:
        raise ValueError(f"{n_timesteps} transitions hold no window of {WINDOW} after learning_starts")
    made, worth = updates[width:] - updates[:-width], timesteps[width:] - timesteps[:-width]
    error = float(np.abs(made - asked * worth).max())
    bound = max(TOLERANCE * asked * WINDOW, 2 * model.n_slots * model.local_buffer_size * asked)
    return {
        "n_envs": n_envs,
        "train_freq": train_freq,
        "gradient_steps": gradient_steps,
        "asked": asked,
        "realised": float((updates[-1] - updates[0]) / (timesteps[-1] - timesteps[0])),
        "windows": len(made),
        "largest_error": error,
        "bound": bound,
        "reached": error <= bound,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=16_000)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    th.set_num_threads(1)
    cases = [measure(*case, args.timesteps) for case in CASES]
    results: dict[str, Any] = {"cases": cases, "measured_on": provenance()}
    lines = [
        "# Ratio",
        "",
        f"CA2EDQN on CartPole-v1, {args.timesteps} transitions. Largest error: updates too many or too few in any",
        f"{WINDOW} transitions after learning_starts.",
        "",
        "| n_envs | train_freq | gradient_steps | asked | realised | largest error | allowed | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        told = "reached" if case["reached"] else "MISSED"
        head = " | ".join(str(case[key]) for key in ("n_envs", "train_freq", "gradient_steps"))
        errors = f"{case['largest_error']:.0f} | {case['bound']:.0f}"
        lines.append(f"| {head} | {case['asked']:g} | {case['realised']:.4f} | {errors} | **{told}** |")
    write_results(args.out, "ratio", results, "\n".join([*lines, "", describe(results["measured_on"])]))


if __name__ == "__main__":
    main()
