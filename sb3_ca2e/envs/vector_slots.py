"""A native vector environment, stepped once for all slots of a process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_ca2e.envs.slot_monitor import EpisodeFiles


class SharedVecEnv:
    """
    A vector environment with a seat for each slot: what is done to all is heard of at each seat.

    :param venv: one environment a slot, each beginning the next episode by itself
    :param files: monitor files of each slot
    """

    def __init__(self, venv: VecEnv, files: Sequence[EpisodeFiles]):
        self._venv = venv
        self._first = venv.reset()  # observations with which episodes begin: those under way, or those that come next
        self._results: Any = None
        self._closed = False
        self.seats = [VecEnvSlot(self, position, each) for position, each in enumerate(files)]

    def step(self, actions: Any) -> None:
        """
        One step of all slots.

        :param actions: one a slot
        """
        self._results = self._venv.step(np.asarray(actions))
        self._first = self._results[0]

    def result(self, position: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        :param position: of a slot
        :return: what a gymnasium environment would have returned for the last step
        """
        observations, rewards, dones, infos = self._results
        done, info = bool(dones[position]), infos[position]
        raw = info["terminal_observation"] if done else _row(observations, position)
        truncated = done and bool(info.get("TimeLimit.truncated", False))
        return raw, rewards[position], done and not truncated, truncated, info

    def first(self, position: int) -> Any:
        """
        :param position: of a slot
        :return: the observation with which its next episode begins
        """
        return _row(self._first, position)

    def close(self) -> None:
        """Close all; may be called more than once."""
        if not self._closed:
            self._closed = True
            self._venv.close()


class VecEnvSlot:
    """
    One slot's part of a vector environment, as an environment of its own.

    :param together: the vector environment
    :param position: of the slot
    :param files: its monitor files
    """

    def __init__(self, together: SharedVecEnv, position: int, files: EpisodeFiles):
        self._together, self._position, self._files = together, position, files

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """
        :param seed: unused: the vector environment was made with one
        :param options: unused, as native ones take none
        :return: the observation with which the next episode begins
        """
        return self._together.first(self._position), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        :param action: unused: the step has been made, with those of all slots
        :return: what a gymnasium environment would have returned
        """
        result = self._together.result(self._position)
        self._files.write(result[-1])
        return result

    def prior_retired(self) -> None:
        """From now on the learner plays: what it does goes to another file."""
        self._files.prior_retired()

    def close(self) -> None:
        """Close the vector environment, and the files."""
        self._together.close()
        self._files.close()


def _row(observations: Any, position: int) -> Any:
    if isinstance(observations, dict):
        return {key: values[position] for key, values in observations.items()}
    return observations[position]
