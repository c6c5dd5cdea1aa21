"""The model's own environment: made of what the user passed, reset, released."""

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import create_empty_array
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_ca2e.common.installing import naming_our_extras
from sb3_ca2e.envs.builder_vec_env import BuilderVecEnv


def made(env: Any, verbose: int = 0) -> Any:
    """
    Make an environment of an id, as SB3 does.

    :param env: what the user passed
    :param verbose: 1 to print the id
    :return: the environment, or ``env`` itself
    :raises gymnasium.error.Error: if there is no environment of this id, or it needs what is not installed
    """
    with naming_our_extras():
        return maybe_make_env(env, verbose)


def as_env(env: Any) -> Any:
    """
    Let a function that makes an environment stand for one, as environments and ``VecEnv`` do in SB3.

    :param env: what the user passed
    :return: a ``VecEnv`` that keeps the function, or ``env`` itself
    """
    if callable(env) and not isinstance(env, gym.Env | VecEnv):
        return BuilderVecEnv([lambda: _monitored_once(env())])
    return env


def _monitored_once(env: gym.Env) -> gym.Env:
    return env if is_wrapped(env, Monitor) else Monitor(env)


def asked_of_first_reset(env: VecEnv, n_slots: int) -> list[dict[str, Any]]:
    """
    :param env: the model's environment, as SB3 wrapped it
    :param n_slots: number of slots
    :return: what the first ``reset`` of each slot is given: what SB3's would be, seeds counted on for further slots
    """
    base: Any = env.unwrapped
    seeds, options = getattr(base, "_seeds", [None]), getattr(base, "_options", [{}])
    asked: list[dict[str, Any]] = []
    for slot in range(n_slots):
        seed = seeds[slot] if slot < len(seeds) else None if seeds[0] is None else seeds[0] + slot
        given = options[slot % len(options)]
        asked.append({"seed": seed} | ({"options": given} if given else {}))
    return asked


@contextlib.contextmanager
def not_reset(env: VecEnv) -> Iterator[None]:
    """
    Let nothing be done by ``env.reset()``, for a while: whoever steps the environments resets them.

    :param env: the model's environment
    """
    nothing: Any = create_empty_array(env.observation_space, env.num_envs, fn=np.zeros)
    if (normalize := unwrap_vec_normalize(env)) is not None:
        old: Any = create_empty_array(normalize.venv.observation_space, env.num_envs, fn=np.zeros)
        normalize.old_obs = old
    env.reset = lambda: nothing  # type: ignore[method-assign]
    try:
        yield
    finally:
        del env.reset
        forget_asked(env)


def forget_asked(env: VecEnv) -> None:
    """
    :param env: an environment of a model that has learned before, whose seed SB3 would set again
    """
    base: Any = env.unwrapped
    base._reset_seeds()


def release(env: VecEnv) -> None:
    """
    :param env: the model's environment, which is made anew when it is asked for, if it was made by functions
    """
    if isinstance(env.unwrapped, BuilderVecEnv):
        env.unwrapped.release()
