"""The identity of an environment, by which prior agents are found and checked."""

from collections.abc import Iterator
from dataclasses import dataclass

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv


@dataclass(frozen=True)
class EnvIdentity:
    """
    Identity of an environment.

    :param env_id: its id, or None if it was not made from one
    :param max_episode_steps: steps after which an episode is truncated, or None
    :param wrappers: class names of its wrappers
    """

    env_id: str | None = None
    max_episode_steps: int | None = None
    wrappers: frozenset[str] = frozenset()


def identity_of(env: gym.Env) -> EnvIdentity:
    """
    Return the identity of an environment.

    :param env: an environment
    :return: its identity
    """
    wrappers = frozenset(type(layer).__name__ for layer in layers_of(env) if isinstance(layer, gym.Wrapper))
    return _from_spec(env.spec, wrappers)


def identity_of_vec(env: VecEnv) -> EnvIdentity:
    """
    Return the identity of a vectorized environment.

    :param env: a vectorized environment, wrapped or not
    :return: identity of its first environment; wrappers in another process are unknown
    """
    base = env.unwrapped
    if isinstance(base, DummyVecEnv):
        return identity_of(base.envs[0])
    try:
        spec = env.get_attr("spec", 0)[0]
    except (AttributeError, NotImplementedError, OSError, EOFError):  # no spec, or the processes have ended
        spec = None
    return _from_spec(spec, frozenset())


def _from_spec(spec: gym.envs.registration.EnvSpec | None, wrappers: frozenset[str]) -> EnvIdentity:
    return EnvIdentity(wrappers=wrappers) if spec is None else EnvIdentity(spec.id, spec.max_episode_steps, wrappers)


def layers_of(env: gym.Env) -> Iterator[gym.Env]:
    """
    Iterate over an environment and its inner environments.

    :param env: an environment
    :return: the environment and the environments that it wraps, outermost first
    """
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env
