"""What the programs of both sides have in common."""

import pathlib
import traceback
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from differential.cases import Case, Making


def vectorized(case: Case, makings: list[Making], dummy: Any = DummyVecEnv) -> Any:
    """
    Make the vectorized environment of a program.

    :param case: the case
    :param makings: functions that make its environments
    :param dummy: class of an environment that is not in processes of its own
    :return: the environment with the wrappers of the case
    """
    return case.wrap(SubprocVecEnv(makings) if case.in_processes else dummy(makings))  # type: ignore[arg-type]


def arguments(observation_space: gym.Space, action_space: gym.Space) -> dict[str, Any]:
    """
    Choose arguments that SB3 and we take.

    :param observation_space: of the environment
    :param action_space: of the environment
    :return: policy and further arguments of a model that collects and does not learn
    """
    several = isinstance(observation_space, spaces.Dict)
    return {
        "policy": "MultiInputPolicy" if several else "MlpPolicy",
        "policy_kwargs": {"net_arch": [8]},
        "buffer_size": 1_000,
        "train_freq": 1,
        "gradient_steps": 0,
        "device": "cpu",
    }


def told(error: BaseException) -> dict[str, Any]:
    """
    Describe an exception.

    :param error: an exception
    :return: its type, message, and the file that raised it
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = pathlib.Path(frames[-1].filename).parts if frames else ()
    return {
        "type": type(error).__name__,
        "message": str(error),
        "where": next((name for name in ("sb3_ca2e", "stable_baselines3", "gymnasium") if name in where), where[-1]),
        "traceback": "".join(traceback.format_exception(error)),
    }
