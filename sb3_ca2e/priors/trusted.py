"""Loads trusted agents with Stable-Baselines3's own loader, which runs code in their files."""

import base64
import io
import pathlib
import pickle
import warnings
from typing import Any

import yaml
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import ConstantSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.priors.find import AgentFiles, algorithm_class
from sb3_ca2e.priors.reader.attributes import saved_attributes


class _OldUnpickler(pickle.Unpickler):
    """Reads pickles from before gym was renamed to gymnasium."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "gym" or module.startswith("gym."):
            module = "gymnasium" + module[len("gym") :]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "numpy.core", DeprecationWarning)
            return super().find_class(module, name)


def load_policy(files: AgentFiles, observation_space: spaces.Space, action_space: spaces.Space) -> BasePolicy:
    """
    Load a policy with SB3's own loader.

    :param files: the agent's files
    :param observation_space: the learner's space, used if the saved one can't be read any more
    :param action_space: the environment's space, used if the saved one can't be read any more
    :return: the policy, on the CPU
    :raises ValueError: if networks and spaces do not match
    """
    schedules = ("lr_schedule", "clip_range", "exploration_schedule", "delta_std_schedule")
    custom_objects: dict[str, Any] = dict.fromkeys(schedules, ConstantSchedule(0.0))
    custom_objects |= {"learning_rate": 0.0, "buffer_size": 1}
    saved = saved_attributes(files.model)
    custom_objects["observation_space"] = _saved_space(saved["observation_space"], observation_space)
    custom_objects["action_space"] = _saved_space(saved["action_space"], action_space)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are probably loading a DQN model saved with SB3 < 2.4.0")
            model = algorithm_class(files.algorithm).load(files.model, device="cpu", custom_objects=custom_objects)
    except (RuntimeError, AttributeError) as error:  # weights of another shape, networks for other actions
        raise ValueError(
            f"{files.model} does not fit the spaces {custom_objects['observation_space']} and "
            f"{custom_objects['action_space']}: {error}"
        ) from error
    policy: BasePolicy = model.policy
    return policy


def policy_module(files: AgentFiles) -> str:
    """
    Return the module of the policy's class.

    :param files: the agent's files
    :return: name of the module
    """
    return str(saved_attributes(files.model)["policy_class"]["__module__"])


def load_vec_normalize(path: pathlib.Path) -> VecNormalize:
    """
    Load the statistics of a ``VecNormalize``.

    :param path: a ``vecnormalize.pkl``
    :return: the wrapper without an environment
    """
    normalize: VecNormalize = _OldUnpickler(io.BytesIO(path.read_bytes())).load()
    return normalize


def load_yaml(path: pathlib.Path) -> dict[str, Any]:
    """
    Load a YAML file with any of Python's tags.

    :param path: YAML file of the RL Zoo
    :return: its entries
    """
    entries: dict[str, Any] = dict(yaml.load(path.read_text(encoding="utf-8"), yaml.UnsafeLoader))
    return entries


def _saved_space(saved: dict[str, Any], live: spaces.Space) -> spaces.Space:
    try:
        space: Any = _OldUnpickler(io.BytesIO(base64.b64decode(saved[":serialized:"]))).load()
    except Exception:  # its classes may not exist any more
        return live
    return space if isinstance(space, spaces.Space) else live
