"""
What it takes to construct a model, and to start learning the second time.

"calls" are twenty of ``learn(1000, reset_num_timesteps=False)``, of which the first starts the server that actors are
forked from and does not count: seconds of one beyond SB3's. SB3's model is called in turns with ours, in the same
process, and both have SB3's defaults. "construction" is the median of ten models with a MuJoCo environment, of which
copies are made, loaded and compared: seconds beyond SB3's. "compiled-again" is how long a process takes to compile
DQN's update if an earlier one has done it.

Usage::

    python benchmarks/starting.py                  # all rows: some minutes
    python benchmarks/starting.py --row calls
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from rows import Row, argument_parser, run
from turns import Answer

#: Calls of each model; goal, seconds a call above SB3's.
N_CALLS, ABOVE_GOAL = 20, 0.3
#: Models that are constructed.
N_MODELS = 10
#: Goal, seconds to compile again.
AGAIN_GOAL = 5.0
#: What our side notes.
ABOVE, OF_SB3, FIRST = "above SB3's", "SB3's", "the first"
#: Compiles an update, and prints how many seconds that took.
COMPILES = """
import time
from sb3_ca2e import CA2EDQN
model = CA2EDQN("MlpPolicy", "CartPole-v1", n_actors=1, execution="sync", gradient_steps=0, compile=True, device="cpu")
model.learn(1000)
model.compile = False
model.train(1, 64)
model.compile, started = True, time.perf_counter()
model.train(1, 64)
assert model._learner.compiled, model._learner.obstacle
print(time.perf_counter() - started)
"""


def calls(row: str, n: int) -> Callable[[], Answer]:
    """
    :param row: its name
    :param n: transitions of a call
    :return: what measures the seconds of a call, and notes those of SB3's
    """
    from stable_baselines3 import DQN

    from sb3_ca2e import CA2EDQN

    def measure() -> Answer:
        models: dict[str, Any] = {
            "ours": CA2EDQN("MlpPolicy", "CartPole-v1", seed=0, device="cpu"),
            "theirs": DQN("MlpPolicy", "CartPole-v1", seed=0, device="cpu"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(N_CALLS):
            for name, model in models.items():
                started = time.perf_counter()
                model.learn(n, reset_num_timesteps=False)
                seconds[name].append(time.perf_counter() - started)
        ours, theirs = (statistics.mean(seconds[name][1:]) for name in models)
        return ours, {ABOVE: ours - theirs, OF_SB3: theirs, FIRST: seconds["ours"][0]}

    return measure


def construction(row: str, n: int) -> Callable[[], Answer]:
    """
    :param row: its name
    :param n: unused
    :return: what measures the seconds that it takes to construct a model, and notes those of SB3's
    """
    import gymnasium as gym
    from stable_baselines3 import DDPG

    from sb3_ca2e import CA2EDDPG

    algorithms: dict[str, Any] = {"ours": CA2EDDPG, "theirs": DDPG}

    def measure() -> Answer:
        seconds: dict[str, list[float]] = {name: [] for name in algorithms}
        for _ in range(N_MODELS):
            for name, algorithm in algorithms.items():
                env = gym.make("Hopper-v5")
                env.reset(seed=0)
                started = time.perf_counter()
                algorithm("MlpPolicy", env, buffer_size=1000, device="cpu")
                seconds[name].append(time.perf_counter() - started)
        ours, theirs = (statistics.median(seconds[name]) for name in algorithms)
        return ours, {ABOVE: ours - theirs, OF_SB3: theirs}

    return measure


def compiled_again(row: str, n: int) -> Callable[[], Answer]:
    """
    :param row: its name
    :param n: unused
    :return: what measures the seconds that a process takes to compile what another has, and notes those of the first
    """
    folder = tempfile.TemporaryDirectory()

    def seconds() -> float:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder.name}
        command = [sys.executable, "-c", COMPILES]
        return float(subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout)

    first = seconds()
    return lambda: (seconds(), {FIRST: first})


ROWS = {
    "calls": Row(
        "learn(1000) after another, the mean of 19",
        "s",
        {"sb3_ca2e": calls},
        {ABOVE: ABOVE_GOAL, OF_SB3: None, FIRST: None},
        n=1000,
        at_most=True,
    ),
    "construction": Row(
        "constructing a model on Hopper-v5, the median of 10",
        "s",
        {"sb3_ca2e": construction},
        {ABOVE: ABOVE_GOAL, OF_SB3: None},
        at_most=True,
    ),
    "compiled-again": Row(
        "compiling what an earlier process has compiled",
        "s",
        {"sb3_ca2e": compiled_again},
        {"": AGAIN_GOAL, FIRST: None},
        at_most=True,
    ),
}

if __name__ == "__main__":
    run(__file__, ROWS, argument_parser(__doc__, ROWS).parse_args())
