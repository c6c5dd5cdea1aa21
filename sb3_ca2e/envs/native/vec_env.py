"""Vector environments that are stepped at once, with the function that makes them."""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_ca2e.envs.calls import overheard
from sb3_ca2e.envs.journal import Journal

#: Makes a vector environment from a number of environments and a seed (None for a random one).
Build = Callable[[int, int | None], VecEnv]


class NativeVecEnv(VecEnvWrapper):
    """
    Any ``VecEnv`` together with the function that makes it, which each actor process calls once for its slots.

    The slots of a process are stepped at once. Put ``VecFrameStack``, ``VecNormalize`` and ``VecMonitor`` around it and
    not into the function: actors reimplement them.

    :param build: function of a number of environments and a seed that returns a ``VecEnv`` of that many; it is pickled
        with cloudpickle, as in SB3's ``SubprocVecEnv``
    :param n_envs: number of environments of this object, in the user's process
    :param seed: seed of this object, None for a random one
    :raises TypeError: if the function does not return a ``VecEnv``
    :raises ValueError: if the function makes another number of environments, or normalises them
    """

    def __init__(self, build: Build, n_envs: int = 1, seed: int | None = None):
        if not callable(build):
            raise TypeError(f"NativeVecEnv takes a function of n_envs and seed that makes a VecEnv, not {build!r}.")
        super().__init__(built(build, n_envs, seed))
        self.build = build
        #: calls that environments of actors have to repeat
        self.journal = Journal()
        self._listening = contextlib.ExitStack()  # as long as this object exists
        self._listening.enter_context(overheard(self, self.journal.prepare))

    def reset(self) -> VecEnvObs:
        """
        Reset the environments.

        :return: first observations
        """
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the step to end.

        :return: observations, rewards, dones and infos
        """
        return self.venv.step_wait()


def built(build: Build, n_envs: int, seed: int | None) -> VecEnv:
    """
    Call a function that makes a vector environment, and check the result.

    :param build: function that makes a vector environment
    :param n_envs: number of environments
    :param seed: seed
    :return: the vector environment, in a ``VecMonitor`` if nothing in it counts episodes
    :raises TypeError: if it is not a ``VecEnv``
    :raises ValueError: if it has another number of environments, or normalises them
    """
    venv = build(n_envs, seed)
    if not isinstance(venv, VecEnv):
        raise TypeError(
            f"The function given to NativeVecEnv returned a {type(venv).__name__}; it takes a number of environments "
            "and a seed, and must return a stable_baselines3 VecEnv of that many."
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
    Base class of vector environments without Python environments: everything that SB3 asks of a ``VecEnv`` except
    stepping.

    :param n_envs: number of environments
    :param observation_space: observation space of one environment
    :param action_space: action space of one environment
    :param spec: gymnasium's spec of the environments
    """

    def __init__(self, n_envs: int, observation_space: gym.Space, action_space: gym.Space, spec: EnvSpec | None = None):
        self._attributes = {"spec": spec, "render_mode": None}
        self._started = time.time()
        super().__init__(n_envs, observation_space, action_space)

    def episode(self, total: float, length: int) -> dict[str, Any]:
        """
        Describe an episode that ends now, as ``Monitor`` does.

        :param total: its return
        :param length: its length
        :return: value of ``info["episode"]``
        """
        return {"r": round(float(total), 6), "l": int(length), "t": round(time.time() - self._started, 6)}

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Return ``spec`` or ``render_mode``.

        :param attr_name: ``spec`` or ``render_mode``
        :param indices: indices of environments
        :return: the value for each environment
        :raises AttributeError: for any other attribute
        """
        if attr_name not in self._attributes:
            raise AttributeError(f"{type(self).__name__} has no Python environments with an attribute {attr_name!r}.")
        return [self._attributes[attr_name]] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Not supported: there are no Python environments.

        :param attr_name: name of an attribute
        :param value: its value
        :param indices: indices of environments
        :raises NotImplementedError: always
        """
        raise NotImplementedError(f"{type(self).__name__} has no Python environments whose {attr_name!r} could be set.")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """
        Not supported: there are no Python environments.

        :param method_name: name of a method
        :param args: its arguments
        :param indices: indices of environments
        :param kwargs: its keyword arguments
        :raises NotImplementedError: always
        """
        raise NotImplementedError(f"{type(self).__name__} has no Python environments with a method {method_name!r}.")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        Check whether the environments behave as if wrapped: they count episodes, as ``Monitor`` does.

        :param wrapper_class: wrapper class of gymnasium
        :param indices: indices of environments
        :return: whether each has the wrapper's function
        """
        return [issubclass(wrapper_class, Monitor)] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[Any]:
        """
        Return no images.

        :return: None for each environment
        """
        return [None] * self.num_envs
