"""Loads an agent's policy and preprocessing from its files."""

from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_ca2e.priors import trusted
from sb3_ca2e.priors.find import AgentFiles, algorithms_with
from sb3_ca2e.priors.loaded import RECURRENT, refuse_recurrent
from sb3_ca2e.priors.preprocessing import TrainedOn, frozen
from sb3_ca2e.priors.reader.attributes import check_model
from sb3_ca2e.priors.reader.config import read_yaml
from sb3_ca2e.priors.reader.errors import UntrustedAgentError
from sb3_ca2e.priors.reader.model import read_agent
from sb3_ca2e.priors.reader.statistics import read_vec_normalize


def load_policy(
    files: AgentFiles, trust: bool, observation_space: spaces.Space, action_space: spaces.Space
) -> BasePolicy:
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
        module = trusted.policy_module(files)
        refuse_recurrent(str(files.model), [module])
        _refuse_misnamed(files, module)
        return trusted.load_policy(files, observation_space, action_space)
    try:
        return read_agent(files.model, files.algorithm).policy
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
        statistics = frozen(trusted.load_vec_normalize(normalization)) if trust else read_vec_normalize(normalization)
    if files.config is None:
        return TrainedOn(files.env_id, statistics)
    config = trusted.load_yaml(files.config) if trust else read_yaml(files.config)
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
