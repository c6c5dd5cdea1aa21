"""Wrappers of the programs under test. Actors import this module, so it imports little."""

import pickle
from typing import Any

import gymnasium as gym
import numpy as np

from differential import tape


class Recorder(gym.Wrapper):
    """
    Records what the environment returns, and the actions that it gets.

    :param env: the environment with all wrappers of the program
    :param folder: where the tapes are kept
    """

    def __init__(self, env: gym.Env, folder: str):
        super().__init__(env)
        self.folder = folder

    def reset(self, **kwargs: Any) -> Any:
        """
        Reset and record.

        :param kwargs: for the environment
        :return: what the environment returned
        """
        observation, info = self.env.reset(**kwargs)
        seed = kwargs.get("seed")
        tape.write(self, self.folder, {"seed": seed, **_parts(observation, info)})
        return observation, info

    def step(self, action: Any) -> Any:
        """
        Step and record.

        :param action: for the environment
        :return: what the environment returned
        """
        given = {"action": pickle.loads(pickle.dumps(action)), "action_digest": tape.digest(action)}
        observation, reward, terminated, truncated, info = self.env.step(action)
        ends = {"reward": reward, "terminated": terminated, "truncated": truncated}
        tape.write(self, self.folder, {**given, **_parts(observation, info), **ends})
        return observation, reward, terminated, truncated, info


def _parts(observation: Any, info: dict[str, Any]) -> dict[str, Any]:
    kept = tape.own_part(info) if isinstance(info, dict) else info
    return {
        "observation": observation,
        "info": {str(key): tape.digest(value) for key, value in kept.items()},
        "shown": {str(key): repr(value)[:80] for key, value in kept.items()},
    }


class Prescribed(gym.Wrapper):
    """
    Steps with actions of its own, the same ones in all environments, whatever action it gets.

    :param env: the environment
    :param seed: of the actions
    """

    def __init__(self, env: gym.Env, seed: int = 0):
        super().__init__(env)
        space = pickle.loads(pickle.dumps(env.action_space))
        space.seed(seed)
        self.actions = [space.sample() for _ in range(97)]
        self.n_steps = 0

    def reset(self, **kwargs: Any) -> Any:
        """
        Reset, and begin with the first action.

        :param kwargs: for the environment
        :return: what the environment returned
        """
        self.n_steps = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        """
        Step with the next prescribed action.

        :param action: ignored
        :return: what the environment returned
        """
        self.n_steps += 1
        return self.env.step(np.copy(self.actions[self.n_steps % 97])[()])


class Playback(gym.Env):
    """
    Returns what was recorded, whatever action it gets.

    :param records: a tape
    :param observation_space: of the environment that was recorded
    :param action_space: of the environment that was recorded
    """

    def __init__(self, records: list[dict[str, Any]], observation_space: gym.Space, action_space: gym.Space):
        self.records, self.position = records, -1
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """
        Return the first observation of the next recorded episode.

        :param seed: ignored
        :param options: ignored
        :return: the observation and no info
        """
        while self.position + 1 < len(self.records):
            self.position += 1
            if "action" not in self.records[self.position]:
                break
        return self.records[self.position]["observation"], {}

    def step(self, action: Any) -> Any:
        """
        Return the next recorded step.

        :param action: ignored
        :return: what was recorded, without the info
        """
        self.position += 1
        record = self.records[self.position]
        return *(record[name] for name in ("observation", "reward", "terminated", "truncated")), {}
