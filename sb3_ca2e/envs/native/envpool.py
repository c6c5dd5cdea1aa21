"""EnvPool's environments, where it is installed."""

import time
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_ca2e.envs.native.vec_env import BatchVecEnv, NativeVecEnv


def make_envpool_env(env_id: str, n_envs: int = 1, seed: int | None = None, **kwargs: Any) -> NativeVecEnv:
    """
    Make environments of EnvPool, which is to be installed beside this package.

    For Atari, ``stack_num=1`` with a ``VecFrameStack`` around the result stores each frame once.

    :param env_id: EnvPool's name, e.g. ``"Hopper-v5"``
    :param n_envs: number of environments
    :param seed: of the first; others follow
    :param kwargs: of ``envpool.make``
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
    EnvPool's environments as SB3 takes them.

    An episode's ``info["episode"]`` has its return and length: of whole games with raw rewards, where EnvPool tells
    them apart from lives and clipped rewards.

    :param env_id: EnvPool's name
    :param kwargs: of ``envpool.make``
    :param n_envs: number of environments
    :param seed: of the first; others follow
    """

    def __init__(self, env_id: str, kwargs: dict[str, Any], n_envs: int, seed: int | None = None):
        self._make = partial(_made, env_id, kwargs, n_envs)
        self._pool = self._make(seed)
        known = gym.spec(env_id) if env_id in gym.registry else None
        super().__init__(n_envs, self._pool.observation_space, self._pool.action_space, known)
        self._returns, self._lengths = np.zeros(n_envs), np.zeros(n_envs, dtype=int)
        self._started = time.time()

    def reset(self) -> Any:
        """
        Begin new episodes.

        :return: ``(n_envs, ...)`` first observations
        """
        if self._seeds[0] is not None:  # which EnvPool takes only when it makes environments
            self._pool.close()
            self._pool = self._make(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        return _writable(self._pool.reset()[0])

    def step_async(self, actions: np.ndarray) -> None:
        """
        :param actions: one an environment
        """
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations, rewards, dones and infos
        """
        observations, rewards, terminated, truncated, told = self._pool.step(self._actions)
        observations, dones = _writable(observations), terminated | truncated
        told = {key: value for key, value in told.items() if isinstance(value, np.ndarray)}
        self._returns += told.get("reward", rewards)
        self._lengths += 1
        infos = [{key: value[index] for key, value in told.items()} for index in range(self.num_envs)]
        if dones.any():
            over = (told["terminated"] > 0) | truncated if "terminated" in told else dones
            for index in np.flatnonzero(dones).tolist():
                infos[index]["terminal_observation"] = _rows(observations, index)
                infos[index]["TimeLimit.truncated"] = bool(truncated[index] and not terminated[index])
                if over[index]:
                    infos[index]["episode"] = self._episode(index)
            self._begin(observations, np.flatnonzero(dones))
        return observations, rewards, dones, infos

    def _episode(self, index: int) -> dict[str, Any]:
        seconds = round(time.time() - self._started, 6)
        episode = {"r": round(float(self._returns[index]), 6), "l": int(self._lengths[index]), "t": seconds}
        self._returns[index], self._lengths[index] = 0, 0
        return episode

    def _begin(self, observations: Any, indices: np.ndarray) -> None:
        """Take the step with which EnvPool begins an episode; its reset would begin a new game where a life is lost."""
        first = self._pool.step(self._actions[indices], indices.astype(np.int32))[0]
        if isinstance(observations, dict):
            for key, values in observations.items():
                values[indices] = first[key]
        else:
            observations[indices] = first

    def close(self) -> None:
        """End the environments."""
        self._pool.close()


def _made(env_id: str, kwargs: dict[str, Any], n_envs: int, seed: int | None) -> Any:
    import envpool

    seeded = {} if seed is None else {"seed": seed % 2**31}  # it has 31 bits
    return envpool.make(env_id, env_type="gymnasium", num_envs=n_envs, **seeded, **kwargs)


def _writable(observations: Any) -> Any:
    """A copy: EnvPool's arrays are its own."""
    if isinstance(observations, dict):
        return {key: np.array(values) for key, values in observations.items()}
    return np.array(observations)


def _rows(observations: Any, index: int) -> Any:
    if isinstance(observations, dict):
        return {key: values[index].copy() for key, values in observations.items()}
    return observations[index].copy()
