"""Environments of EnvPool, if it is installed."""

from functools import partial
from operator import itemgetter
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from torch.utils._pytree import tree_map

from sb3_ca2e.envs.native.vec_env import BatchVecEnv, NativeVecEnv
from sb3_ca2e.replay.stacks import by_key


def make_envpool_env(env_id: str, n_envs: int = 1, seed: int | None = None, **kwargs: Any) -> NativeVecEnv:
    """
    Make environments of EnvPool, which must be installed separately.

    For Atari, use ``stack_num=1`` and a ``VecFrameStack`` around the result, so that each frame is stored once.

    :param env_id: EnvPool's id, e.g. ``"Hopper-v5"``
    :param n_envs: number of environments
    :param seed: seed of the first environment; the others follow
    :param kwargs: arguments of ``envpool.make``
    :return: the environments
    :raises ImportError: if EnvPool is not installed
    """
    try:
        import envpool  # noqa: F401
    except ImportError as error:
        raise ImportError(f"EnvPool is not installed ({error}): pip install envpool.") from error
    return NativeVecEnv(partial(EnvPoolVecEnv, env_id, kwargs), n_envs, seed)


class EnvPoolVecEnv(BatchVecEnv):
    """
    EnvPool's environments as a ``VecEnv``.

    ``info["episode"]`` has return and length: of whole games with raw rewards, if EnvPool distinguishes them from lives
    and clipped rewards.

    :param env_id: EnvPool's id
    :param kwargs: arguments of ``envpool.make``
    :param n_envs: number of environments
    :param seed: seed of the first environment; the others follow
    """

    def __init__(self, env_id: str, kwargs: dict[str, Any], n_envs: int, seed: int | None = None):
        self._make = partial(_made, env_id, kwargs, n_envs)
        self._pool = self._make(seed)
        known = gym.spec(env_id) if env_id in gym.registry else None
        super().__init__(n_envs, self._pool.observation_space, self._pool.action_space, known)
        self._returns, self._lengths = np.zeros(n_envs), np.zeros(n_envs, dtype=int)

    def reset(self) -> Any:
        """
        Begin new episodes.

        :return: ``(n_envs, ...)`` first observations
        """
        if self._seeds[0] is not None:  # EnvPool takes a seed only at construction
            self._pool.close()
            self._pool = self._make(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        return _writable(self._pool.reset()[0])

    def step_async(self, actions: np.ndarray) -> None:
        """
        Keep the actions for :meth:`step_wait`.

        :param actions: one action for each environment
        """
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """
        Step the environments.

        :return: observations, rewards, dones and infos
        """
        observations, rewards, terminated, truncated, told = self._pool.step(self._actions)
        observations, dones = _writable(observations), terminated | truncated
        told = {key: value for key, value in told.items() if isinstance(value, np.ndarray)}
        self._returns += told.get("reward", rewards)
        self._lengths += 1
        infos = [{key: value[index] for key, value in told.items()} for index in range(self.num_envs)]
        if dones.any():
            over = dones & ((told["terminated"] > 0) | truncated) if "terminated" in told else dones
            for index in np.flatnonzero(dones).tolist():
                infos[index]["terminal_observation"] = _writable(tree_map(itemgetter(index), observations))
                infos[index]["TimeLimit.truncated"] = bool(truncated[index] and not terminated[index])
                if over[index]:
                    infos[index]["episode"] = self.episode(self._returns[index], self._lengths[index])
            self._returns[over], self._lengths[over] = 0, 0
            self._begin(observations, np.flatnonzero(dones))
        return observations, rewards, dones, infos

    def _begin(self, observations: Any, indices: np.ndarray) -> None:
        """Make the step with which EnvPool begins an episode; its reset would start a new game when a life is lost."""
        first = by_key(self._pool.step(self._actions[indices], indices.astype(np.int32))[0])
        for key, values in by_key(observations).items():
            values[indices] = first[key]

    def close(self) -> None:
        """Close the environments."""
        self._pool.close()


def _made(env_id: str, kwargs: dict[str, Any], n_envs: int, seed: int | None) -> Any:
    import envpool

    seeded = {} if seed is None else {"seed": seed % 2**31}  # EnvPool's seeds have 31 bits
    return envpool.make(env_id, env_type="gymnasium", num_envs=n_envs, **seeded, **kwargs)


def _writable(observations: Any) -> Any:
    """Copy observations: EnvPool reuses its arrays."""
    return tree_map(np.array, observations)
