"""
Acting beside SB3's ``SubprocVecEnv`` and beside a bare loop, and what else decides how fast a run starts and grows.

Each side has a process of its own, and they take turns.

Usage::

    python benchmarks/acting.py                       # all rows: some twenty minutes
    python benchmarks/acting.py --row hopper --repeats 9
    python benchmarks/acting.py --quick               # shorter measurements, less of them
"""

import argparse
import functools
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch as th
import turns
from asynchrony import SleepingEnv
from gymnasium import spaces
from provenance import RESULTS, describe, provenance, write_results
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack

from sb3_ca2e import CA2EDDPG, CA2EDQN
from sb3_ca2e.actors.collector import Collector
from sb3_ca2e.actors.envs import recipe_from
from sb3_ca2e.actors.inference import Inference

gym.register_envs(ale_py)  # also in the workers of SubprocVecEnv, which import this module
N_PROCESSES, N_SLOTS = 2, 8
#: Exploration of all sides: random actions of this share, or noise of standard deviations as CA2E spreads them.
EPSILON, SIGMAS = 0.5, (0.05, 0.4)
SLEEP_SECONDS, MOST_PROCESSES = 0.002, 16


def environments(row: str, n_envs: int, **arguments: Any) -> Any:
    """
    :param row: "hopper" or "pong"
    :param n_envs: number of environments
    :param arguments: of SB3's functions
    :return: a vectorized environment
    """
    if row == "hopper":
        return make_vec_env("Hopper-v5", n_envs, seed=0, **arguments)
    return VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs, seed=0, **arguments), 4)


def algorithm(row: str, env: Any, **arguments: Any) -> Any:
    """
    :param row: "hopper" or "pong"
    :param env: its environment
    :param arguments: of the algorithm
    :return: a model of ours that only collects
    """
    common: dict[str, Any] = {"gradient_steps": 0, "learning_starts": 0, "buffer_size": 20_000, "device": "cpu"}
    common = {**common, "n_actors": N_SLOTS, "n_processes": N_PROCESSES, "seed": 0, **arguments}
    if row == "hopper":
        return CA2EDDPG("MlpPolicy", env, **common)
    epsilons: dict[str, Any] = {"exploration_initial_eps": EPSILON, "exploration_final_eps": EPSILON}
    return CA2EDQN("CnnPolicy" if row == "pong" else "MlpPolicy", env, **epsilons, **common)


class SecondHalf(BaseCallback):
    """
    Transitions a second when processes have started, networks are traced, and all slots are heard of.

    :param n: transitions of the run
    """

    def __init__(self, n: int):
        super().__init__()
        self.n = n
        self.first = self.last = (0, 0.0)

    def _on_step(self) -> bool:
        self.last = self.num_timesteps, time.perf_counter()
        if self.num_timesteps <= self.n // 2:
            self.first = self.last
        return True

    @property
    def rate(self) -> float:
        """Transitions a second."""
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


def steady_rate(model: Any, n: int) -> float:
    """
    :param model: learns
    :param n: number of transitions
    :return: transitions a second of the second half
    """
    steady = SecondHalf(n)
    model.learn(n, callback=steady)
    return steady.rate


def ours(row: str, n: int) -> Callable[[], float]:
    """
    :param row: name of the row
    :param n: transitions of a measurement
    :return: what measures transitions a second
    """
    return functools.partial(steady_rate, algorithm(row, environments(row, 1)), n)


def explorer(space: Any, n_envs: int) -> Callable[[Any], Any]:
    """
    :param space: action space
    :param n_envs: environments
    :return: a function from greedy actions to those taken
    """
    rng = np.random.default_rng(0)
    if isinstance(space, spaces.Discrete):
        return lambda greedy: np.where(rng.random(n_envs) < EPSILON, rng.integers(space.n, size=n_envs), greedy)
    sigmas = np.linspace(*SIGMAS, n_envs, dtype=np.float32)[:, None]
    return lambda greedy: np.clip(
        greedy + sigmas * rng.standard_normal(greedy.shape, np.float32), space.low, space.high
    )


def subproc(row: str, n: int) -> Callable[[], float]:
    """
    :param row: name of the row
    :param n: transitions of a measurement
    :return: what measures transitions a second of SB3's ``SubprocVecEnv`` and ``predict``
    """
    env = environments(row, N_SLOTS, vec_env_cls=SubprocVecEnv)
    # The policy's network is ours; a model on a single environment, as ours starts no workers for that.
    model = algorithm(row, environments(row, 1))
    explore = explorer(env.action_space, N_SLOTS)
    observations = env.reset()

    def measure() -> float:
        nonlocal observations
        started = time.perf_counter()
        for _ in range(n // N_SLOTS):
            actions, _ = model.predict(observations, deterministic=True)
            observations = env.step(explore(actions))[0]
        return n / (time.perf_counter() - started)

    return measure


class BareLoop:
    """
    The environments of one process and the policy that acts on them, and nothing else.

    :param row: name of the row
    """

    def __init__(self, row: str):
        th.set_num_threads(1)
        model = algorithm(row, environments(row, 1))
        behaviour: Any = type(model)
        recipe = recipe_from(model.env)
        self.envs = [recipe.build(index) for index in range(N_SLOTS // N_PROCESSES)]
        self.explore = explorer(model.action_space, len(self.envs))
        self.stacked = row == "pong"
        space = model.observation_space
        self.batch = np.zeros((len(self.envs), *space.shape), dtype=space.dtype)
        self.policy = Inference(behaviour, model.published_modules(), len(self.envs))
        for modules in model.published_modules().values():
            modules.train(False)
        self.tensor = th.as_tensor(self.batch)
        for index, env in enumerate(self.envs):
            self.begin(index, env.reset(seed=index)[0])

    def begin(self, index: int, observation: Any) -> None:
        """
        :param index: of an environment
        :param observation: its first
        """
        self.batch[index] = 0
        self.see(index, observation)

    def see(self, index: int, observation: Any) -> None:
        """
        :param index: of an environment
        :param observation: its newest, a frame where they are stacked
        """
        if self.stacked:
            self.batch[index, :-1] = self.batch[index, 1:]
            self.batch[index, -1] = observation[..., 0]
        else:
            self.batch[index] = observation

    def rate(self, n: int) -> float:
        """
        :param n: transitions
        :return: transitions a second
        """
        started = time.perf_counter()
        with th.inference_mode():
            for _ in range(n // len(self.envs)):
                actions = self.explore(self.policy(self.tensor, len(self.envs))[0])
                for index, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
                    observation, _, terminated, truncated, _ = env.step(action)
                    self.see(index, observation)
                    if terminated or truncated:
                        self.begin(index, env.reset()[0])
        return n / (time.perf_counter() - started)


@functools.cache
def bare_loop(row: str) -> BareLoop:
    """
    :param row: name of the row
    :return: that of this process
    """
    return BareLoop(row)


def bare_rate(row: str, n: int) -> float:
    """
    :param row: name of the row
    :param n: transitions
    :return: transitions a second of this process
    """
    return bare_loop(row).rate(n)


def bare(row: str, n: int) -> Callable[[], float]:
    """
    :param row: name of the row
    :param n: transitions of a measurement
    :return: what measures transitions a second of as many processes as ours, without a learner
    """
    processes = ProcessPoolExecutor(N_PROCESSES, mp_context=multiprocessing.get_context("spawn"))

    def measure() -> float:
        return sum(processes.map(bare_rate, [row] * N_PROCESSES, [n // N_PROCESSES] * N_PROCESSES))

    measure()  # environments are made, and networks traced
    return measure


def sleeping(row: str, n: int, n_processes: int) -> Callable[[], float]:
    """
    :param row: name of the row
    :param n: transitions of one process
    :param n_processes: processes, of one slot each
    :return: what measures transitions a second
    """
    env = functools.partial(SleepingEnv, SLEEP_SECONDS)
    model = algorithm(row, env, n_actors=n_processes, n_processes=n_processes)
    return functools.partial(steady_rate, model, n * n_processes)


class RandomImages(gym.Env):
    """Four frames of noise, which come at once."""

    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(6)
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 84, 84), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.images[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        drawn = int(self.np_random.integers(1000))
        return self.images[drawn % 16], 0.0, False, drawn == 0, {}


def publishing(row: str, n: int) -> Callable[[], float]:
    """
    :param row: name of the row
    :param n: transitions of a measurement
    :return: what measures the share of the learner's time that publishing takes, its waiting left out
    """
    publish, seconds = Collector._publish, 0.0

    def timed(collector: Collector) -> None:
        nonlocal seconds
        started = time.perf_counter()
        publish(collector)
        seconds += time.perf_counter() - started

    Collector._publish = timed  # type: ignore[method-assign, assignment]

    class Working(BaseCallback):
        """Seconds of the learner's work, from the first transition on."""

        def _on_step(self) -> bool:
            nonlocal seconds
            now, waited = time.perf_counter(), self.model._collector.learner_wait  # type: ignore[attr-defined]
            if self.n_calls == 1:
                self.started, self.waited, seconds = now, waited, 0.0
            self.seconds = (now - self.started) - (waited - self.waited)
            return True

    many = {"n_actors": MOST_PROCESSES, "n_processes": MOST_PROCESSES, "gradient_steps": 1, "train_freq": 4}

    def measure() -> float:
        working = Working()
        algorithm("pong", RandomImages, **many).learn(n, callback=working)
        return 100 * seconds / working.seconds

    return measure


def start(row: str, n: int) -> Callable[[], float]:
    """
    :param row: name of the row
    :param n: unused
    :return: what measures the seconds from ``learn()`` to the first committed transition
    """

    class First(BaseCallback):
        def _on_step(self) -> bool:
            self.at = time.perf_counter()
            return False

    def measure() -> float:
        model, first = algorithm("hopper", "Hopper-v5"), First()
        started = time.perf_counter()
        model.learn(N_SLOTS, callback=first)
        return first.at - started

    return measure


def importing(row: str, n: int, package: str) -> Callable[[], float]:
    """
    :param row: name of the row
    :param n: unused
    :param package: what to import
    :return: what measures the seconds of a fresh Python that does
    """

    def measure() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {package}"], check=True)
        return time.perf_counter() - started

    return measure


Side = Callable[[str, int], Callable[[], float]]


@dataclass(frozen=True)
class Row:
    """
    What is measured.

    :param what: as printed
    :param unit: of the figures
    :param sides: the first is ours
    :param goals: of our median divided by that of each peer; by "", of our median itself
    :param n: transitions of a measurement
    :param at_most: goals are not to be exceeded, rather than reached
    :param times: what the peer is multiplied by
    :param threads: of PyTorch for a peer, 1 where it is not named
    """

    what: str
    unit: str
    sides: dict[str, Side]
    goals: dict[str, float]
    n: int = 0
    at_most: bool = False
    times: int = 1
    threads: dict[str, int] = field(default_factory=dict)


_ACTING: dict[str, Side] = {"sb3_ca2e": ours, "SubprocVecEnv": subproc, "bare loop": bare}
_WHERE = f"{N_PROCESSES} processes, {N_SLOTS} slots"
_ALL_CORES = {"SubprocVecEnv": os.cpu_count() or 1}
ROWS = {
    "hopper": Row(
        f"Hopper-v5, MLP, {_WHERE}",
        "transitions/s",
        _ACTING,
        {"SubprocVecEnv": 2.5, "bare loop": 0.92},
        40_000,
        threads=_ALL_CORES,
    ),
    "pong": Row(
        f"Pong, CNN, {_WHERE}",
        "transitions/s",
        _ACTING,
        {"SubprocVecEnv": 2.0, "bare loop": 0.92},
        8_000,
        threads=_ALL_CORES,
    ),
    "scaling": Row(
        f"steps of {1000 * SLEEP_SECONDS:g} ms, MLP, {MOST_PROCESSES} processes; share of {MOST_PROCESSES} times one",
        "transitions/s",
        {
            f"{MOST_PROCESSES} processes": functools.partial(sleeping, n_processes=MOST_PROCESSES),
            "1 process": functools.partial(sleeping, n_processes=1),
        },
        {"1 process": 0.9},
        4_000,
        times=MOST_PROCESSES,
    ),
    "publishing": Row(
        f"publishing a CNN to {MOST_PROCESSES} processes",
        "% of the learner's time",
        {"sb3_ca2e": publishing},
        {"": 1.0},
        1_600,
        at_most=True,
        threads={"sb3_ca2e": os.cpu_count() or 1},
    ),
    "start": Row(
        f"learn() to the first transition, {N_PROCESSES} processes",
        "s",
        {"sb3_ca2e": start},
        {"": 5.0},
        at_most=True,
    ),
    "import": Row(
        "import",
        "s",
        {name: functools.partial(importing, package=name) for name in ("sb3_ca2e", "stable_baselines3")},
        {"stable_baselines3": 1.2},
        at_most=True,
    ),
}


def measured(name: str, repeats: int, quick: bool) -> dict[str, Any]:
    """
    :param name: of a row
    :param repeats: measurements of each side
    :param quick: make short measurements
    :return: figures, ratios and goals
    """
    row = ROWS[name]
    short = ["--quick"] * quick
    sides = [
        turns.Side(side, __file__, "--row", name, "--side", side, *short, threads=row.threads.get(side, 1))
        for side in row.sides
    ]
    figures = turns.in_turns(sides, repeats)
    for each in sides:
        each.close()
    own, *_ = (statistics.median(figures[side]) for side in row.sides)
    ratios = {peer: own / (row.times * statistics.median(figures[peer])) if peer else own for peer in row.goals}
    reached = {
        peer: (ratios[peer] <= goal) if row.at_most else (ratios[peer] >= goal) for peer, goal in row.goals.items()
    }
    return {"unit": row.unit, "figures": figures, "ratios": ratios, "goals": row.goals, "reached": reached}


def table(name: str, result: dict[str, Any]) -> list[str]:
    """
    :param name: of a row
    :param result: what :func:`measured` returned
    :return: its lines, one a side
    """
    row, lines = ROWS[name], []
    for index, side in enumerate(row.sides):
        peer = side if index else ""
        digits = 0 if statistics.median(result["figures"][side]) > 100 else 2
        figure = f"{turns.spread(result['figures'][side], digits)} {row.unit}"
        told = [""] * 2
        if peer in result["ratios"]:
            goal = f"{'<=' if row.at_most else '>='} {row.goals[peer]:g}"
            told = [f"{result['ratios'][peer]:.2f}", goal if result["reached"][peer] else f"{goal} MISSED"]
        lines.append(f"| {'' if index else row.what} | {side} | {figure} | {told[0]} | {told[1]} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; may be given more than once")
    parser.add_argument("--repeats", type=int, help="measurements of each side: 5, or 3 with --quick")
    parser.add_argument("--quick", action="store_true", help="make each measurement a quarter as long")
    parser.add_argument("--out", type=pathlib.Path, help="where results go; benchmarks/results if all rows are run")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        row = ROWS[args.row[0]]
        turns.serve(row.sides[args.side](args.row[0], row.n // 4 if args.quick else row.n))
        return
    measured_on = provenance()
    repeats = args.repeats or (3 if args.quick else 5)
    lines = ["# Acting", "", f"Medians of {repeats} measurements, in brackets the range.", ""]
    lines += ["| what | side | figure | ratio | goal |", "| --- | --- | --- | --- | --- |"]
    results = {}
    for name in args.row or ROWS:
        results[name] = measured(name, repeats, args.quick)
        lines += table(name, results[name])
        print(*table(name, results[name]), sep="\n", flush=True)
    lines += ["", describe(measured_on)]
    whole = len(results) == len(ROWS) and not args.quick
    folder = args.out or (RESULTS if whole else pathlib.Path("runs/acting"))
    write_results(folder, "acting", {"rows": results, "measured_on": measured_on}, "\n".join(lines))


if __name__ == "__main__":
    main()
