"""What an environment says of itself: by it prior agents are found, and told what to expect."""

from collections.abc import Iterator
from dataclasses import dataclass

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv


@dataclass(frozen=True)
class EnvIdentity:
    """
    What an environment says of itself.

    :param env_id: its id, None if it was not made from one
    :param max_episode_steps: steps after which an episode is cut off, if there is such a limit
    :param wrappers: names of the classes that wrap it
    """

    env_id: str | None = None
    max_episode_steps: int | None = None
    wrappers: frozenset[str] = frozenset()


def identity_of(env: gym.Env) -> EnvIdentity:
    """
    :param env: an environment
    :return: what it says of itself
    """
    return _from_spec(env.spec, _wrappers(env))


def identity_of_vec(env: VecEnv) -> EnvIdentity:
    """
    :param env: a vectorized environment, wrapped or not
    :return: what the first of its environments says of itself; wrappers that are in another process stay unknown
    """
    base = env.unwrapped
    if isinstance(base, DummyVecEnv):
        return identity_of(base.envs[0])
    try:
        spec = env.get_attr("spec", 0)[0]
    except (AttributeError, NotImplementedError, OSError, EOFError):  # it has none, or its processes have ended
        spec = None
    return _from_spec(spec, frozenset())


def _from_spec(spec: gym.envs.registration.EnvSpec | None, wrappers: frozenset[str]) -> EnvIdentity:
    if spec is None:
        return EnvIdentity(wrappers=wrappers)
    return EnvIdentity(spec.id, spec.max_episode_steps, wrappers)


def _wrappers(env: gym.Env) -> frozenset[str]:
    return frozenset(type(layer).__name__ for layer in layers_of(env) if isinstance(layer, gym.Wrapper))


def layers_of(env: gym.Env) -> Iterator[gym.Env]:
    """
    :param env: an environment
    :return: it, and what it wraps, from the outside
    """
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env
