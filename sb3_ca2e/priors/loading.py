"""
Loads an agent's policy and preprocessing from its files.

Files that are not trusted are read without executing anything in them (``reader/``). Trusted ones are loaded by
Stable-Baselines3's own loader and unpickled, which runs code in them.
"""

import base64
import io
import pathlib
import pickle
import warnings
from typing import Any

import yaml
from gymnasium.spaces import Space
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import ConstantSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.priors.find import AgentFiles, algorithm_class, algorithms_with
from sb3_ca2e.priors.loaded import RECURRENT, refuse_recurrent
from sb3_ca2e.priors.reader.attributes import check_model, saved_attributes
from sb3_ca2e.priors.reader.config import read_yaml
from sb3_ca2e.priors.reader.errors import UntrustedAgentError
from sb3_ca2e.priors.reader.model import read_agent
from sb3_ca2e.priors.reader.statistics import read_vec_normalize
from sb3_ca2e.priors.trained_on import TrainedOn, frozen


def load_policy(files: AgentFiles, trust: bool, observation_space: Space, action_space: Space) -> BasePolicy:
    """
    Load an agent's policy.

    :param files: the agent's files
    :param trust: whether the files may run code
    :param observation_space: the learner's space, for a trusted file whose own can't be read any more
    :param action_space: the environment's space, for a trusted file whose own can't be read any more
    :return: the policy, on the CPU, with the spaces that it was trained on
    :raises UntrustedAgentError: if it can't be read without executing code
    :raises ValueError: if it can't be a prior agent
    """
    check_model(files.model)
    if trust:
        module = str(saved_attributes(files.model)["policy_class"]["__module__"])
        refuse_recurrent(str(files.model), [module])
        _refuse_misnamed(files, module)
        return _trusted_policy(files, observation_space, action_space)
    try:
        return read_agent(files.model, files.algorithm)
    except UntrustedAgentError as error:
        if RECURRENT in error.reason:
            refuse_recurrent(str(files.model), [RECURRENT])
        raise


def load_trained_on(files: AgentFiles, trust: bool) -> TrainedOn:
    """
    Load the preprocessing with which an agent was trained.

    :param files: the agent's files
    :param trust: whether the files may run code
    :return: the preprocessing between the environment and the policy
    :raises UntrustedAgentError: if it can't be read without executing code
    :raises ValueError: if the configuration can't be interpreted, or statistics are missing
    """
    statistics = None
    if files.normalization is not None:
        normalization = files.normalization
        statistics = frozen(load_vec_normalize(normalization)) if trust else read_vec_normalize(normalization)
    if files.config is None:
        return TrainedOn(files.env_id, statistics)
    if trust:
        config = dict(yaml.load(files.config.read_text(encoding="utf-8"), yaml.UnsafeLoader))
    else:
        config = read_yaml(files.config)
    try:
        return TrainedOn.from_config(config, files.env_id, statistics)
    except ValueError as error:
        raise ValueError(f"{files.config} can't be followed: {error}.") from error


def _refuse_misnamed(files: AgentFiles, policy_module: str) -> None:
    """Refuse a file in the folder of another algorithm, which would fail later with an unclear error."""
    algorithms = algorithms_with(policy_module)
    if algorithms and files.algorithm not in algorithms:
        raise ValueError(
            f"{files.model} is named as an agent of {files.algorithm}, but its policy is one of "
            f"{' or '.join(algorithms)} ({policy_module}). Name one of its folders, or the file, after the algorithm "
            "that trained it."
        )


class _OldUnpickler(pickle.Unpickler):
    """Reads pickles from before gym was renamed to gymnasium."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "gym" or module.startswith("gym."):
            module = "gymnasium" + module[len("gym") :]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "numpy.core", DeprecationWarning)
            return super().find_class(module, name)


def _trusted_policy(files: AgentFiles, observation_space: Space, action_space: Space) -> BasePolicy:
    """
    Load a policy with SB3's own loader, which runs code in the file.

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


def load_vec_normalize(path: pathlib.Path) -> VecNormalize:
    """
    Load the statistics of a ``VecNormalize``.

    :param path: a ``vecnormalize.pkl``
    :return: the wrapper without an environment
    """
    normalize: VecNormalize = _OldUnpickler(io.BytesIO(path.read_bytes())).load()
    return normalize


def _saved_space(saved: dict[str, Any], live: Space) -> Space:
    try:
        space: Any = _OldUnpickler(io.BytesIO(base64.b64decode(saved[":serialized:"]))).load()
    except Exception:  # its classes may not exist any more
        return live
    return space if isinstance(space, Space) else live
