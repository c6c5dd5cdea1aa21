"""
Acting beside SB3's ``SubprocVecEnv`` and beside a bare loop, and what else decides how fast a run starts and grows.

Each side has a process of its own, and they take turns.

Usage::

    python benchmarks/acting.py                       # all rows: ten minutes
    python benchmarks/acting.py --row hopper --repeats 9
    python benchmarks/acting.py --quick               # measurements an eighth as long, and once
"""

import functools
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch as th
from asynchrony import SleepingEnv
from gymnasium import spaces
from rows import Row, Side, argument_parser, run
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
from steady import steady_rate
from turns import Answer

from sb3_ca2e import CA2EDDPG, CA2EDQN, make_atari_env
from sb3_ca2e.actors.inference import Inference
from sb3_ca2e.envs.recipe import recipe_from
from sb3_ca2e.learner.collector import Collector

gym.register_envs(ale_py)  # also in the workers of SubprocVecEnv, which import this module
N_PROCESSES, N_SLOTS = 2, 8
#: Exploration of all sides: random actions of this share, or noise of standard deviations as CA2E spreads them.
EPSILON, SIGMAS = 0.5, (0.05, 0.4)
SLEEP_SECONDS, MOST_PROCESSES = 0.002, 16


def environments(row: str, n_envs: int, **arguments: Any) -> Any:
    """
    :param row: "hopper", "pong", or "pong-native", which is native unless SB3's functions are to make it otherwise
    :param n_envs: number of environments
    :param arguments: of SB3's functions
    :return: a vectorized environment
    """
    if row == "hopper":
        return make_vec_env("Hopper-v5", n_envs, seed=0, **arguments)
    native = row == "pong-native" and not arguments
    return make_atari_env("PongNoFrameskip-v4", n_envs, seed=0, native=native, **arguments)


def algorithm(row: str, env: Any, **arguments: Any) -> Any:
    """
    :param row: "hopper", "pong" or "pong-native"
    :param env: its environment
    :param arguments: of the algorithm
    :return: a model of ours that only collects
    """
    common: dict[str, Any] = {"gradient_steps": 0, "learning_starts": 0, "buffer_size": 20_000, "device": "cpu"}
    common = {**common, "n_actors": N_SLOTS, "n_processes": N_PROCESSES, "seed": 0, **arguments}
    if row == "hopper":
        return CA2EDDPG("MlpPolicy", env, **common)
    epsilons: dict[str, Any] = {"exploration_initial_eps": EPSILON, "exploration_final_eps": EPSILON}
    return CA2EDQN("CnnPolicy" if row.startswith("pong") else "MlpPolicy", env, **epsilons, **common)


def ours(row: str, n: int) -> Callable[[], Answer]:
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
        core: Any = type(model)
        recipe = recipe_from(model.env)
        slots = range(N_SLOTS // N_PROCESSES)
        self.together = recipe.build_together(slots, [False] * len(slots), seed=0)
        self.envs: Any = self.together.seats if self.together is not None else [recipe.build(slot) for slot in slots]
        self.explore = explorer(model.action_space, len(self.envs))
        self.stacked = row.startswith("pong")
        space = model.observation_space
        self.batch = np.zeros((len(self.envs), *space.shape), dtype=space.dtype)
        self.policy = Inference(core, model.published_modules(), len(self.envs))
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
                if self.together is not None:
                    self.together.step(actions)
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


def sleeping(row: str, n: int, n_processes: int) -> Callable[[], Answer]:
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


_ACTING: dict[str, Side] = {"sb3_ca2e": ours, "SubprocVecEnv": subproc, "bare loop": bare}
_WHERE = f"{N_PROCESSES} processes, {N_SLOTS} slots"
_ALL_CORES = {"SubprocVecEnv": os.cpu_count() or 1}
ROWS = {
    "hopper": Row(
        f"Hopper-v5, MLP, {_WHERE}",
        "transitions/s",
        _ACTING,
        {"SubprocVecEnv": 2.5, "bare loop": 0.92},
        20_000,
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
    "pong-native": Row(
        f"Pong by ale-py's vector environment, peer by SB3's wrappers, CNN, {_WHERE}",
        "transitions/s",
        _ACTING,
        {"SubprocVecEnv": 2.5, "bare loop": 0.92},
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
        1_000,
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


def main() -> None:
    run(__file__, ROWS, argument_parser(__doc__, ROWS).parse_args())


if __name__ == "__main__":
    main()
