"""A native vector environment that steps all slots of a process at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_ca2e.envs.action_masks import reset_infos
from sb3_ca2e.envs.slot_monitor import EpisodeFiles


class SharedVecEnv:
    """
    A vector environment that is stepped once for all slots, with one seat for each slot.

    :param venv: vector environment with one environment for each slot, which resets itself at the end of an episode
    :param files: monitor files of each slot
    """

    def __init__(self, venv: VecEnv, files: Sequence[EpisodeFiles]):
        #: the vector environment
        self.venv = venv
        self._first: Any = None  # first observations of the current or the next episodes
        self._results: Any = None
        self._closed = False
        self.seats = [VecEnvSlot(self, position, each) for position, each in enumerate(files)]

    def step(self, actions: Any) -> None:
        """
        Step all slots.

        :param actions: one action for each slot
        """
        self._results = self.venv.step(np.asarray(actions))
        self._first = self._results[0]

    def result(self, position: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Return a slot's result of the last step.

        :param position: position of the slot
        :return: as a gymnasium environment returns it
        """
        observations, rewards, dones, infos = self._results
        done, info = bool(dones[position]), infos[position]
        raw = info["terminal_observation"] if done else _row(observations, position)
        truncated = done and bool(info.get("TimeLimit.truncated", False))
        return raw, rewards[position], done and not truncated, truncated, info

    def first(self, position: int) -> tuple[Any, dict[str, Any]]:
        """
        Return the first observation of a slot's next episode.

        :param position: position of the slot
        :return: the observation and its info
        """
        if self._first is None:
            self._first = self.venv.reset()
        _, _, dones, infos = self._results or (None, None, [True] * len(self.seats), ())
        info = reset_infos(self.venv)[position] if dones[position] else infos[position]
        return _row(self._first, position), info

    def close(self) -> None:
        """Close the vector environment; may be called more than once."""
        if not self._closed:
            self._closed = True
            self.venv.close()


class VecEnvSlot:
    """
    One slot of a vector environment, with the interface of a single environment.

    :param together: the vector environment
    :param position: position of the slot
    :param files: monitor files of the slot
    """

    def __init__(self, together: SharedVecEnv, position: int, files: EpisodeFiles):
        self._together, self._position, self._files = together, position, files

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """
        Return the first observation of the next episode.

        :param seed: unused: the vector environment was created with a seed
        :param options: unused: native environments take none
        :return: the observation and its info
        """
        return self._together.first(self._position)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Return the slot's part of the last step.

        :param action: unused: the step has been made for all slots
        :return: as a gymnasium environment returns it
        """
        result = self._together.result(self._position)
        self._files.write(result[-1])
        return result

    def env_method(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """
        Call a method of the slot's environment.

        :param method: name of the method
        :param args: its arguments
        :param kwargs: its keyword arguments
        """
        self._together.venv.env_method(method, *args, indices=[self._position], **kwargs)

    def set_attr(self, name: str, value: Any) -> None:
        """
        Set an attribute of the slot's environment.

        :param name: name of the attribute
        :param value: its value
        """
        self._together.venv.set_attr(name, value, indices=[self._position])

    def prior_retired(self) -> None:
        """Log to another file from now on: the learner plays."""
        self._files.prior_retired()

    def close(self) -> None:
        """Close the vector environment and the files."""
        self._together.close()
        self._files.close()


def _row(observations: Any, position: int) -> Any:
    if isinstance(observations, dict):
        return {key: values[position] for key, values in observations.items()}
    return observations[position]
