"""Vector environments that are stepped as one, with the function that makes them."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

#: Makes a vector environment of so many environments, whose episodes follow from a seed; None for a random one.
Build = Callable[[int, int | None], VecEnv]


class NativeVecEnv(VecEnvWrapper):
    """
    A ``VecEnv`` of any kind, with the function that makes it: each actor process calls it once, for its own slots.

    The slots of a process are then stepped together. Put ``VecFrameStack``, ``VecNormalize`` and ``VecMonitor`` around
    it, where actors do their work, and not into the function.

    :param build: called with a number of environments and a seed, returns a ``VecEnv`` of that many; it is pickled
        with cloudpickle, as are the functions that SB3's ``SubprocVecEnv`` takes
    :param n_envs: environments of this one, in the user's own process
    :param seed: its seed, None for a random one
    :raises TypeError: if the function returns something else
    :raises ValueError: if it makes another number of environments, or normalises them
    """

    def __init__(self, build: Build, n_envs: int = 1, seed: int | None = None):
        if not callable(build):
            raise TypeError(f"NativeVecEnv takes a function of n_envs and seed that makes a VecEnv, not {build!r}.")
        super().__init__(built(build, n_envs, seed))
        self.build = build

    def reset(self) -> VecEnvObs:
        """
        :return: first observations
        """
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations, rewards, dones and infos
        """
        return self.venv.step_wait()


def built(build: Build, n_envs: int, seed: int | None) -> VecEnv:
    """
    :param build: makes a vector environment
    :param n_envs: number of environments
    :param seed: its seed
    :return: what it makes, with a ``VecMonitor`` where nothing counts episodes
    :raises TypeError: if it is no ``VecEnv``
    :raises ValueError: if it has another number of environments, or normalises them
    """
    venv = build(n_envs, seed)
    if not isinstance(venv, VecEnv):
        raise TypeError(
            f"The function given to NativeVecEnv returned a {type(venv).__name__}; it takes a number of environments "
            "and a seed, and is to return a stable_baselines3 VecEnv of that many."
        )
    if venv.num_envs != n_envs:
        raise ValueError(
            f"The function given to NativeVecEnv made {venv.num_envs} environments where it was asked for {n_envs}: "
            "every actor process asks for as many as it has slots."
        )
    if is_vecenv_wrapped(venv, VecNormalize):
        raise ValueError(
            "The function given to NativeVecEnv puts a VecNormalize around the environments, whose statistics the "
            "learner could not see; put it around the NativeVecEnv instead."
        )
    counted = is_vecenv_wrapped(venv, VecMonitor) or venv.env_is_wrapped(Monitor)[0]
    return venv if counted else VecMonitor(venv)


class BatchVecEnv(VecEnv):
    """
    What SB3 asks of a ``VecEnv`` beside steps, for environments that are no Python objects.

    :param n_envs: number of environments
    :param observation_space: of one of them
    :param action_space: of one of them
    :param spec: what gymnasium knows of them
    """

    def __init__(
        self,
        n_envs: int,
        observation_space: gym.Space,
        action_space: gym.Space,
        spec: gym.envs.registration.EnvSpec | None = None,
    ):
        self._attributes = {"spec": spec, "render_mode": None}
        super().__init__(n_envs, observation_space, action_space)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        :param attr_name: ``spec`` or ``render_mode``
        :param indices: of environments
        :return: its value for each
        :raises AttributeError: if it is another
        """
        if attr_name not in self._attributes:
            raise AttributeError(f"{type(self).__name__} has no Python environments with an attribute {attr_name!r}.")
        return [self._attributes[attr_name]] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        :param attr_name: any
        :param value: any
        :param indices: of environments
        :raises NotImplementedError: always
        """
        raise NotImplementedError(f"{type(self).__name__} has no Python environments whose {attr_name!r} could be set.")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """
        :param method_name: any
        :param args: any
        :param indices: of environments
        :param kwargs: any
        :raises NotImplementedError: always
        """
        raise NotImplementedError(f"{type(self).__name__} has no Python environments with a method {method_name!r}.")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        :param wrapper_class: of gymnasium
        :param indices: of environments
        :return: whether they do what it does: they count episodes, as ``Monitor`` does
        """
        return [issubclass(wrapper_class, Monitor)] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[Any]:
        """
        :return: nothing to see
        """
        return [None] * self.num_envs
