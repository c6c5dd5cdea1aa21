"""The model's own environment: creation, first reset, release."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import create_empty_array
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecCheckNan, VecEnv, unwrap_vec_normalize

from sb3_ca2e.common.installing import naming_our_extras
from sb3_ca2e.envs.builder_vec_env import BuilderVecEnv


def made(env: Any, verbose: int = 0) -> Any:
    """
    Make an environment from an id, as SB3 does.

    :param env: what the user passed
    :param verbose: 1 to print the id
    :return: the environment, or ``env`` itself if it is not an id
    :raises gymnasium.error.Error: if the id does not exist, or a dependency is not installed
    """
    with naming_our_extras():
        return maybe_make_env(env, verbose)


def as_env(env: Any) -> Any:
    """
    Turn a function that makes an environment into a ``VecEnv``.

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
    Return the arguments of each slot's first ``reset``.

    :param env: the model's environment, as SB3 wrapped it
    :param n_slots: number of slots
    :return: seed and options as SB3 would pass them; further slots get consecutive seeds
    """
    base: Any = env.unwrapped
    seeds, options = getattr(base, "_seeds", [None]), getattr(base, "_options", [{}])
    asked: list[dict[str, Any]] = []
    for slot in range(n_slots):
        seed = seeds[slot] if slot < len(seeds) else None if seeds[0] is None else seeds[0] + slot
        given = options[slot % len(options)]
        asked.append({"seed": seed} | ({"options": given} if given else {}))
    return asked


def first_resets(env: VecEnv, asked: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    """
    Reset the user's own environments, which actors will step, as their ``DummyVecEnv`` does.

    :param env: the model's environment, as SB3 wrapped it
    :param asked: arguments of each one's ``reset``
    :return: first observation and info of each
    """
    base: Any = env.unwrapped
    begun = tuple(own.reset(**arguments) for own, arguments in zip(base.envs, asked, strict=True))
    base.reset_infos = [info for _, info in begun]
    return begun


@contextlib.contextmanager
def not_reset(env: VecEnv) -> Iterator[None]:
    """
    Disable ``env.reset()`` while the context lasts: :func:`first_resets` does it.

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
    Drop the seed that the user set.

    :param env: environment of a model that has learned before, whose seed SB3 would set again
    """
    base: Any = env.unwrapped
    base._reset_seeds()


def release(env: VecEnv) -> None:
    """
    Close the model's environment if functions can make it again.

    :param env: the model's environment
    """
    if isinstance(env.unwrapped, BuilderVecEnv):
        env.unwrapped.release()


def nan_checks(env: VecEnv) -> list[VecCheckNan]:
    """
    Return the wrappers that may make an error of what is not finite; a callback may change whether they do.

    :param env: the model's environment
    :return: the wrappers
    """
    found = []
    layer: Any = env
    while (inside := vars(layer).get("venv")) is not None:
        if isinstance(layer, VecCheckNan):
            found.append(layer)
        layer = inside
    return found
