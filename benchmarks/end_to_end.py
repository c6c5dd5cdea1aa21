"""
Whole training runs, transitions a second, beside SB3 and async-gym-agents.

Each side has a process of its own, and they take turns. A side learns until ``learning_starts`` is past and its update
is compiled; then each measurement is a ``learn()`` that goes on, of which the second half counts. All sides have
networks of the same widths, the same batch size and the same updates per transition; ours has layer normalisation,
prioritized 3-step returns and, for DQN, double Q-learning too.

Usage::

    python benchmarks/end_to_end.py                            # all rows: twelve minutes
    python benchmarks/end_to_end.py --row ddpg-hopper --repeats 9
"""

import atexit
import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from rows import Row, argument_parser, run
from turns import Answer, peer_environment

ASYNC_GYM_AGENTS = ("--no-deps", "async-gym-agents==0.5.0", "torchinfo==1.8.0")
#: Of all sides. DQN's: with 8 environments, two updates a step are one for four transitions.
LEARNING_STARTS = 1_000
DDPG: dict[str, Any] = {
    "learning_starts": LEARNING_STARTS,
    "train_freq": 1,
    "gradient_steps": 1,
    "batch_size": 128,
    "policy_kwargs": {"net_arch": [64, 64]},
    "device": "cpu",
    "seed": 0,
}
DQN: dict[str, Any] = {
    "learning_starts": LEARNING_STARTS,
    "train_freq": 1,
    "gradient_steps": 2,
    "batch_size": 32,
    "buffer_size": 20_000,
    "exploration_initial_eps": 0.1,
    "exploration_final_eps": 0.1,
    "device": "cpu",
    "seed": 0,
}
N_ENVS = 8
#: Processes of async-gym-agents, which make whole episodes: more of them only take cores from the learner.
N_WORKERS = 2


def pong(native: bool = False, **arguments: Any) -> Any:
    """
    :param native: with ale-py's vectorised environment
    :param arguments: of SB3's ``make_atari_env``
    :return: eight environments with the paper's preprocessing
    """
    from sb3_ca2e import make_atari_env

    # The module's name lets the workers of SubprocVecEnv know the game too.
    env_id = "PongNoFrameskip-v4" if native else "ale_py:PongNoFrameskip-v4"
    return make_atari_env(env_id, N_ENVS, seed=0, native=native, **arguments)


def ours(row: str, n: int) -> Callable[[], Answer]:
    """
    :param row: name of the row
    :param n: transitions of a measurement
    :return: what measures transitions a second
    """
    from steady import steady_rate

    from sb3_ca2e import CA2EDDPG, CA2EDQN

    model: Any
    if row == "ddpg-hopper":
        model = CA2EDDPG("MlpPolicy", "Hopper-v5", compile=True, **DDPG)
        n *= 3  # about as long as the others
    else:
        model = CA2EDQN("CnnPolicy", pong(native=row.endswith("native")), compile=True, **DQN)
    model.learn(LEARNING_STARTS + n // 2)
    while not model._learner.compiled and model._learner.obstacle is None:
        model.learn(n, reset_num_timesteps=False)
    if model._learner.obstacle is not None:
        print(f"{row}: updates run eagerly: {model._learner.obstacle}", file=sys.stderr)
    return functools.partial(steady_rate, model, n)


def of_sb3(row: str, n: int) -> Callable[[], Answer]:
    """
    :param row: name of the row
    :param n: transitions of a measurement
    :return: what measures transitions a second
    """
    from stable_baselines3 import DDPG as SB3DDPG
    from stable_baselines3 import DQN as SB3DQN
    from stable_baselines3.common.vec_env import SubprocVecEnv
    from steady import steady_rate

    model: Any
    if row == "ddpg-hopper":
        model = SB3DDPG("MlpPolicy", "Hopper-v5", action_noise=_noise(), **DDPG)
    else:
        model = SB3DQN("CnnPolicy", pong(vec_env_cls=SubprocVecEnv), **DQN)
    model.learn(LEARNING_STARTS + n // 2)
    return functools.partial(steady_rate, model, n)


def of_async_gym_agents(row: str, n: int) -> Callable[[], Answer]:
    """
    :param row: name of the row
    :param n: transitions of a measurement
    :return: what measures transitions a second, used as its README says, with processes
    """
    import gymnasium as gym
    from async_gym_agents.agents.async_agent import get_injected_agent
    from async_gym_agents.envs.multi_env import IndexableMultiEnv
    from stable_baselines3 import DDPG as SB3DDPG
    from steady import steady_rate

    env = IndexableMultiEnv([functools.partial(gym.make, "Hopper-v5") for _ in range(N_WORKERS)])
    model = get_injected_agent(SB3DDPG)("MlpPolicy", env, use_mp=True, action_noise=_noise(), **DDPG)
    atexit.register(model.shutdown)
    model.learn(LEARNING_STARTS + n // 2)
    return functools.partial(steady_rate, model, n)


def _noise() -> Any:
    """Of SB3's DDPG, which explores without any otherwise; ours has its own for each slot."""
    import numpy as np
    from stable_baselines3.common.noise import NormalActionNoise

    return NormalActionNoise(np.zeros(3), np.full(3, 0.1))


_ALL_CORES = os.cpu_count() or 1
_PONG = Row(
    "",
    "transitions/s",
    {"sb3_ca2e": ours, f"SB3, SubprocVecEnv x{N_ENVS}": of_sb3},
    {f"SB3, SubprocVecEnv x{N_ENVS}": 1.3},
    n=1_200,
    threads={"sb3_ca2e": _ALL_CORES, f"SB3, SubprocVecEnv x{N_ENVS}": _ALL_CORES},
)
ROWS = {
    "ddpg-hopper": Row(
        "DDPG, Hopper-v5, 2 x 64, batch 128, an update a transition, one thread",
        "transitions/s",
        {"sb3_ca2e": ours, "SB3 x1": of_sb3, "async-gym-agents": of_async_gym_agents},
        {"SB3 x1": 4.0, "async-gym-agents": 4.0},
        n=3_000,
        pythons={
            "async-gym-agents": functools.partial(peer_environment, "async-gym-agents", ASYNC_GYM_AGENTS, beside=True)
        },
    ),
    "dqn-pong": dataclasses.replace(
        _PONG, what="DQN, Pong, CNN, batch 32, an update for 4 transitions, SB3's wrappers, all cores"
    ),
    "dqn-pong-native": dataclasses.replace(_PONG, what="the same, ours with ale-py's vectorised environment"),
}


def main() -> None:
    run(__file__, ROWS, argument_parser(__doc__, ROWS).parse_args())


if __name__ == "__main__":
    main()
