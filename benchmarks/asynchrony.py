"""
How well actors run beside each other and beside the learner.

The environment sleeps 5 ms a step, as a simulator on another machine would. Measured in steady state: from the moment
when every slot has handed over its first block to the last transition.

1. Collecting only (``gradient_steps=0``): eight slots in eight processes against one slot in one process.
2. The same eight with a learner that takes 50 ms longer for each update and ``rate_limit=False``: the actors must not
   notice it.

Usage: ``python benchmarks/asynchrony.py [--repeats 5] [--seconds 10] [--out benchmarks/results]``
"""

import argparse
import pathlib
import statistics
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from provenance import RESULTS, describe, provenance, write_results
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import CA2EDQN

STEP_SECONDS, UPDATE_SECONDS = 0.005, 0.050
N_SLOTS = 8
#: Goals: eight slots against one, and with a slow learner against without.
SPEEDUP, KEPT = 7.0, 0.95


class SleepingEnv(gym.Env):
    """
    Its steps take time but no processor.

    :param seconds: of a step
    """

    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, seconds: float = STEP_SECONDS) -> None:
        self.seconds = seconds
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(self.seconds)
        self.steps += 1
        return self.observation_space.sample(), 1.0, False, self.steps == 200, {}


class SlowLearner(CA2EDQN):
    """An update takes long, as with a large network."""

    def update(self, networks: Any, batch: Any) -> Any:
        time.sleep(UPDATE_SECONDS)
        return super().update(networks, batch)


class SteadyRate(BaseCallback):
    """
    Transitions a second, from the first of the last slot to be heard of to the last transition of all.

    :param n_slots: number of slots
    """

    def __init__(self, n_slots: int):
        super().__init__()
        self.n_slots = n_slots
        self.heard: set[int] = set()
        self.first = self.last = (0, 0.0)

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if len(self.heard) < self.n_slots:
            self.heard.update(self.locals["actor_ids"].tolist())
            self.first = self.num_timesteps, now
        self.last = self.num_timesteps, now
        return True

    @property
    def rate(self) -> float:
        """Transitions a second."""
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


def measure(algorithm: type[CA2EDQN], n_slots: int, seconds: float, seed: int, **arguments: Any) -> dict[str, float]:
    """
    :param algorithm: the learner
    :param n_slots: slots, each in a process of its own
    :param seconds: about how long to measure
    :param seed: seed
    :param arguments: of the algorithm
    :return: transitions a second, and updates made
    """
    model = algorithm("MlpPolicy", SleepingEnv, n_actors=n_slots, n_processes=n_slots, seed=seed, **arguments)
    steady = SteadyRate(n_slots)
    model.learn(int(n_slots * seconds / STEP_SECONDS), callback=steady)
    return {"transitions_per_second": steady.rate, "updates": model._n_updates}


def _verdict(result: dict[str, Any]) -> str:
    told = "reached" if result["reached"] else "MISSED"
    return f"{result['value']:.2f} times the transitions (goal {result['goal']:g}): **{told}**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    th.set_num_threads(1)

    free: dict[str, Any] = {"learning_starts": 0, "gradient_steps": 1, "rate_limit": False}
    cases: dict[str, tuple[type[CA2EDQN], int, dict[str, Any]]] = {
        "one slot, collecting only": (CA2EDQN, 1, {"gradient_steps": 0}),
        "eight slots, collecting only": (CA2EDQN, N_SLOTS, {"gradient_steps": 0}),
        "eight slots, slow learner, not rate-limited": (SlowLearner, N_SLOTS, free),
    }
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for seed in range(args.repeats):  # in turns, so that a busy minute of the machine meets all of them
        for name, (algorithm, n_slots, arguments) in cases.items():
            measured[name].append(measure(algorithm, n_slots, args.seconds, seed, **arguments))
            print(f"{name}: {measured[name][-1]['transitions_per_second']:.1f} transitions/s", flush=True)

    rates = {name: [each["transitions_per_second"] for each in runs] for name, runs in measured.items()}
    one, eight, slow = map(statistics.median, rates.values())
    results: dict[str, Any] = {
        "cases": {name: {"median": statistics.median(rates[name]), "runs": runs} for name, runs in measured.items()},
        "speedup": {"value": eight / one, "goal": SPEEDUP, "reached": eight / one >= SPEEDUP},
        "kept_with_slow_learner": {"value": slow / eight, "goal": KEPT, "reached": slow / eight >= KEPT},
        "measured_on": provenance(),
    }
    lines = [
        "# Asynchrony",
        "",
        f"Environment: {STEP_SECONDS * 1000:g} ms a step. Slow learner: {UPDATE_SECONDS * 1000:g} ms more an update.",
        f"Median of {args.repeats} runs, each of about {args.seconds:g} s of steady state.",
        "",
        "| | transitions/s | lowest to highest | updates |",
        "| --- | --- | --- | --- |",
    ]
    for name, runs in measured.items():
        low, high, updates = min(rates[name]), max(rates[name]), statistics.median(each["updates"] for each in runs)
        lines.append(f"| {name} | {statistics.median(rates[name]):.1f} | {low:.1f} to {high:.1f} | {updates:.0f} |")
    speedup, kept = _verdict(results["speedup"]), _verdict(results["kept_with_slow_learner"])
    lines += ["", f"- Eight slots against one: {speedup}", f"- Slow learner against none: {kept}", ""]
    lines.append(describe(results["measured_on"]))
    write_results(args.out, "asynchrony", results, "\n".join(lines))


if __name__ == "__main__":
    main()
